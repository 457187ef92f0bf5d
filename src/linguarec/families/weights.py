"""A model as `config.json` + `model.safetensors`; `linguarec.families.opening` reads `config.json`."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from linguarec.errors import CheckpointMismatchError
from linguarec.families.family import ModelDescription
from linguarec.files import write_json, writing_file
from linguarec.stored import AGAIN

CONFIG_FILE, WEIGHTS_FILE, SETTINGS_FILE = "config.json", "model.safetensors", "settings.json"
SETTINGS_PATHS = ("data", "valid", "folder", "backbone")  # keys of settings.json whose values are paths or names


def save_model(model: nn.Module, description: ModelDescription, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each atomically."""
    write_json(folder / CONFIG_FILE, description.to_dict())
    save_weights(model, folder / WEIGHTS_FILE)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the state dict as safetensors, atomically."""
    with writing_file(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the safetensors `file` into `model`.

    Raises:
        CheckpointMismatchError: it cannot be read, or tensors are missing, unexpected or of another shape; all are named.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointMismatchError(f"{file} cannot be read as safetensors: {error}. {AGAIN}") from error
    expected = model.state_dict()
    problems = [f"missing: {key}" for key in expected if key not in tensors]
    problems += [f"unexpected: {key}" for key in tensors if key not in expected]
    problems += [
        f"{key}: shape {tuple(tensors[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    if problems:
        raise CheckpointMismatchError(f"{file} does not fit the model:\n" + "\n".join(problems))
    model.load_state_dict(tensors)
