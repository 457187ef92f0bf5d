"""A model that another training starts from: what `--from FOLDER` takes over, and what it refuses.

FOLDER is a pre-training run, a converted checkpoint or a fine-tuning run: `config.json` and `model.safetensors`, and, where
they are known, `encoder.json` (whose vectors it read) and its code book.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from linguarec.codes.codebook import CodeBook
from linguarec.data.dataset import FeatureInfo, read_feature_info
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.given import given
from linguarec.hub.pretrained import (
    AGAIN,
    BOOK_FILE,
    ENCODER_FILE,
    WEIGHTS_FILE,
    ModelDescription,
    encoder_kind,
    from_pretrained,
)
from linguarec.models import MODELS
from linguarec.nn.encoders import EncoderConfig, GRUConfig, TransformerConfig
from linguarec.recipes.runs import CURVE_FILE, METRICS_FILE, is_main_process
from linguarec.recommender import CODES_FILE
from linguarec.training.settings import PermutationSettings

log = logging.getLogger(__name__)
PERMUTED = ("permutation", "direct", "reuse")
# One row an item: never carried to another catalogue.
CATALOGUE_TENSORS = ("item.weight",)
# What the weights were made for; every other setting (dropout, temperature, ...) may be chosen anew.
WEIGHTS_NEED = (
    "hidden_size",
    "layers",
    "heads",
    "inner_size",
    "max_length",
    "layer_norm_eps",
    "experts",
    "vocabulary",
    "max_items",
    "positions",
    "first_position",
)


@dataclass(frozen=True)
class Start:
    """An opened FOLDER. `encoder`: of the vectors that it read; `book`: of the codes. Both are None where not known."""

    folder: Path
    network: nn.Module
    description: ModelDescription
    encoder: FeatureInfo | None
    book: CodeBook | None

    @classmethod
    def read(cls, folder: Path) -> "Start":
        """Open `folder`; a training that has not finished is warned of.

        Raises:
            CheckpointMismatchError: it holds no model, or its parts do not fit together.
        """
        network, description = from_pretrained(folder)
        _warn_if_unfinished(folder)
        file = folder / ENCODER_FILE
        encoder = read_feature_info(file, CheckpointMismatchError, AGAIN) if file.exists() else None
        files = [folder / name for name in (BOOK_FILE, CODES_FILE) if (folder / name).exists()]
        book = CodeBook.load(files[0]) if files else None
        shape = description.shape
        if book is not None and (book.subvectors, book.num_centroids) != (shape.code_books, shape.centroids):
            raise CheckpointMismatchError(
                f"{files[0]} has {book.subvectors} books of {book.num_centroids} codes, but the model beside it "
                f"{shape.code_books} of {shape.centroids}; they do not belong together."
            )
        return cls(folder, network, description, encoder, book)

    @property
    def name(self) -> str:
        """The model's name in `MODELS`."""
        return self.description.name

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, hexadecimal."""
        with (self.folder / WEIGHTS_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def check_model(self, model: str) -> None:
        """Refuse a folder that `model` cannot start from.

        Raises:
            CheckpointMismatchError: the folder holds another model.
        """
        if MODELS[self.name].config is not MODELS[model].config:
            raise CheckpointMismatchError(
                f"{self.folder} holds a {self.name}, and {model} cannot start from it; fine-tune {self.name}, or name "
                f"a folder that holds a {model}."
            )

    def merged(self, own: Any, asked: Any, group: str) -> tuple[Any, list[str]]:
        """The settings `own` with those of `asked` that were given, and what cannot be changed."""
        changes: dict[str, Any] = {}
        kept, problems = [], []
        named = {} if asked is None else given(asked)
        for field in fields(asked) if asked is not None else ():
            value, theirs = named.get(field.name, field.default), getattr(own, field.name)
            if value == theirs:
                continue
            if field.name not in named:
                if field.name not in (*WEIGHTS_NEED, "language_head"):
                    kept.append(f"{group}.{field.name} {theirs}")
                continue
            if field.name in WEIGHTS_NEED:
                problems.append(
                    f"--{group}.{field.name} {value}: the weights of {self.folder} are for {theirs}; leave the flag out"
                )
            changes[field.name] = value
        if kept and is_main_process():
            log.info("settings of %s that are not the defaults are kept: %s", self.folder, ", ".join(kept))
        try:
            return replace(own, **changes), problems
        except ValueError as error:
            return own, [*problems, f"--{group}.* with the weights of {self.folder}: {error}"]


@cache
def _warn_if_unfinished(folder: Path) -> None:
    """Say so, once, where the training of `folder` goes on or was broken off: it may still find better weights."""
    if (folder / CURVE_FILE).exists() and not (folder / METRICS_FILE).exists() and is_main_process():
        log.warning("%s is of a training that has not finished; its best weights so far are taken", folder)


def settings_of(
    start: Start | None,
    model: str,
    config: Any,
    kind: Literal["transformer", "gru"] | None,
    transformer: TransformerConfig | None,
    gru: GRUConfig | None,
) -> tuple[Any, EncoderConfig]:
    """The model's and the sequence encoder's settings: as asked for, or those of a start, changed where that was asked for.

    Beside a start, what was given counts as asked for (see `given`).

    Raises:
        SettingsError: other settings than the weights need; each is named with both values.
        CheckpointMismatchError: the start's folder holds another model.
    """
    if start is None:
        unread, given = ("transformer", transformer) if kind == "gru" else ("gru", gru)
        if given is not None and given != type(given)():
            asked = "gru" if unread == "gru" else "transformer (the default)"
            raise SettingsError([f"--{unread}.*: the sequence encoder is another; ask for --sequence-encoder {asked}"])
        encoder = (gru or GRUConfig()) if kind == "gru" else (transformer or TransformerConfig())
        return config or MODELS[model].config(), encoder
    start.check_model(model)
    if MODELS[model].reads == "ids":
        raise SettingsError([f"{model} knows items by ID only: nothing that it learned carries over to other items"])
    own = start.description.encoder
    assert own is not None
    own_kind = encoder_kind(own)
    problems = []
    if kind is not None and kind != own_kind:
        problems.append(f"--sequence-encoder {kind}: the one of {start.folder} is a {own_kind}; leave the flag out")
    other_kind, other = ("gru", gru) if own_kind == "transformer" else ("transformer", transformer)
    if other is not None and other != type(other)():
        problems.append(f"--{other_kind}.*: the sequence encoder of {start.folder} is a {own_kind}")
    encoder, differing = start.merged(own, transformer if own_kind == "transformer" else gru, own_kind)
    merged, also_differing = start.merged(start.description.config, config, "model")
    problems += differing + also_differing
    if problems:
        raise SettingsError(problems)
    return merged, encoder


def check_other_folder(from_: Path | None, output: Path) -> None:
    """Refuse a training that would replace what it starts from.

    Raises:
        SettingsError: both are one folder.
    """
    if from_ is not None and from_.resolve() == output.resolve():
        raise SettingsError([f"--from and --output are both {output}; write the run into another folder"])


def take_over(
    start: Start,
    network: nn.Module,
    mode: str | None = None,
    frozen: str = "none",
    permutation: PermutationSettings | None = None,
    new: Collection[str] = CATALOGUE_TENSORS,
    grown: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Any]:
    """Load the start's weights into `network` and fix what is to be fixed; what was done, as settings.json records it.

    Args:
        start: whose weights are loaded.
        network: a new model.
        mode: of the fine-tuning; recorded, with the settings of the permutation where one is to be learned.
        frozen: "encoder" fixes the sequence encoder.
        permutation: see `mode`.
        new: names of the tensors of `network` that are not loaded, if it has them.
        grown: tensors to be loaded instead of the start's own.

    Raises:
        CheckpointMismatchError: a tensor is missing or of another shape.
    """
    theirs, ours = start.network.state_dict() | dict(grown), network.state_dict()
    loaded = [name for name in ours if name not in new]
    problems = [
        f"{name}: {'missing' if name not in theirs else tuple(theirs[name].shape)}, needed {tuple(ours[name].shape)}"
        for name in loaded
        if name not in theirs or theirs[name].shape != ours[name].shape
    ]
    if problems:
        raise CheckpointMismatchError(f"The model in {start.folder} does not fit:\n" + "\n".join(problems))
    network.load_state_dict({**ours, **{name: theirs[name] for name in loaded}})
    if frozen == "encoder":
        freeze_encoder(network)
    return {
        "folder": str(start.folder),
        "model": start.name,
        "weights_sha256": start.weights_sha256,
        "mode": mode,
        "frozen": frozen,
        "permutation": asdict(permutation) if permutation is not None and mode == "permutation" else None,
        "loaded": loaded,
        "new": [name for name in ours if name in new],
        "left_out": [name for name in theirs if name not in loaded],
    }


def log_start(taken: dict[str, Any] | None) -> None:
    """Tell what `take_over` did, if there was a start; one process of a training does."""
    if taken is not None and is_main_process():
        log.info(
            "from %s (%s): %d tensors loaded; new: %s; left out: %s; fixed: %s",
            taken["folder"],
            taken["model"],
            len(taken["loaded"]),
            ", ".join(taken["new"]) or "none",
            ", ".join(taken["left_out"]) or "none",
            "the sequence encoder" if taken["frozen"] == "encoder" else "none",
        )


def freeze_encoder(network: nn.Module) -> None:
    """Fix the sequence encoder except the LayerNorm of its inputs, as the released code does."""
    for name, parameter in network.get_submodule("encoder").named_parameters():
        if not name.startswith("input_norm."):
            parameter.requires_grad_(False)
