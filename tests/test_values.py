"""Values of attributes as text: numbers and lists written out, what is none left out, anything else refused."""

import doctest
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from linguarec import values
from linguarec.errors import DataFormatError
from linguarec.values import written_id, written_out

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
    ({}, None),
    ({"a": None, "b": [], "c": ""}, None),
    ({"Brand": "Acme", "Sizes": ["S", None, 3.5]}, "Brand: Acme > Sizes: S, 3.5"),
    ({"Rank": {"Tools": 1, "Rulers": {"Steel": 2}}, 7: True}, "Rank: Tools: 1, Rulers: Steel: 2 > 7: True"),
    ({" Item \n weight : ": "1 kg", "Item weight": "2 kg"}, "Item weight: 1 kg > Item weight: 2 kg"),
    (["x", {"a": 1}, {"b": 2}], "x > a: 1 > b: 2"),
]


def test_doctests() -> None:
    result = doctest.testmod(values)
    assert (result.failed, result.attempted) == (0, 6)


@pytest.mark.parametrize(("value", "expected"), CASES)
def test_values(value: Any, expected: str | None) -> None:
    assert written_out(value, "here") == expected


@pytest.mark.parametrize("value", [b"x", ["a", b"x"], {"a": [b"x"]}, {"x"}])
def test_what_is_no_value_is_refused(value: Any) -> None:
    with pytest.raises(
        DataFormatError, match=r"^Here is a (set|bytes) \(.*x.*\); expected text, a number, a list or a dictionary of"
    ):
        written_out(value, "Here")


def test_a_message_quotes_little() -> None:
    with pytest.raises(DataFormatError, match=r"^Here is a bytes .* \(1,000,000 characters\)") as caught:
        written_out(b"x" * 1_000_000, "Here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.0", "1.0"), (1, "1"), (1.0, "1"), (np.float32(12), "12"), (2.5, "2.5"), (1e300, "1e+300"), (None, None)],
)
def test_ids(value: Any, expected: str | None) -> None:
    assert written_id(value, "here") == expected


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(DataFormatError, match=r"^Here is a (list|dict|bytes) \(.*a.*\); expected text or a number"):
        written_id(value, "Here")
