"""Ranges declared beside the fields of a config, and ranges as text."""

from dataclasses import dataclass

import pytest

from linguarec.checks import size, sizes_of_weights
from linguarec.ranges import Between, Choice, Range, range_of_text, ranges_of, tuned


@dataclass(frozen=True)
class Parent:
    rate: float = tuned(0.1, low=0.01, high=1.0, log=True)
    kind: str = tuned(size("a"), choices=("a", "b"))
    plain: int = 3


@dataclass(frozen=True)
class Child(Parent):
    rate: float = tuned(0.5, low=0.2, high=0.9)


def test_ranges_stand_beside_the_defaults_and_sizes_stay_marked() -> None:
    assert Parent() == Parent(0.1, "a", 3)
    assert ranges_of(Parent) == {"rate": Between(0.01, 1.0, log=True), "kind": Choice(("a", "b"))}
    assert ranges_of(Child())["rate"] == Between(0.2, 0.9)
    assert sizes_of_weights(Parent()) == ["kind"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:4", Between(1, 4)),
        ("0.5:2", Between(0.5, 2.0)),
        ("1e-4:0.1:log", Between(1e-4, 0.1, log=True)),
        ("learned|none", Choice(("learned", "none"))),
        ("32 | 64", Choice((32, 64))),
        ("true|false", Choice((True, False))),
    ],
)
def test_a_range_as_text(text: str, expected: Range) -> None:
    found = range_of_text(text)
    assert found == expected
    assert [type(each) for each in found.ends] == [type(each) for each in expected.ends]
    assert range_of_text(str(found)) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4:1", "is empty"),
        ("1:1", "is empty"),
        ("0:1:log", "begin above 0"),
        ("1:inf", "not finite"),
        ("nan:1", "not finite"),
        ("a:b", "is no range; expected LOW:HIGH"),
        ("0.5", "is no range"),
        ("1:2:lin", "is no range"),
        ("", "is no range"),
        ("a|a", "two different values"),
    ],
)
def test_bad_ranges_say_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        range_of_text(text)


def test_a_declared_range_holds_its_default() -> None:
    with pytest.raises(ValueError, match="the default 2"):
        tuned(2.0, low=0.0, high=1.0)
    with pytest.raises(ValueError, match="low and high, or choices"):
        tuned(2.0, low=0.0)
    assert not Between(1, 4).holds(2.5) and Between(1, 4).holds(2) and not Between(0, 1).holds(True)
