"""A model as `config.json` + `model.safetensors`; `linguarec.families.opening` reads `config.json`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linguarec.errors import CheckpointMismatchError
from linguarec.families.family import ModelDescription
from linguarec.files import write_json, writing_file
from linguarec.regular import check_regular
from linguarec.seals import seal
from linguarec.sources.tokens import TOKENS_FOLDER
from linguarec.stored import AGAIN
from linguarec.training.stages import STAGE_FILE

_TYPES = {  # names in safetensors files
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE = "config.json", "model.safetensors", "settings.json"
PARTS_FOLDER = "parts"  # of a model that is made of others
SETTINGS_PATHS = (
    "data",
    "valid",
    "folder",
    "backbone",
    "sources",
)  # keys of settings.json whose values are paths or names


def save_model(model: nn.Module, description: ModelDescription, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each atomically."""
    write_json(folder / CONFIG_FILE, description.to_dict())
    save_weights(model, folder / WEIGHTS_FILE)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the state dict as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with writing_file(file, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        save_file(tensors, temporary)


def seal_model(folder: Path) -> None:
    """Seal the files that a model folder needs to be opened; results, plots and folders of earlier stages are not sealed."""
    seal(folder, needed)


def needed(name: str) -> bool:
    """Whether a file, by its path in a model folder, is needed to open the model."""
    if name.startswith((f"{TOKENS_FOLDER}/", f"{PARTS_FOLDER}/")):
        return True
    return (
        "/" not in name and name != STAGE_FILE and name.endswith((".json", ".safetensors", ".npy", ".npz", ".parquet"))
    )


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the safetensors `file` into `model`.

    Raises:
        CheckpointMismatchError: it cannot be read, or tensors are missing, unexpected or of another shape; all are named.
    """
    check_tensors(model.state_dict(), file)
    tensors = read_tensors(file)
    if bad := [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
        raise CheckpointMismatchError(f"{file} holds NaN or an infinity in {', '.join(bad)}. {AGAIN}")
    model.load_state_dict(tensors)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, by name.

    Raises:
        CheckpointMismatchError: it cannot be read.
    """
    check_regular(file, CheckpointMismatchError)
    with reading_tensors(file):
        return load_file(file)


def check_tensors(expected: Mapping[str, Tensor], file: Path) -> None:
    """Compare the names, types and shapes in the head of a safetensors file with those of a state dict.

    Raises:
        CheckpointMismatchError: the file cannot be read, or tensors are missing, unexpected or others; all are named.
    """
    check_regular(file, CheckpointMismatchError)
    found = {}
    with reading_tensors(file), safe_open(file, "pt") as opened:
        for key in opened.keys():  # noqa: SIM118  # it is no dictionary
            part = opened.get_slice(key)
            found[key] = (_TYPES.get(part.get_dtype()), tuple(part.get_shape()))
    problems = [f"missing: {key}" for key in expected if key not in found]
    problems += [f"unexpected: {key}" for key in found if key not in expected]
    for key in expected.keys() & found.keys():
        dtype, shape = found[key]
        wanted = tuple(expected[key].shape)
        if shape != wanted:
            problems.append(f"{key}: shape {shape}, expected {wanted}")
        if dtype != expected[key].dtype:
            problems.append(f"{key}: {dtype or 'unknown numbers'}, expected {expected[key].dtype}")
    if problems:
        raise CheckpointMismatchError(f"{file} does not fit the model:\n" + "\n".join(problems))


@contextmanager
def reading_tensors(file: Path) -> Iterator[None]:
    """Errors of reading a safetensors file name it.

    Raises:
        CheckpointMismatchError: it cannot be read.
    """
    try:
        yield
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise CheckpointMismatchError(f"{file} cannot be read as safetensors: {error}. {AGAIN}") from error
