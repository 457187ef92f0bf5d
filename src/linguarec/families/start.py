"""A model that another training starts from: what `--from FOLDER` takes over, and what it refuses."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from linguarec.checks import sizes_of_weights
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.family import Family, ModelDescription
from linguarec.families.weights import WEIGHTS_FILE
from linguarec.given import given
from linguarec.sources.source import ItemSource
from linguarec.stored import read_json
from linguarec.training.fit import CURVE_FILE
from linguarec.training.processes import is_main_process
from linguarec.training.stages import STAGE_FILE

log = logging.getLogger(__name__)
SETTINGS_FILE = "settings.json"
_warned: set[Path] = set()


@dataclass(frozen=True)
class Start:
    """The opened folder of a model: a pre-training run, a converted checkpoint or another run.

    `source`: how its items were read, as far as the folder tells; it holds no items.
    """

    folder: Path
    network: nn.Module
    description: ModelDescription
    source: ItemSource

    @property
    def family(self) -> Family:
        """Of the model."""
        return self.description.family

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, hexadecimal."""
        with (self.folder / WEIGHTS_FILE).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the folder was made with; empty where it does not tell."""
        file = self.folder / SETTINGS_FILE
        return read_json(file, CheckpointMismatchError, "Copy the folder again.") if file.exists() else {}

    def warn_if_unfinished(self) -> None:
        """Say so, once, where the training goes on or was broken off: it may still find better weights."""
        unfinished = (self.folder / CURVE_FILE).exists() and not (self.folder / STAGE_FILE).exists()
        if unfinished and self.folder not in _warned and is_main_process():
            _warned.add(self.folder)
            log.warning("%s is of a training that has not finished; its best weights so far are taken", self.folder)

    def check(self, family: Family) -> None:
        """Refuse a start that `family` cannot begin with.

        Raises:
            CheckpointMismatchError: the folder holds another model.
            SettingsError: nothing of this model carries over to other items.
        """
        if self.family.config is not family.config:
            raise CheckpointMismatchError(
                f"{self.folder} holds a {self.family.name}, and {family.name} cannot start from it; fine-tune "
                f"{self.family.name}, or name a folder that holds a {family.name}."
            )
        if not family.carries:
            raise SettingsError(
                [f"{family.name} knows items by ID only: nothing that it learned carries over to other items"]
            )

    def merged(self, own: Any, asked: Any, group: str) -> tuple[Any, list[str]]:
        """The settings `own` with those of `asked` that were asked for, and a line for each that cannot be changed."""
        changes: dict[str, Any] = {}
        kept, problems = [], []
        named = {} if asked is None else given(asked)
        fixed = [] if asked is None else sizes_of_weights(asked)
        for field in fields(asked) if asked is not None else ():
            value, theirs = named.get(field.name, field.default), getattr(own, field.name)
            if value == theirs:
                continue
            if field.name not in named:
                if field.name not in fixed:
                    kept.append(f"{group}.{field.name} {theirs}")
                continue
            if field.name in fixed:
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

    def take_over(
        self,
        network: nn.Module,
        new: Collection[str] = (),
        grown: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Load the start's weights into `network`; what was done, as the settings of a run record it.

        Args:
            network: a new model.
            new: names of the tensors of `network` that are not loaded, if it has them.
            grown: tensors to be loaded instead of the start's own.

        Raises:
            CheckpointMismatchError: a tensor is missing or of another shape.
        """
        theirs, ours = self.network.state_dict() | dict(grown), network.state_dict()
        loaded = [name for name in ours if name not in new]
        problems = [
            f"{name}: {'missing' if name not in theirs else tuple(theirs[name].shape)}, needed {tuple(ours[name].shape)}"
            for name in loaded
            if name not in theirs or theirs[name].shape != ours[name].shape
        ]
        if problems:
            raise CheckpointMismatchError(f"The model in {self.folder} does not fit:\n" + "\n".join(problems))
        network.load_state_dict({**ours, **{name: theirs[name] for name in loaded}})
        return {
            "folder": str(self.folder),
            "model": self.family.name,
            "weights_sha256": self.weights_sha256,
            "loaded": loaded,
            "new": [name for name in ours if name in new],
            "left_out": [name for name in theirs if name not in loaded],
        }


def log_start(taken: Mapping[str, Any] | None) -> None:
    """Tell what was taken over, if there was a start; one process of a training does."""
    if taken is not None and is_main_process():
        log.info(
            "from %s (%s): %d tensors loaded; new: %s; left out: %s; fixed: %s",
            taken["folder"],
            taken["model"],
            len(taken["loaded"]),
            ", ".join(taken["new"]) or "none",
            ", ".join(taken["left_out"]) or "none",
            "the sequence encoder" if taken.get("frozen") == "encoder" else "none",
        )
