"""Attribute sentences: what a plain loop over tokens gives, for every kind of value; and their store."""

import csv
import doctest
import json
import shlex
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError
from linguarec.text import attributes, token_store
from linguarec.text.attributes import AttributeTokenizer, ItemTokens, SentenceForm
from linguarec.text.references import fast_tokenizer, find_encoder
from linguarec.text.token_store import open_tokens, tokenize_command, write_tokens

MINILM = "all-MiniLM-L6-v2"
COLUMNS: dict[str, list[Any]] = {
    "title": ["eSUN &amp; filament 1.75mm.", "Tea towel " * 30, None, "", "Mug", "Mug"],
    "brand": ["eSUN", None, None, "", 7, ["Acme", None, 3.5]],
    "categories": ["Tools > 3D Printing", "Kitchen", None, "", "Kitchen", float("nan")],
}


@pytest.fixture(scope="module")
def minilm() -> AttributeTokenizer:
    return AttributeTokenizer.load(MINILM, attribute_tokens=12)


def test_doctests() -> None:
    results = [doctest.testmod(module) for module in (attributes, token_store)]
    assert [(result.failed, result.attempted) for result in results] == [(0, 3), (0, 3)]


def by_a_loop(item: dict[str, str], budget: int) -> tuple[list[int], list[int]]:
    """One item, token by token."""
    tokenizer = fast_tokenizer(find_encoder(MINILM))
    ids, types = [], []
    for name, value in item.items():
        key = tokenizer(name, add_special_tokens=False)["input_ids"]
        words = tokenizer(value, add_special_tokens=False)["input_ids"]
        ids += (key + words)[:budget]
        types += ([1] * len(key) + [2] * len(words))[:budget]
    return ids, types


def test_sentences_are_those_of_a_loop_over_tokens(minilm: AttributeTokenizer) -> None:
    tokens, counts = minilm.tokenize(COLUMNS)
    items = [
        {"title": "eSUN & filament 1.75mm", "brand": "eSUN", "categories": "Tools 3D Printing"},
        {"title": "Tea towel " * 30, "categories": "Kitchen"},
        {},
        {},
        {"title": "Mug", "brand": "7", "categories": "Kitchen"},
        {"title": "Mug", "brand": "Acme 3.5"},
    ]
    for row, item in enumerate(items):
        part = slice(tokens.offsets[row], tokens.offsets[row + 1])
        assert (tokens.ids[part].tolist(), tokens.types[part].tolist()) == by_a_loop(item, 12), row
    assert tokens.ids.dtype == np.uint16
    assert (counts.cut_values, counts.items_without_tokens) == (1, 2)


def test_released_rules_keep_values_and_empty_keys() -> None:
    tokenizer = AttributeTokenizer.load(MINILM, ["title", "brand"], 12, "released")
    tokens, counts = tokenizer.tokenize({"title": ["A &amp; B > C.", ""], "brand": ["", None]})
    expected = [by_a_loop({"title": "A &amp; B C.", "brand": ""}, 12), by_a_loop({"title": ""}, 12)]
    assert tokens.ids.tolist() == expected[0][0] + expected[1][0]
    assert tokens.types.tolist() == expected[0][1] + expected[1][1]
    assert counts.items_without_tokens == 0


def test_a_value_without_a_token_is_none_and_special_tokens_are_text(minilm: AttributeTokenizer) -> None:
    tokens, counts = minilm.tokenize({"title": ["\u200b", "[SEP] mug"], "brand": [None, "\u200b"]})
    assert (tokens.lengths[0], counts.items_without_tokens) == (0, 1)
    words = minilm._tokenizer.decode(
        [int(number) for number in tokens.ids[tokens.types == 2]], skip_special_tokens=False
    )
    assert words == "[ sep ] mug"
    assert tokens.types.tolist() == [1, 2, 2, 2, 2]  # brand has neither key nor value


def test_long_texts_are_tokenized_a_few_at_a_time(minilm: AttributeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [f"mug number {number} " * (1 + number % 7) for number in range(50)]
    at_once = minilm.tokenize({"title": titles})
    monkeypatch.setattr("linguarec.text.attributes.LETTERS_A_BATCH", 100)
    in_batches = minilm.tokenize({"title": titles})
    assert at_once[1] == in_batches[1]
    assert at_once[1].cut_values > 10
    assert at_once[0].ids.tolist() == in_batches[0].ids.tolist()
    assert at_once[0].offsets.tolist() == in_batches[0].offsets.tolist()


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_small_budget_cuts_keys_too(budget: int) -> None:
    tokens, counts = AttributeTokenizer.load(MINILM, ["item_dimensions"], budget).tokenize(
        {"item_dimensions": ["27 x 20"]}
    )
    ids, types = by_a_loop({"item_dimensions": "27 x 20"}, budget)
    assert (tokens.ids.tolist(), tokens.types.tolist(), counts.cut_values) == (ids, types, 1)
    assert AttributeTokenizer.load(MINILM, ["item_dimensions"], budget).key_lengths == {"item_dimensions": 3}


def test_attributes_that_are_missing_or_not_asked_for(minilm: AttributeTokenizer) -> None:
    tokens, _ = minilm.tokenize({"colour": ["red", "blue"], "title": ["Mug", "Cup"]})
    alone, _ = AttributeTokenizer.load(MINILM, ["title"], 12).tokenize({"title": ["Mug", "Cup"]})
    assert tokens.ids.tolist() == alone.ids.tolist()
    none, _ = minilm.tokenize({"title": []})
    assert (len(none), len(none.ids)) == (0, 0)


def test_values_that_are_no_text_are_refused(minilm: AttributeTokenizer) -> None:
    with pytest.raises(DataFormatError, match=r"'brand' of an item is a bytes \(.*Acme.*expected text, a number"):
        minilm.tokenize({"title": ["Mug"], "brand": [b"Acme"]})


def test_unknown_backbones_and_other_tokenizers_are_refused(minilm: AttributeTokenizer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no encoder 'no-such-model'"):
        AttributeTokenizer.load("no-such-model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="tokenizer"):
        AttributeTokenizer.load(str(tmp_path))
    assert AttributeTokenizer.of(minilm.form).form == minilm.form
    copy, gone = tmp_path / "tokenizer.json", replace(minilm.form, backbone="gone")
    with pytest.raises(SettingsError, match="no encoder 'gone'"):
        AttributeTokenizer.of(gone, copy)
    minilm.save(copy)
    columns = {"title": ["eSUN filament"], "brand": ["eSUN [SEP]"]}
    assert (
        AttributeTokenizer.of(gone, copy).tokenize(columns)[0].ids.tolist() == minilm.tokenize(columns)[0].ids.tolist()
    )
    copy.write_text(copy.read_text().replace('"steel"', '"stale"'))
    with pytest.raises(
        StaleFeaturesError, match=r"tokenizer\.json \(SHA-256 .* is not the one that made the stored tokens"
    ):
        AttributeTokenizer.of(gone, copy)
    copy.write_text("{")
    with pytest.raises(StaleFeaturesError, match=r"tokenizer\.json is no tokenizer"):
        AttributeTokenizer.of(gone, copy)
    other = type(minilm.form)(**{**vars(minilm.form), "tokenizer_sha256": "0" * 64})
    with pytest.raises(StaleFeaturesError, match="its ids mean other words"):
        AttributeTokenizer.of(other)


def pieces(size: int) -> list[dict[str, list[Any]]]:
    return [{name: values[at : at + size] for name, values in COLUMNS.items()} for at in range(0, 6, size)]


@pytest.mark.parametrize("size", [1, 4, 6])
def test_the_store_is_the_same_however_the_catalogue_is_cut(
    minilm: AttributeTokenizer, tmp_path: Path, size: int
) -> None:
    done: list[int] = []
    counts = write_tokens(tmp_path, minilm, map(minilm.tokenize, pieces(size)), "f", done.append)
    expected, expected_counts = minilm.tokenize(COLUMNS)
    stored = open_tokens(tmp_path, "f")
    assert isinstance(stored.tokens.ids, np.memmap)
    for name in ("ids", "types", "offsets"):
        found, exact = getattr(stored.tokens, name), getattr(expected, name)
        assert found.dtype == exact.dtype
        np.testing.assert_array_equal(found, exact)
    assert stored.form == minilm.form
    assert stored.counts == counts == expected_counts
    assert sum(done) == 6


def test_tokens_of_another_catalogue_or_damaged_ones_are_refused(minilm: AttributeTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write_tokens(folder, minilm, map(minilm.tokenize, pieces(6)), "f")
    with pytest.raises(
        StaleFeaturesError, match=r"from another catalogue than the folder has now\. Copy the folder again"
    ):
        open_tokens(folder, "g")
    with pytest.raises(StaleFeaturesError, match=r"has now\. 12 tokens each$"):
        open_tokens(folder, "g", lambda form: f"{form.attribute_tokens} tokens each" if form else "")
    with pytest.raises(DataFormatError, match="tokens there: mine"):
        open_tokens(tmp_path / "other", "f")
    info = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps(info | {"format_version": 9}))
    with pytest.raises(DataFormatError, match="format_version is 9"):
        open_tokens(folder, "f")
    (folder / "tokens.json").write_text(json.dumps(info))
    np.save(folder / "types.npy", np.zeros(3, np.uint8))
    with pytest.raises(
        DataFormatError, match=r"types.npy has shape \(3,\), expected .*\. Copy the folder again, or make it anew"
    ):
        open_tokens(folder, "f")
    with pytest.raises(DataFormatError, match=r"types.npy has shape \(3,\), expected .*\. 12 tokens each$"):
        open_tokens(folder, "f", lambda form: f"{form.attribute_tokens} tokens each" if form else "")
    (folder / "tokens.json").write_text(json.dumps(info)[:-9])
    with pytest.raises(DataFormatError, match=r"does not hold item tokens \(.*\)\. Unknown$"):
        open_tokens(folder, "f", lambda form: "Known" if form else "Unknown")


def test_tokens_of_an_earlier_version_can_be_read(minilm: AttributeTokenizer, tmp_path: Path) -> None:
    counts = write_tokens(tmp_path, minilm, map(minilm.tokenize, pieces(6)), "f")
    info = json.loads((tmp_path / "tokens.json").read_text())
    info["counts"]["converted_values"] = 3
    (tmp_path / "tokens.json").write_text(json.dumps(info))
    assert open_tokens(tmp_path, "f").counts == counts


def test_the_command_that_makes_tokens_names_all_that_they_depend_on(minilm: AttributeTokenizer) -> None:
    form = replace(minilm.form, backbone="my models/a", attributes=["title", "size, colour", 'so "called"'])
    command = tokenize_command("DATA", form, name="of it", overwrite=True)
    words = shlex.split(command.strip("`"))
    attributes = words.pop(words.index("--attributes") + 1)
    assert next(csv.reader([attributes], skipinitialspace=True)) == form.attributes
    assert words == [
        "linguarec", "tokenize", "DATA", "--backbone", "my models/a", "--attributes", "--attribute-tokens", "12",
        "--name", "of it", "--overwrite",
    ]  # fmt: skip
    assert tokenize_command("DATA", form, known=["text"]) == (
        "`linguarec tokenize DATA --backbone 'my models/a' --attribute-tokens 12`"
    )
    assert tokenize_command("DATA", None, name="x") == "`linguarec tokenize DATA --backbone BACKBONE --name x`"


def test_items_are_selected_and_joined(minilm: AttributeTokenizer) -> None:
    tokens, _ = minilm.tokenize(COLUMNS)
    order = np.array([4, 0, 2, 5])
    chosen = tokens.select(order)
    joined = ItemTokens.join([chosen, tokens])
    assert (len(chosen), len(joined), joined.start) == (4, 10, tokens.start)
    for place, row in enumerate([*order, *range(6)]):
        left, right = (slice(*of.offsets[at : at + 2]) for of, at in ((joined, place), (tokens, row)))
        assert joined.ids[left].tolist() == tokens.ids[right].tolist()
        assert joined.types[left].tolist() == tokens.types[right].tolist()


def test_a_selection_takes_little_memory_above_its_tokens() -> None:
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 60, 60_000))])
    ids = generator.integers(0, 1 << 16, offsets[-1]).astype(np.uint16)
    tokens = ItemTokens(ids, (ids % 2 + 1).astype(np.uint8), offsets, 0)
    rows = generator.permutation(60_000)[:50_000]
    tracemalloc.start()
    chosen = tokens.select(rows)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    exact = np.concatenate([ids[offsets[row] : offsets[row + 1]] for row in rows])
    np.testing.assert_array_equal(chosen.ids, exact)
    np.testing.assert_array_equal(chosen.types, exact % 2 + 1)
    assert (chosen.ids.dtype, chosen.types.dtype) == (np.uint16, np.uint8)
    assert kept < 3 * len(exact) + 8 * 50_001 + 10_000
    # The place of every token at once would take 8 bytes each, several times.
    assert peak - kept < 8 * len(exact)
    assert len(tokens.select(rows[:0])) == 0


def test_which_tokens_continue_a_word(minilm: AttributeTokenizer) -> None:
    tokenizer = fast_tokenizer(find_encoder(MINILM))
    ids = tokenizer("3D filament, unbelievable!", add_special_tokens=False)["input_ids"]
    names = tokenizer.convert_ids_to_tokens(ids)
    continues = minilm.continues_a_word()
    assert continues.shape == (minilm.form.vocabulary,)
    assert [name.startswith("##") for name in names] == continues[ids].tolist()
    assert continues[ids].sum() >= 2
    assert not continues[[101, 102, 103, 0]].any()


def test_byte_level_tokens_continue_a_word_where_no_space_is_before_them() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    space = "\u0120"
    words = ["<s>", "steel", f"{space}ruler", "er", f"{space}(", ")", ","]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    form = SentenceForm("x", "0", len(words), 0, None, ["title"], 8, "default")
    continues = AttributeTokenizer(form, tokenizer).continues_a_word()
    # The first word of a value has no space before it either, and begins one all the same: the masking sees to that.
    assert continues.tolist() == [False, True, False, True, False, False, False]


def test_bytes_of_a_character_are_no_punctuation() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    space = "\u2581"
    pieces = ["<unk>", f"{space}cr", "me", "<", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.Unigram([(piece, -1.0) for piece in pieces], 0, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    form = SentenceForm("x", "0", len(pieces), 0, None, [], 8, "default")
    continues = AttributeTokenizer(form, tokenizer).continues_a_word()
    read = tokenizer.encode("crème <me", add_special_tokens=False)
    assert read.tokens == [f"{space}cr", "<0xC3>", "<0xA8>", "me", *read.tokens[4:]]
    assert continues[read.ids[:4]].tolist() == [False, True, True, True]
    assert not continues[pieces.index("<")]


def test_tokens_that_are_not_marked_are_words() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "steel": 4, "ruler": 9}  # numbers with gaps
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    form = SentenceForm("x", "0", 10, 0, None, ["ruler"], 8, "default")
    assert AttributeTokenizer(form, tokenizer).continues_a_word().tolist() == [False] * 10


def test_the_vocabulary_reaches_to_the_last_id(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "title": 4, "ruler": 70_000}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[UNK]").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    loaded = AttributeTokenizer.load(str(tmp_path), ["title"])
    assert loaded.form.vocabulary == 70_001
    assert loaded.tokenize({"title": ["ruler"]})[0].ids.tolist() == [4, 70_000]
    assert len(loaded.continues_a_word()) == 70_001
