"""Which settings of a group somebody asked for, as against defaults that were left alone."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

_NOTE = "_given"


def note_given(group: Any, names: Iterable[str]) -> None:
    """Keep with a dataclass which of its fields were asked for; what is copied from it does not have the note.

    A dataclass cannot tell a value that was given from a default. The command line can, and notes it.
    """
    object.__setattr__(group, _NOTE, frozenset(names))  # the dataclasses of settings are frozen


def given(group: Any) -> dict[str, Any]:
    """The fields of a dataclass that were asked for: those noted, or without a note those that differ from the defaults.

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
