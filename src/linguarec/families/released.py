"""Read files of the released code without running code from them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from linguarec.errors import CheckpointMismatchError
from linguarec.families.family import ReleasedFile
from linguarec.unpickling import unpickle


def read_released(file: Path) -> ReleasedFile:
    """Read a file with a state dict, at the top level or under `state_dict`; no code from it is run.

    Raises:
        CheckpointMismatchError: it cannot be read, or holds no state dict.
    """
    unpickled = unpickle(file)
    content = unpickled.content
    if not isinstance(content, dict):
        raise CheckpointMismatchError(f"{file} holds a {type(content).__name__}, expected a dict with a `state_dict`.")
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointMismatchError(f"{file}: its `state_dict` is {state!r:.80}, expected names and tensors.")
    return ReleasedFile(file, state, content, unpickled.not_made)


def state_problems(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor that is missing or of another shape than `expected`."""
    return [
        f"{name}: {tuple(found[name].shape) if name in found else 'missing'}, needed {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in found or found[name].shape != tensor.shape
    ]
