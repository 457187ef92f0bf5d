"""Training a run again on newer data of its shop, for `linguarec update`: what goes on from its weights, what begins anew."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from linguarec.data.dataset import PreparedDataset
from linguarec.families.closed_form import DEFAULTS_FLAG, FIXED
from linguarec.families.family import Family, Start
from linguarec.families.flags import option_types
from linguarec.families.next_item import NextItemOptions
from linguarec.families.options import EncoderOptions
from linguarec.nn.encoders import encoder_kind
from linguarec.records import record_of

_CHOICES = {each.name for each in fields(NextItemOptions)} - {each.name for each in fields(EncoderOptions)}


def goes_on(family: Family) -> bool:
    """Whether a model of the family is trained on from the weights of the run, which have seen its data."""
    return not family.closed_form and family.ways is not None


def how_updated(family: Family) -> str:
    """What happens to a model of a family when newer data come, for people."""
    if family.closed_form:
        return "solved anew"
    return (
        "trained anew, because nothing that it learned carries over"
        if family.ways is None
        else "trained on from the run"
    )


def arguments_of_update(start: Start, dataset: PreparedDataset, asked: Mapping[str, str | None]) -> dict[str, Any]:
    """Arguments of `linguarec finetune` that train the model of a run again on newer data of its shop.

    A family whose weights carry over goes on from them with nothing frozen (its way `full`); the others begin anew with the
    settings of the run. What is read of the folder has the name that the run recorded, if the folder has it, or is the only
    one.

    Args:
        start: the run.
        dataset: the newer data.
        asked: names of vectors, codes or tokens by flag, in place of the recorded ones.

    Raises:
        CheckpointMismatchError: the weights cannot be gone on from.
        SettingsError: a flag is not for this family.
    """
    family, settings = start.family, start.settings
    hints = option_types(family.finetuning.options)
    stored = {"features": dataset.feature_names, "codes": dataset.code_names, "tokens": dataset.token_names}
    recorded = {flag: settings.get(flag) for flag in stored if flag in hints and settings.get(flag) in stored[flag]}
    names = {**recorded, **{flag: name for flag, name in asked.items() if name is not None}}
    if family.ways is not None:
        chosen = [flag for flag in _CHOICES & hints.keys() if settings.get(flag) is not None]
        choices = {flag: _option(hints[flag], settings[flag]) for flag in chosen}
        found = family.ways(start, {**choices, **names})["full"]
        if isinstance(found, Exception):
            raise found
        return found
    options: dict[str, Any] = {}
    for flag, hint in hints.items():
        if flag in stored or settings.get(flag) is None:
            continue
        options[flag] = _option(hint, settings[flag])
    if (encoder := start.description.encoder) is not None:
        kind = encoder_kind(encoder)
        options[kind] = encoder
        if "sequence_encoder" in hints:
            options["sequence_encoder"] = kind
    if DEFAULTS_FLAG in hints:  # the settings of the run are those that it chose
        options[DEFAULTS_FLAG] = FIXED
    return {"config": start.description.config, **options, **names}


def _option(hint: Any, recorded: Any) -> Any:
    """An option as a run recorded it; a group of flags becomes its dataclass again."""
    kinds = [hint, *get_args(hint)]
    groups = [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]
    return record_of(groups[0], recorded) if groups else recorded
