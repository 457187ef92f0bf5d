"""Ranges of settings, declared beside the fields of a config; `linguarec tune` searches them.

@dataclass(frozen=True)
class Config:
    temperature: float = tuned(0.07, low=0.02, high=0.3, log=True)
    positions: str = tuned(size("learned"), choices=("learned", "none"))
"""

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

_RANGE = "range"
_LARGEST = 1e300  # above are numbers that floats cannot hold, and ranges that are wider than any float
Value = bool | int | float | str
FORMS = "LOW:HIGH, LOW:HIGH:log or A|B|C"


@dataclass(frozen=True)
class Between:
    """Numbers from `low` to `high`, both included; whole ones if both are. `log`: drawn evenly by their logarithm.

    Raises:
        ValueError: there is nothing between them, or a logarithm of 0 is asked for.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for bound in (self.low, self.high):
            if not -_LARGEST <= bound <= _LARGEST:  # NaN is not either
                raise ValueError(f"{self} has a bound that is not finite, or above {_LARGEST:.0e}")
        if not self.low < self.high:
            raise ValueError(f"{self} is empty: the first number must be below the second")
        if self.log and self.low <= 0:
            raise ValueError(f"{self} is by logarithm, so it must begin above 0")

    def __str__(self) -> str:
        return f"{self.low!r}:{self.high!r}{':log' if self.log else ''}"

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Values that are allowed if all are."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether the value is among them."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and (not self.whole or isinstance(value, int))


@dataclass(frozen=True)
class Choice:
    """Some values.

    Raises:
        ValueError: there are fewer than two, or one occurs twice.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if len(set(map(str, self.values))) < max(2, len(self.values)):
            raise ValueError(f"{self} needs two different values or more, each once")

    def __str__(self) -> str:
        return "|".join(_text(value) for value in self.values)

    @property
    def ends(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether the value is among them."""
        return value in self.values


Range = Between | Choice


def tuned(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    log: bool = False,
    choices: Sequence[Value] = (),
) -> Any:
    """A config field with this default that `linguarec tune` searches, between two numbers or among choices.

    Args:
        default: of the field, or the field that `linguarec.checks.size` made. Where it is None, the first choice is what None
            stands for.
        low: least number.
        high: largest number; whole numbers are drawn if both bounds are.
        log: draw evenly by logarithm.
        choices: the values, instead of numbers.

    Raises:
        ValueError: the range is empty, or the default is outside.
    """
    marks: Mapping[Any, Any] = {}
    if isinstance(default, Field):
        default, marks = default.default, default.metadata
    if choices:
        found: Range = Choice(tuple(choices))
    elif low is not None and high is not None:
        found = Between(low, high, log)
    else:
        raise ValueError("a range has low and high, or choices")
    if default is not None and not found.holds(default):
        raise ValueError(f"the default {default!r} is outside of {found}")
    return field(default=default, metadata={**marks, _RANGE: found})


def ranges_of(config: Any) -> dict[str, Range]:
    """The ranges of the fields of a config (class or object) that were declared with `tuned`, by name."""
    return {each.name: each.metadata[_RANGE] for each in fields(config) if _RANGE in each.metadata}


def range_of_text(text: str) -> Range:
    """The range that a text such as `0.001:0.1:log`, `1:4` or `learned|none` describes.

    Raises:
        ValueError: it describes none.
    """
    if "|" in text:
        return Choice(tuple(_value(each.strip()) for each in text.split("|")))
    low, colon, rest = text.partition(":")
    high, _, scale = rest.partition(":")
    bounds = [_value(each) for each in (low, high)]
    if not colon or scale not in ("", "log") or not all(_is_number(each) for each in bounds):
        raise ValueError(f"{text!r} is no range; expected {FORMS}")
    first, last = bounds
    assert not isinstance(first, str) and not isinstance(last, str)
    if isinstance(first, float) or isinstance(last, float):
        first, last = float(first), float(last)
    return Between(first, last, scale == "log")


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            continue
        if abs(value) <= _LARGEST or kind is float:
            return value
    return text
