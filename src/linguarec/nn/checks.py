"""What the settings of networks must hold. Each check gives one sentence for each setting that it finds wrong."""

from typing import Any


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
    """The named settings must be shares that drop out, or None."""
    found = {name: getattr(settings, name) for name in names}
    return [
        f"{name} is {value}; it must be 0 or more and below 1"
        for name, value in found.items()
        if value is not None and not 0 <= value < 1
    ]


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
