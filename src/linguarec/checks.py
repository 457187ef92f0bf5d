"""Checks of settings: one sentence for each with a bad value. And which settings the sizes of weights come from."""

from dataclasses import field, fields
from typing import Any

from linguarec.errors import SettingsError

_SIZES_WEIGHTS = "sizes_weights"


def size(default: Any) -> Any:
    """A config field with this default on which the weights depend: weights that were made for another value do not fit."""
    return field(default=default, metadata={_SIZES_WEIGHTS: True})


def sizes_of_weights(config: Any) -> list[str]:
    """Names of the fields of a config (class or object) that are declared by `size`."""
    return [each.name for each in fields(config) if each.metadata.get(_SIZES_WEIGHTS)]


def at_least(settings: Any, **bounds: float) -> list[str]:
    """The named settings must not be below their bounds."""
    found = {name: getattr(settings, name) for name in bounds}
    return [
        f"{name} is {found[name]}; it must be at least {bound}" for name, bound in bounds.items() if found[name] < bound
    ]


def above_zero(settings: Any, *names: str) -> list[str]:
    """The named settings must be above 0."""
    found = {name: getattr(settings, name) for name in names}
    return [f"{name} is {value}; it must be above 0" for name, value in found.items() if not value > 0]


def probabilities(settings: Any, *names: str) -> list[str]:
    """The named settings must be probabilities below 1, or None."""
    found = {name: getattr(settings, name) for name in names}
    return [
        f"{name} is {value}; it must be 0 or more and below 1"
        for name, value in found.items()
        if value is not None and not 0 <= value < 1
    ]


def fractions(settings: Any, *names: str) -> list[str]:
    """The named settings must be in [0, 1]."""
    found = {name: getattr(settings, name) for name in names}
    return [f"{name} is {value}; it must be in [0, 1]" for name, value in found.items() if not 0 <= value <= 1]


def divided_by_heads(settings: Any) -> list[str]:
    """Each attention head takes the same part of the width."""
    if settings.heads < 1 or settings.hidden_size % settings.heads == 0:
        return []
    return [f"hidden_size {settings.hidden_size} is not divisible by heads {settings.heads}"]


def refuse(problems: list[str]) -> None:
    """Raise what was found, if anything was.

    Raises:
        ValueError: there are problems; all are named.
    """
    if problems:
        raise ValueError("; ".join(problems))


def seed_problems(seed: int, flag: str = "--seed") -> list[str]:
    """What is wrong with a seed, as the lines of an error: nothing, or that it is negative."""
    return [] if seed >= 0 else [f"{flag} is {seed}; it must be at least 0."]


def check_seed(seed: int) -> None:
    """Raise an error where `seed_problems` finds one.

    Raises:
        SettingsError: the seed is negative.
    """
    if problems := seed_problems(seed):
        raise SettingsError(problems)


def name_problems(name: str) -> list[str]:
    """What is wrong with the name that vectors or tokens are to be stored under, as the lines of an error."""
    plain = name and "/" not in name and not name.startswith(".")
    return [] if plain else [f"name is {name!r}; expected a plain file name."]
