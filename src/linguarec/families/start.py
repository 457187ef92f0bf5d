"""Starting a training from the model of another folder (`--from FOLDER`): checks, merged settings, loaded weights."""

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from linguarec.checks import sizes_of_weights
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.family import Family, Start
from linguarec.families.weights import WEIGHTS_FILE
from linguarec.given import given
from linguarec.processes import is_main_process
from linguarec.training.record import CURVE_FILE
from linguarec.training.stages import STAGE_FILE

log = logging.getLogger(__name__)
_warned: set[Path] = set()


def check_start(start: Start, family: Family) -> None:
    """Refuse a start that `family` cannot use.

    Raises:
        CheckpointMismatchError: the folder holds another model.
        SettingsError: no weights of this family can be used for other items.
    """
    if start.family.config is not family.config:
        mend = f", or name a folder that holds the model {family.name}" if family.carries else ", or leave --from out"
        raise CheckpointMismatchError(
            f"{start.folder} holds the model {start.family.name}, and {family.name} cannot start from it; fine-tune "
            f"{start.family.name}{mend}."
        )
    if not family.carries:
        raise SettingsError(
            [f"{family.bound_to_ids}: nothing that it learned carries over to other items; leave --from out"]
        )


def merge_settings(start: Start, own: Any, asked: Any, group: str) -> tuple[Any, list[str]]:
    """The start's settings `own`, changed by the fields of `asked` that the user set; and a line for each impossible change."""
    changes: dict[str, Any] = {}
    kept, problems = [], []
    named = {} if asked is None else given(asked)
    fixed = sizes_of_weights(own)
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
                f"--{group}.{field.name} {value}: the weights of {start.folder} are for {theirs}; leave the flag out"
            )
        changes[field.name] = value
    if kept and is_main_process():
        log.info("settings of %s that are not the defaults are kept: %s", start.folder, ", ".join(kept))
    try:
        return replace(own, **changes), problems
    except ValueError as error:
        return own, [*problems, f"--{group}.* with the weights of {start.folder}: {error}"]


def take_over(
    start: Start,
    network: nn.Module,
    new: Collection[str] = (),
    grown: Mapping[str, Tensor] = MappingProxyType({}),
) -> dict[str, Any]:
    """Load the start's weights into `network`; returns a record for the settings of the run.

    Args:
        network: a new model.
        new: names of tensors of `network` that keep their initial values.
        grown: tensors to load instead of the start's own.

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
    return {
        "folder": str(start.folder),
        "model": start.family.name,
        "weights_sha256": weights_sha256(start),
        "loaded": loaded,
        "new": [name for name in ours if name in new],
        "left_out": [name for name in theirs if name not in loaded],
    }


def weights_sha256(start: Start) -> str:
    """SHA-256 of the weights file, hexadecimal."""
    with (start.folder / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def warn_if_unfinished(folder: Path) -> None:
    """Warn once if the folder's training is still running or was interrupted, because its best weights may not be final."""
    unfinished = (folder / CURVE_FILE).exists() and not (folder / STAGE_FILE).exists()
    if unfinished and folder not in _warned and is_main_process():
        _warned.add(folder)
        log.warning("%s is of a training that has not finished; its best weights so far are taken", folder)


def log_start(taken: Mapping[str, Any] | None) -> None:
    """Log the record of `take_over`, if there was a start, in one process of the training."""
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
