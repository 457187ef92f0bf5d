"""Checks of settings: one sentence for each bad value. Also marks the settings that decide the sizes of weights."""

import math
from collections.abc import Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from linguarec.errors import SettingsError

_SIZES_WEIGHTS = "sizes_weights"
LARGEST_SEED = (1 << 32) - 1  # of NumPy's and Lightning's generators
LARGEST = (1 << 31) - 1  # of every whole number that has no bound of its own
# Upper bounds of sizes, far above what is of use: beyond them a typing error takes all memory, or builds layers for hours.
MOST = {
    "layers": 1_000,
    "heads": 4_096,
    "hidden_size": 1 << 16,
    "inner_size": 1 << 20,
    "experts": 10_000,
    "max_length": 1 << 20,
    "max_items": 1 << 20,
    "max_tokens": 1 << 24,
    "positions": 1 << 24,
    "window": 1 << 20,
    "epochs": 1_000_000,
    "max_epochs": 1_000_000,
    "devices": 4_096,
}


def size(default: Any, **only_where: Any) -> Any:
    """A config field with this default that decides the sizes of weights: weights made for another value do not fit.

    Args:
        default: of the field.
        only_where: values of other fields with which alone it does; none = always.
    """
    return field(default=default, metadata={_SIZES_WEIGHTS: only_where})


def sizes_of_weights(config: Any) -> list[str]:
    """Names of the fields of a config (class or object) that were declared with `size`, as far as they decide sizes in it."""
    conditions = {each.name: each.metadata.get(_SIZES_WEIGHTS) for each in fields(config)}
    return [
        name
        for name, where in conditions.items()
        if where is not None and all(getattr(config, other) == value for other, value in where.items())
    ]


def at_least(settings: Any, **bounds: float) -> list[str]:
    """The named settings must not be below their bounds, nor above what `MOST` allows."""
    problems = []
    for name, bound in bounds.items():
        value, most = getattr(settings, name), MOST.get(name, LARGEST)
        if not value >= bound:
            problems.append(f"{name} is {value}; it must be at least {bound}")
        elif value > most:
            problems.append(f"{name} is {value}; it must be at most {most:,}")
    return problems


def above_zero(settings: Any, *names: str) -> list[str]:
    """The named settings must be above 0, and finite."""
    found = {name: getattr(settings, name) for name in names}
    problems = [f"{name} is {value}; it must be above 0" for name, value in found.items() if not value > 0]
    return problems + [f"{name} is {value}; it must be finite" for name, value in found.items() if value == math.inf]


def small(settings: Any, *names: str) -> list[str]:
    """The named settings, such as the epsilon of a norm, must be from 0 to 1."""
    found = {name: getattr(settings, name) for name in names}
    return [f"{name} is {value}; it must be in [0, 1]" for name, value in found.items() if not 0 <= value <= 1]


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
    """`hidden_size` must be divisible by `heads`."""
    if settings.heads < 1 or settings.hidden_size % settings.heads == 0:
        return []
    return [f"hidden_size {settings.hidden_size} is not divisible by heads {settings.heads}"]


def refuse(problems: list[str]) -> None:
    """Raise one error for all problems, if there are any.

    Raises:
        ValueError: there are problems; all are named.
    """
    if problems:
        raise ValueError("; ".join(problems))


def seed_problems(seed: int, flag: str = "--seed") -> list[str]:
    """The lines of an error about a seed: none, or one if it is negative or too large."""
    if seed < 0:
        return [f"{flag} is {seed}; it must be at least 0."]
    return [] if seed <= LARGEST_SEED else [f"{flag} is {seed}; it must be at most 2^32 - 1."]


def check_seed(seed: int) -> None:
    """Refuse a seed that is no seed of NumPy and torch.

    Raises:
        SettingsError: the seed is negative or beyond 2^32 - 1.
    """
    if problems := seed_problems(seed):
        raise SettingsError(problems)


def twice_problems(folders: Sequence[Path]) -> list[str]:
    """The lines of an error about folders that are to differ: none, or one that names those that occur more than once."""
    places = [folder.resolve() for folder in folders]
    twice = sorted({str(place) for place in places if places.count(place) > 1})
    return [f"these folders are named twice: {', '.join(twice)}"] if twice else []


def name_problems(name: str) -> list[str]:
    """The lines of an error about a name for stored vectors or tokens: none, or one if it is not a plain file name."""
    plain = name and "/" not in name and not name.startswith(".")
    return [] if plain else [f"name is {name!r}; expected a plain file name."]
