"""A model as `config.json` + `model.safetensors`; `linguarec.families.opening` reads `config.json`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from linguarec.bounds import check_sizes, shapes_in
from linguarec.checks import sizes_of_weights
from linguarec.errors import CheckpointMismatchError
from linguarec.families.family import ModelDescription
from linguarec.files import write_json, writing_file
from linguarec.regular import check_regular
from linguarec.seals import seal
from linguarec.sources.tokens import TOKENS_FOLDER
from linguarec.stored import AGAIN
from linguarec.training.stages import STAGE_FILE

CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE = "config.json", "model.safetensors", "settings.json"
SETTINGS_PATHS = ("data", "valid", "folder", "backbone")  # keys of settings.json whose values are paths or names


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
    seal(folder, _needed)


def _needed(name: str) -> bool:
    if name.startswith(f"{TOKENS_FOLDER}/"):
        return True
    return (
        "/" not in name and name != STAGE_FILE and name.endswith((".json", ".safetensors", ".npy", ".npz", ".parquet"))
    )


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the safetensors `file` into `model`.

    Raises:
        CheckpointMismatchError: it cannot be read, or tensors are missing, unexpected or of another shape; all are named.
    """
    _check_fit(model, file, _shapes(file))
    model.load_state_dict(load_file(file))


def check_buildable(description: ModelDescription, folder: Path) -> None:
    """Refuse a description whose network has other tensors than the weights in `folder`, before it takes memory.

    Raises:
        CheckpointMismatchError: it cannot be read, or tensors are missing, unexpected or of another shape; all are named.
    """
    file = folder / WEIGHTS_FILE
    shapes = _shapes(file)
    for settings in (description.config, description.encoder):
        if settings is not None:
            sizes = {name: getattr(settings, name) for name in sizes_of_weights(settings)}
            check_sizes(sizes, folder / CONFIG_FILE, [file], CheckpointMismatchError)
    try:
        with torch.device("meta"):
            network = description.build()
    except RuntimeError as error:  # more elements than 64 bits count
        raise CheckpointMismatchError(
            f"{folder / CONFIG_FILE} describes no network that fits: {error}. {AGAIN}"
        ) from error
    _check_fit(network, file, shapes)


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    check_regular(file, CheckpointMismatchError)
    try:
        return shapes_in(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointMismatchError(f"{file} cannot be read as safetensors: {error}. {AGAIN}") from error


def _check_fit(model: nn.Module, file: Path, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    problems = [f"missing: {key}" for key in expected if key not in found]
    problems += [f"unexpected: {key}" for key in found if key not in expected]
    problems += [
        f"{key}: shape {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if problems:
        raise CheckpointMismatchError(f"{file} does not fit the model:\n" + "\n".join(problems))
