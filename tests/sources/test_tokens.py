"""Items by the tokens of their attributes: which stored tokens are read, new items by the same tokenizer, the run folder."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, StaleFeaturesError
from linguarec.files import writing_folder
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.tokens import SENTENCES_FILE, TOKENS_FOLDER, TokenSource
from linguarec.text.attributes import AttributeTokenizer
from linguarec.text.token_store import write_tokens

MINILM = "all-MiniLM-L6-v2"
TEXTS = ["Red ruler", "Blue ruler and a longer text than the others", "Red saw"]
MakeDataset = Callable[..., PreparedDataset]


@pytest.fixture(scope="module")
def tokenizer() -> AttributeTokenizer:
    return AttributeTokenizer.load(MINILM, ["title"], attribute_tokens=6)


def write(dataset: PreparedDataset, tokenizer: AttributeTokenizer, name: str = "own", **changes: Any) -> None:
    """Store the tokens of the folder's titles, described with some changes of their form."""
    described = AttributeTokenizer(replace(tokenizer.form, **changes), tokenizer._tokenizer)
    with writing_folder(dataset.tokens_path(name), overwrite=True) as folder:
        write_tokens(folder, described, map(described.tokenize, [{"title": dataset.texts}]), dataset.fingerprint)


@pytest.fixture
def dataset(make_dataset: MakeDataset, tokenizer: AttributeTokenizer) -> PreparedDataset:
    made = make_dataset([[0, 1, 2]], texts=TEXTS)
    write(made, tokenizer)
    return made


def words(source: TokenSource, tokenizer: AttributeTokenizer) -> list[str]:
    """The tokens of each item as text, its key before it."""
    ends = source.tokens.offsets.tolist()
    ids = [source.tokens.ids[start:end].tolist() for start, end in itertools.pairwise(ends)]
    return [tokenizer._tokenizer.decode(each) for each in ids]


SENTENCES = ["title red ruler", "title blue ruler and a longer", "title red saw"]


# -- choosing


def test_the_only_tokens_are_read_and_of_several_the_requested_ones(
    dataset: PreparedDataset, tokenizer: AttributeTokenizer
) -> None:
    source = TokenSource.choose(dataset, {})
    assert (source.names, source.form, source.shape) == ({"tokens": "own"}, tokenizer.form, CatalogueShape(3))
    assert words(source, tokenizer) == SENTENCES
    write(dataset, tokenizer, "second")
    with pytest.raises(SettingsError, match="has several item tokens: own, second; choose one with --tokens"):
        TokenSource.choose(dataset, {})
    assert TokenSource.choose(dataset, {"tokens": "second"}).name == "second"


def test_a_backbone_chooses_the_tokens_of_its_tokenizer(
    dataset: PreparedDataset, tokenizer: AttributeTokenizer
) -> None:
    write(dataset, tokenizer, "foreign", tokenizer_sha256="1" * 64)
    assert TokenSource.choose(dataset, {"backbone": MINILM}).name == "own"


def test_with_a_start_tokens_of_its_tokenizer_are_read(dataset: PreparedDataset, tokenizer: AttributeTokenizer) -> None:
    start = TokenSource.choose(dataset, {}).without_items()
    write(dataset, tokenizer, "foreign", tokenizer_sha256="1" * 64, backbone="roberta")
    assert TokenSource.choose(dataset, {}, start).name == "own"
    with pytest.raises(StaleFeaturesError, match=r"by the tokenizer of .*MiniLM.* has foreign by that of roberta"):
        TokenSource.choose(dataset, {"tokens": "foreign"}, start)
    write(dataset, tokenizer, "twin")
    with pytest.raises(SettingsError, match="has several item tokens that fit: own, twin"):
        TokenSource.choose(dataset, {}, start)


def test_several_folders_are_read_by_one_tokenizer(
    dataset: PreparedDataset, make_dataset: MakeDataset, tokenizer: AttributeTokenizer
) -> None:
    second = make_dataset([[0, 1]], texts=["Mug", "Tea"], name="second")
    with pytest.raises(
        StaleFeaturesError, match=rf"second has no tokens\. Make them: `linguarec tokenize {second.path}"
    ):
        TokenSource.choose_for_all([dataset, second], {})
    write(second, tokenizer, "named")
    sources = TokenSource.choose_for_all([dataset, second], {})
    assert [(source.name, len(source)) for source in sources] == [("own", 3), ("named", 2)]


# -- reading


def test_a_part_holds_all_tokens_of_its_items(dataset: PreparedDataset, tokenizer: AttributeTokenizer) -> None:
    source = TokenSource.choose(dataset, {})
    part = source.part(np.array([2, 1]))
    assert part.rows.tolist() == [2, 1]
    assert part.tokens is not None
    assert part.tokens.lengths.tolist() == [1 + 3, 1 + 6]  # with the token that opens every input
    assert words(source.select(np.array([2, 1])), tokenizer) == [SENTENCES[2], SENTENCES[1]]
    assert len(source.without_items()) == 0


# -- new items, and items of other folders


def test_new_items_are_tokenized_alike_and_cut_values_counted(
    dataset: PreparedDataset, tokenizer: AttributeTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    source = TokenSource.choose(dataset, {})
    new = source.new(pa.table({"raw_id": ["a", "b"], "title": ["Red saw", TEXTS[1]], "text": ["", ""]}))
    assert words(new, tokenizer) == [SENTENCES[2], SENTENCES[1]]
    assert "cut 1 values of the new items at 6 tokens, name included" in caplog.text
    grown = source.joined(new)
    assert words(grown, tokenizer) == [*SENTENCES, SENTENCES[2], SENTENCES[1]]
    assert (source.attributes, source.text_rules) == (["title"], "default")


def test_new_items_that_cannot_be_read_are_refused(dataset: PreparedDataset) -> None:
    source = TokenSource.choose(dataset, {})
    items = pa.table({"raw_id": ["a", "b"], "title": ["Saw", None]})
    with pytest.raises(DataFormatError, match=r"New item 'b' has no text in any of the attributes .* title"):
        source.new(items)
    with pytest.raises(DataFormatError, match="reads the attributes title; the items lack title"):
        source.new(items.drop_columns("title"))
    with pytest.raises(SettingsError, match="reads the attributes of items and takes no vectors"):
        source.new(items, np.zeros((2, 4), np.float32))


def test_another_folder_must_have_tokens_of_the_tokenizer(
    dataset: PreparedDataset, make_dataset: MakeDataset, tokenizer: AttributeTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    own = TokenSource.choose(dataset, {}).without_items()
    second = make_dataset([[0, 1]], texts=["Mug", "Tea"], name="second")
    with pytest.raises(StaleFeaturesError, match="second has no tokens"):
        own.matching(second, {})
    write(second, tokenizer)
    assert words(own.matching(second, {}), tokenizer) == ["title mug", "title tea"]
    assert caplog.text == ""
    write(second, tokenizer, attribute_tokens=9)
    assert own.matching(second, {}).name == "own"
    assert "items become sentences in 2 ways" in caplog.text
    unknown = TokenSource(own.folder, own.tokens, None)
    write(second, tokenizer, tokenizer_sha256="1" * 64)
    assert unknown.matching(second, {}).name == "own"  # it is not known whose tokens the model reads


# -- the run folder


def test_a_saved_source_needs_no_backbone(
    dataset: PreparedDataset, tokenizer: AttributeTokenizer, tmp_path: Path
) -> None:
    source = TokenSource.choose(dataset, {})
    lost = replace(tokenizer.form, backbone=str(tmp_path / "lost"))
    source = TokenSource(source.folder, source.tokens, lost, source.tokenizer)
    source.save(tmp_path)
    source.save_items(tmp_path, dataset.raw_item_ids)
    loaded = TokenSource.load(tmp_path, source.shape, dataset.raw_item_ids)
    assert loaded.form == lost
    assert words(loaded, tokenizer) == SENTENCES
    assert words(loaded.new(pa.table({"raw_id": ["n"], "title": ["Red saw"]})), tokenizer) == [SENTENCES[2]]
    assert len(TokenSource.load(tmp_path, source.shape)) == 0
    assert loaded.settings() == source.settings()
    assert loaded.settings()["sentences"]["attribute_tokens"] == 6


def test_tokens_of_another_catalogue_are_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    source = TokenSource.choose(dataset, {})
    source.save(tmp_path)
    source.save_items(tmp_path, dataset.raw_item_ids)
    with pytest.raises(StaleFeaturesError, match=f"{TOKENS_FOLDER} was made from another catalogue"):
        TokenSource.load(tmp_path, source.shape, ["i0", "i1", "other"])


def test_a_form_that_is_not_known_stays_so(tmp_path: Path) -> None:
    loaded = TokenSource.load(tmp_path, CatalogueShape(0))
    assert (loaded.form, loaded.text_rules, len(loaded)) == (None, None, 0)
    for ask in (lambda: loaded.attributes, lambda: loaded.new(pa.table({"raw_id": ["n"]})), loaded.settings):
        with pytest.raises(
            CheckpointMismatchError, match=f"has no {SENTENCES_FILE}, which describes how items become tokens"
        ):
            ask()
