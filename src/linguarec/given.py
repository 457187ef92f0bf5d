"""Tells settings that the user set from defaults."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

_NOTE = "_given"


def note_given(group: Any, names: Iterable[str]) -> None:
    """Record on a dataclass object which of its fields the user set; copies of the object lose the record.

    A dataclass cannot tell a value that the user set from an equal default. The command line can, and records it here.
    """
    object.__setattr__(group, _NOTE, frozenset(names))  # the dataclasses of settings are frozen


def given(group: Any) -> dict[str, Any]:
    """The fields of a dataclass that the user set: those recorded, or, without a record, those that differ from the defaults.

    >>> from linguarec.training.settings import TrainingSettings
    >>> settings = TrainingSettings(patience=3)
    >>> given(settings)
    {'patience': 3}
    >>> note_given(settings, ["max_epochs"])
    >>> given(settings)
    {'max_epochs': 300}
    """
    noted = getattr(group, _NOTE, None)
    if noted is None:
        defaults = type(group)()
        noted = {field.name for field in fields(group) if getattr(group, field.name) != getattr(defaults, field.name)}
    return {field.name: getattr(group, field.name) for field in fields(group) if field.name in noted}
