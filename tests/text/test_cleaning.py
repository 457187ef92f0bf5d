"""Text rules: the examples in the docstrings, and the released rules on real texts."""

import csv
import doctest
import gzip
from pathlib import Path

import pytest

from linguarec.text import cleaning
from linguarec.text.cleaning import clean_text, item_text


def test_doctests() -> None:
    result = doctest.testmod(cleaning)
    assert result.failed == 0
    assert result.attempted >= 10


def test_default_rules_keep_every_word_of_a_long_field() -> None:
    found = item_text(["word " * 500, "Bosch"], "default")
    assert found.text == " ".join(["word"] * 500) + ". Bosch."
    assert (found.long_fields, found.blanked_fields) == (1, 0)


def test_released_rules_blank_from_two_thousand_characters_with_the_full_stop() -> None:
    assert item_text(["x" * 1998], "released") == ("x" * 1998 + ". ", 0, 0)
    assert item_text(["x" * 1999], "released") == (" ", 1, 1)


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("caf\u00e9 \U0001f600 mug", "café 😀 mug."),
        ("a &quot;b&quot; c", "a b c."),
        ("pressure <x and y> 3", "pressure <x and y> 3."),
        ("one<br/>two", "one two."),
        ("tab\tand\x00zero", "tab and zero."),
        ("", ""),
    ],
)
def test_default_rules_on_odd_values(value: str, cleaned: str) -> None:
    assert clean_text(value) == cleaned


def test_released_rules_give_the_released_texts_of_scientific(shared: Path) -> None:
    """Where the attributes beside the release kept their commas, its texts come out character for character."""
    folder = shared / "data/scientific"
    released = dict(
        line.split("\t", 1) for line in (folder / "Scientific.text").read_text("utf-8").split("\n")[1:] if line
    )
    with gzip.open(folder / "items.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    equal = without_commas = 0
    for row in rows:
        text = item_text([row["title"], row["categories"], row["brand"]], "released").text
        equal += text == released[row["item_id"]]
        without_commas += text.replace(",", "") == released[row["item_id"]].replace(",", "")
    assert equal > 3000
    assert without_commas > 4150
