"""tokenize: real MiniLM tokens of a prepared folder, and every bad input."""

from typing import Any

import numpy as np
import pytest

from linguarec.commands.describe import describe
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, LinguarecError, OutputError, SettingsError
from linguarec.text.attributes import AttributeTokenizer
from linguarec.text.token_store import open_tokens

MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    made: PreparedDataset = make_dataset(
        [[0, 1, 2], [2] * 60, [1] * 40, [2] * 40 + [0] * 50], texts=["Steel ruler", "", "word " * 40]
    )
    return made


def test_tokens_are_stored_and_described(dataset: PreparedDataset) -> None:
    result = tokenize(dataset.path)
    assert (result["tokens"], result["attributes"], result["items"]) == (MINILM, ["title"], 3)
    assert (result["cut_values"], result["items_without_tokens"], result["longest_item"]) == (1, 1, 32)
    # The last 50 items of the last history are short.
    assert (result["histories_over_50_items"], result["histories_over_1024_tokens"]) == (2, 1)
    stored = open_tokens(dataset.tokens_path(MINILM), dataset.fingerprint)
    expected, _ = AttributeTokenizer.load(MINILM, ["title"]).tokenize({"title": dataset.texts})
    np.testing.assert_array_equal(stored.tokens.ids, expected.ids)
    assert stored.form.vocabulary == 30522
    assert (stored.form.start, stored.form.mask) == (101, 103)
    assert dataset.token_names == [MINILM]
    assert describe(dataset.path)["items"] == 3


def test_the_table_names_what_is_special_alone(
    dataset: PreparedDataset, make_dataset: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize(dataset.path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "cut values 1 longer than 32 tokens" in shown and "histories over 1024 tokens 1 of these" in shown
    plain = make_dataset([[0, 1]], texts=["Steel ruler", "Brass ruler"], name="plain")
    assert tokenize(plain.path)["items_without_tokens"] == 0
    shown = capsys.readouterr().out
    assert not any(what in shown for what in ("cut values", "items without", "histories"))
    assert "longest item" in shown and " s " in shown


def test_existing_tokens_are_replaced_only_when_asked(dataset: PreparedDataset) -> None:
    tokenize(dataset.path)
    with pytest.raises(OutputError, match="exists already"):
        tokenize(dataset.path, attribute_tokens=8)
    assert tokenize(dataset.path, attribute_tokens=8, overwrite=True)["longest_item"] == 8
    assert tokenize(dataset.path, attributes=["text"], name="of-text")["attributes"] == ["text"]
    assert dataset.token_names == [MINILM, "of-text"]


BAD = [
    ({"attributes": ["colour"]}, "no attribute 'colour'; .* has: title, text"),
    ({"attributes": []}, "has the attributes title, text, and none was chosen; pass --attributes text"),
    ({"attribute_tokens": 1}, "attribute_tokens is 1, which leaves no room for values: 'title' alone takes 1"),
    ({"backbone": "/", "name": ""}, "name is ''; expected a plain file name"),
    ({"attributes": ["title", "title"]}, "each may be named once"),
    ({"attribute_tokens": 0}, "attribute_tokens is 0"),
    ({"name": "a/b"}, "name is 'a/b'"),
    ({"backbone": "no-such-model"}, "no encoder 'no-such-model'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_refused_and_nothing_written(
    dataset: PreparedDataset, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LinguarecError, match=message):
        tokenize(dataset.path, **arguments)
    assert not (dataset.path / "tokens").exists()


def test_attributes_that_no_item_has(make_dataset: Any) -> None:
    empty = make_dataset([[0, 1]], texts=["", ""], name="empty")
    match = rf"No item of {empty.path} has a value of title, .*choose others with --attributes \(title, text\)"
    with pytest.raises(DataFormatError, match=match):
        tokenize(empty.path)
    assert empty.token_names == []
    assert list((empty.path / "tokens").iterdir()) == []


def test_all_bad_settings_are_named_at_once(dataset: PreparedDataset) -> None:
    with pytest.raises(SettingsError) as caught:
        tokenize(dataset.path, attributes=["colour"], attribute_tokens=-1, name=".")
    assert len(caught.value.problems) == 3
