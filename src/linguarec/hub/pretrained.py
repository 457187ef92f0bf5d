"""save_pretrained / from_pretrained: a model as `config.json` + `model.safetensors`.

`config.json` holds all that the tensors cannot tell; `from_pretrained` needs nothing else.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from linguarec.errors import CheckpointMismatchError
from linguarec.files import write_json, writing_file
from linguarec.models import MODELS, build_model
from linguarec.models.shape import CatalogueShape
from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig
from linguarec.stored import read_json

ENCODERS: dict[str, type[Any]] = {"transformer": TransformerConfig, "gru": GRUConfig}
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
# Beside them in the folder of a model that has no catalogue yet: what its text vectors and codes are made by.
ENCODER_FILE, BOOK_FILE = "encoder.json", "code_book.npz"
# Beside a model that reads tokens: how items become tokens.
SENTENCES_FILE = "sentences.json"
AGAIN = "Copy the folder again, or train the model anew."


def encoder_kind(config: EncoderConfig) -> str:
    """Name in `ENCODERS` of the sequence encoder with these settings."""
    return next(name for name, of_kind in ENCODERS.items() if isinstance(config, of_kind))


@dataclass(frozen=True)
class ModelDescription:
    """What `config.json` says: a name of `MODELS`, its config, its sequence encoder's config, and the sizes of its data.

    `encoder` is None for models that read tokens, which have none beside themselves.
    """

    name: str
    config: Any
    encoder: EncoderConfig | None
    shape: CatalogueShape

    def build(self) -> nn.Module:
        """The model, freshly initialised."""
        return build_model(self.name, self.config, self.encoder, self.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        encoder: dict[str, Any] | None = None
        if self.encoder is not None:
            encoder = {"kind": encoder_kind(self.encoder), **asdict(self.encoder)}
        return {
            "format_version": 1,
            "model": self.name,
            "config": asdict(self.config),
            "encoder": encoder,
            "shape": asdict(self.shape),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any], file: Path) -> "ModelDescription":
        """Inverse of `to_dict`; `file` is named in errors."""
        try:
            name = content["model"]
            if name not in MODELS:
                raise CheckpointMismatchError(
                    f"{file}: unknown model {name!r}; this linguarec has: {', '.join(MODELS)}."
                )
            shape = CatalogueShape(**content["shape"])
            config = MODELS[name].config(**content["config"])
            if MODELS[name].reads == "tokens":
                return cls(name, config, None, shape)
            encoder = dict(content["encoder"])
            kind = encoder.pop("kind")
            if kind not in ENCODERS:
                raise CheckpointMismatchError(
                    f"{file}: unknown sequence encoder {kind!r}; known: {', '.join(ENCODERS)}."
                )
            return cls(name, config, ENCODERS[kind](**encoder), shape)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            if "model_type" in content:
                reason += (
                    f"; it is of a {content['model_type']!r} model of transformers, which `linguarec encode --encoder` and "
                    "Recformer's --backbone read"
                )
            raise CheckpointMismatchError(f"{file} does not describe a model of this linguarec: {reason}.") from error


def save_pretrained(model: nn.Module, description: ModelDescription, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, each atomically."""
    write_json(folder / CONFIG_FILE, description.to_dict())
    save_weights(model, folder / WEIGHTS_FILE)


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the state dict as safetensors, atomically."""
    with writing_file(file) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)


def read_description(folder: Path) -> ModelDescription:
    """What `folder/config.json` describes.

    Raises:
        CheckpointMismatchError: there is no such file or it is not one of ours.
    """
    file = folder / CONFIG_FILE
    if folder.is_file():
        raise CheckpointMismatchError(
            f"{folder} is a file, expected a model folder of linguarec; `linguarec convert {folder} -o FOLDER` makes one of "
            "a released checkpoint."
        )
    if not file.is_file():
        raise CheckpointMismatchError(
            f"{folder} holds no model: {f'{CONFIG_FILE} is missing' if folder.exists() else 'there is no such folder'}. "
            "Expected a run folder of linguarec."
        )
    return ModelDescription.from_dict(read_json(file, CheckpointMismatchError, AGAIN), file)


def from_pretrained(folder: Path) -> tuple[nn.Module, ModelDescription]:
    """The model in evaluation mode, with its description.

    Raises:
        CheckpointMismatchError: the folder holds no model, or its tensors do not fit its description.
    """
    description = read_description(folder)
    model = description.build()
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval(), description


def load_weights(model: nn.Module, file: Path) -> None:
    """Load the safetensors `file` into `model`, naming every key that is missing, unexpected or of another shape."""
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
