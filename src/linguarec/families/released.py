"""What a family tells `linguarec convert` about checkpoints of the released code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from torch import Tensor, nn

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError
from linguarec.sources.source import Asked, ItemSource
from linguarec.unpickling import unpickle

if TYPE_CHECKING:
    from linguarec.families.family import Family, ModelDescription


@dataclass(frozen=True)
class ReleasedFile:
    """A file of the released code, of whatever model: its `state` dict and what else it holds.

    `not_made`: classes that its pickle names and that were not made (see `linguarec.unpickling`).
    """

    file: Path
    state: dict[str, Any]
    content: dict[str, Any]
    not_made: list[str]


@dataclass(frozen=True)
class ConversionRequest:
    """What a conversion was asked for beside the file.

    `families`: by name. `told`: settings of the released code from elsewhere, which win over those of the file. `dataset`:
    whose items become the catalogue; `asked`: what of it is read. The others are flags of `linguarec convert`.
    """

    families: "Mapping[str, Family]"
    told: Mapping[str, Any]
    dataset: PreparedDataset | None
    asked: Asked
    item_ids: Path | None = None
    word_embeddings: Path | None = None
    window: int | None = None


@dataclass(frozen=True)
class Converted:
    """A released checkpoint as a model of ours.

    `items`: `raw_id`, attributes and `text` of its catalogue in row order, None = it has none. `source`: of these items, or
    of none. `keys` [N, Dk]: of the items, where the checkpoint holds them itself. `carried`: tensors that have no place in
    the model, kept for the way back. `settings`: what settings.json records. `told`: what the user is told.
    """

    title: str
    description: "ModelDescription"
    network: nn.Module
    source: ItemSource
    items: pa.Table | None = None
    attributes: list[str] = field(default_factory=list)
    text_rules: str = "released"
    keys: Tensor | None = None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a model, opened to be written as a checkpoint of the released code.

    `carried`: as `Converted` told it. `settings`: the folder's settings.json.
    """

    folder: Path
    description: "ModelDescription"
    network: nn.Module
    carried: Mapping[str, Tensor]
    settings: Mapping[str, Any]


class Released(Protocol):
    """The released checkpoints of one or several families. `marks`: the keys that tell them, for messages."""

    marks: str

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a state dict with these keys is such a checkpoint."""

    def read(self, released: ReleasedFile, request: ConversionRequest) -> Converted:
        """The model that a file holds.

        Raises:
            CheckpointMismatchError: the file does not fit, or settings are missing or contradict it.
            SettingsError: a flag says nothing to this kind of checkpoint.
        """

    def write(self, model: ModelFolder, output: Path, overwrite: bool) -> dict[str, Any]:
        """Write a model as the released code does; what was written, for the user.

        Raises:
            CheckpointMismatchError: the released code has no such model.
            OutputError: a file beside `output` exists already.
        """


def read_released(file: Path) -> ReleasedFile:
    """Read a file with a state dict, alone or under `state_dict`; nothing in it is run.

    Raises:
        CheckpointMismatchError: it cannot be read, or holds none.
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
