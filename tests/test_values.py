"""Values of attributes as text: numbers and lists written out, what is none left out, anything else refused."""

import doctest
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from linguarec import values
from linguarec.errors import DataFormatError
from linguarec.values import written_out

CASES: list[tuple[Any, str | None]] = [
    ("", ""),
    (True, "True"),
    (7, "7"),
    (Decimal("1.50"), "1.50"),
    (None, None),
    (float("nan"), None),
    (np.float32("nan"), None),
    (Decimal("nan"), None),
    ([], None),
    ([None, float("nan"), []], None),
    ([""], ""),
    (("Tools", None, ["Rulers", 3.5]), "Tools > Rulers > 3.5"),
    (np.array([1, 2]), "1 > 2"),
]


def test_doctests() -> None:
    result = doctest.testmod(values)
    assert (result.failed, result.attempted) == (0, 2)


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_values(value: Any, expected: str | None) -> None:
    assert written_out(value, "here") == expected


@pytest.mark.parametrize("value", [{"en": "x"}, ["a", {"en": "x"}], b"x"])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(
        DataFormatError, match=r"^Here is a (dict|bytes) \(.*x.*\); expected text, a number, or a list of"
    ):
        written_out(value, "Here")
