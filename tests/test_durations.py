"""Durations as text."""

import doctest

import pytest

from linguarec import durations
from linguarec.durations import duration_text


def test_doctests() -> None:
    result = doctest.testmod(durations)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "less than 0.1 s"),
        (0.06, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (89.4, "89 s"),
        (90.0, "1.5 min"),
        (5_400.0, "1.5 hours"),
    ],
)
def test_each_unit_begins_where_the_last_one_ends(seconds: float, shown: str) -> None:
    assert duration_text(seconds) == shown
