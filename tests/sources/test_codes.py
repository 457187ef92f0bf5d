"""Items by their codes: which stored codes are read, and how new items and other folders are coded by the same codebook."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError, StaleFeaturesError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.codes import BOOK_FILE, CODES_FILE, CodeSource
from linguarec.sources.embeddings import EmbeddingSource

BOOKS, CENTROIDS, WIDTH = 2, 4, 4
TEXTS = ["Red ruler.", "Blue ruler.", "Red saw."]
MakeDataset = Callable[..., PreparedDataset]


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """A stand-in for a text encoder: a vector that depends on the text alone."""
    rows = [np.random.default_rng(list(text.encode())).standard_normal(WIDTH) for text in texts]
    return np.array(rows, dtype=np.float32).reshape(-1, WIDTH)


def book_of(seed: int = 0, fingerprint: str | None = "0" * 64) -> CodeBook:
    centroids = np.random.default_rng(seed).standard_normal((BOOKS, CENTROIDS, WIDTH // BOOKS)).astype(np.float32)
    return CodeBook("pq", centroids, None, None, "enc", fingerprint)


def nearest(vectors: np.ndarray, book: CodeBook) -> np.ndarray:
    """Codes by a plain loop."""
    parts = vectors.reshape(len(vectors), BOOKS, -1)
    return np.array(
        [[((book.centroids[m] - part[m]) ** 2).sum(axis=1).argmin() for m in range(BOOKS)] for part in parts]
    )


def write_codes(dataset: PreparedDataset, name: str, book: CodeBook) -> None:
    ItemCodes(book.encode(vectors_of(dataset.texts)), book, dataset.texts_fingerprint).save(dataset.codes_path(name))


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were encoded."""
    read: list[str] = []

    class FakeEncoder:
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            read.extend(texts)
            return vectors_of(texts)

    monkeypatch.setattr(EmbeddingSource, "_text_encoder", FakeEncoder())
    return read


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> PreparedDataset:
    made = make_dataset([[0, 1, 2]], texts=TEXTS, features={"enc": vectors_of(TEXTS)})
    write_codes(made, "own", book_of())
    return made


@pytest.fixture
def other(make_dataset: MakeDataset) -> PreparedDataset:
    """A folder with vectors of the same encoder, without codes."""
    return make_dataset([[0, 1]], texts=["Mug.", "Tea."], features={"enc": vectors_of(["Mug.", "Tea."])}, name="other")


def table(*texts: str) -> pa.Table:
    return pa.table({"raw_id": [f"n{number}" for number in range(len(texts))], "text": list(texts)})


# -- choosing


def test_codes_of_the_folder_itself_are_read(dataset: PreparedDataset) -> None:
    source = CodeSource.choose(dataset, {})
    assert (source.names, len(source), source.num_draws) == ({"codes": "own"}, 3, 0)
    assert source.shape == CatalogueShape(3, code_books=BOOKS, centroids=CENTROIDS)
    assert source.encoder == dataset.feature_info("enc")
    part = source.part(np.array([2, 0]))
    assert (part.rows.tolist(), part.features) == ([2, 0], None)
    assert_array_equal(part.codes, nearest(vectors_of([TEXTS[2], TEXTS[0]]), book_of()))
    write_codes(dataset, "book-0123", book_of(1))  # made for a start, so read only if named
    assert CodeSource.choose(dataset, {}).name == "own"
    assert CodeSource.choose(dataset, {"codes": "book-0123"}).name == "book-0123"


def test_a_choice_that_cannot_be_made_is_named(dataset: PreparedDataset, other: PreparedDataset) -> None:
    command = rf"`linguarec quantize {other.path} --features enc`"
    with pytest.raises(SettingsError, match=f"has none; make them with {command}"):
        CodeSource.choose(other, {})
    write_codes(dataset, "second", book_of(1))
    with pytest.raises(SettingsError, match="has several item codes: own, second; choose one with --codes"):
        CodeSource.choose(dataset, {})


def test_with_a_start_sizes_and_encoder_must_be_its_own(dataset: PreparedDataset, other: PreparedDataset) -> None:
    start = CodeSource.choose(dataset, {}).without_items()
    write_codes(other, "own", book_of(1))  # another codebook of the same vectors will do
    assert CodeSource.choose(other, {}, start).name == "own"
    small = CodeBook("pq", np.zeros((BOOKS, 3, 2), np.float32), None, None, "enc", "0" * 64)
    write_codes(other, "own", small)
    with pytest.raises(CheckpointMismatchError, match=r"are 2 of 3 values, .* reads 2 of 4: `linguarec quantize"):
        CodeSource.choose(other, {}, start)
    write_codes(other, "own", book_of(1, "1" * 64))
    with pytest.raises(
        StaleFeaturesError, match=r"was trained on vectors of enc \(weights 0000.*stand for vectors of enc"
    ):
        CodeSource.choose(other, {}, start)


def test_several_folders_need_one_codebook(dataset: PreparedDataset, other: PreparedDataset) -> None:
    write_codes(other, "own", book_of())
    sources = CodeSource.choose_for_all([dataset, other], {})
    assert [len(source) for source in sources] == [3, 2]
    write_codes(other, "own", book_of(1))
    with pytest.raises(
        StaleFeaturesError, match=r"codebooks were fitted separately\. Fit one for all folders: `linguarec quantize"
    ):
        CodeSource.choose_for_all([dataset, other], {})


def test_with_a_start_several_folders_are_coded_by_its_codebook(
    dataset: PreparedDataset, other: PreparedDataset
) -> None:
    start = CodeSource.choose(dataset, {}).without_items()
    first, second = CodeSource.choose_for_all([dataset, other], {}, start)
    made = f"book-{book_of().fingerprint[:12]}"
    assert (first.name, second.name, other.code_names) == ("own", made, [made])
    assert_array_equal(second.codes, nearest(vectors_of(["Mug.", "Tea."]), book_of()))
    write_codes(other, "named", book_of(1))
    with pytest.raises(CheckpointMismatchError, match=r"are of the codebook .* leave --codes out"):
        start.coded_alike(other, {"codes": "named"})


# -- new items, and items of other folders


def test_new_items_are_coded_by_the_codebook(dataset: PreparedDataset, encoder: list[str]) -> None:
    source = CodeSource.choose(dataset, {})
    new = source.new(table("Green saw.", "Mug."))
    expected = nearest(vectors_of(["Green saw.", "Mug."]), book_of())
    assert_array_equal(new.codes, expected)
    assert encoder == ["Green saw.", "Mug."]
    given = source.new(table("Green saw."), vectors_of(["Mug."]))
    assert_array_equal(given.codes, expected[1:])
    assert len(encoder) == 2
    grown = source.joined(new)
    assert_array_equal(grown.codes, np.concatenate([source.codes, expected]))
    assert (len(grown), grown.book, grown.text_rules) == (5, source.book, "default")


def test_vectors_of_another_width_or_not_finite_are_refused(dataset: PreparedDataset) -> None:
    source = CodeSource.choose(dataset, {})
    with pytest.raises(StaleFeaturesError, match="codes vectors of width 4"):
        source.new(table("Saw."), np.zeros((1, 7), np.float32))
    with pytest.raises(DataFormatError, match="hold NaN or an infinity"):
        source.new(table("Saw."), np.full((1, WIDTH), np.nan, np.float32))


def test_another_folder_is_read_by_codes_of_the_codebook_or_coded_in_memory(
    dataset: PreparedDataset, other: PreparedDataset, make_dataset: MakeDataset, encoder: list[str]
) -> None:
    own = CodeSource.choose(dataset, {}).without_items()
    made = own.matching(other, {})
    assert (made.names, other.code_names, encoder) == ({"codes": None, "features": "enc"}, [], [])
    assert_array_equal(made.codes, nearest(vectors_of(["Mug.", "Tea."]), book_of()))
    write_codes(other, "a", book_of(1))
    write_codes(other, "b", book_of())
    assert own.matching(other, {}).names == {"codes": "b"}
    bare = make_dataset([[0]], texts=["Cup."], name="bare")
    assert_array_equal(own.matching(bare, {}).codes, nearest(vectors_of(["Cup."]), book_of()))
    assert encoder == ["Cup."]
    with pytest.raises(StaleFeaturesError, match="bare has no vectors"):
        own.matching(bare, {}, encode=False)


# -- the run folder


def test_a_saved_source_brings_codebook_codes_and_encoder_along(dataset: PreparedDataset, tmp_path: Path) -> None:
    source = CodeSource.choose(dataset, {})
    source.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix == ".npz") == [CODES_FILE]
    loaded = CodeSource.load(tmp_path, source.shape, dataset.raw_item_ids)
    assert_array_equal(loaded.codes, source.codes)
    assert loaded.known_book().fingerprint == source.known_book().fingerprint
    assert loaded.encoder is not None
    assert loaded.encoder.weights_sha256 == "0" * 64
    assert len(CodeSource.load(tmp_path, source.shape)) == 0


def test_without_items_the_codebook_alone_is_saved(dataset: PreparedDataset, tmp_path: Path) -> None:
    source = CodeSource.choose(dataset, {}).without_items()
    source.save(tmp_path)
    assert (tmp_path / BOOK_FILE).exists()
    assert not (tmp_path / CODES_FILE).exists()
    loaded = CodeSource.load(tmp_path, source.shape)
    assert (len(loaded), loaded.shape) == (0, CatalogueShape(0, code_books=BOOKS, centroids=CENTROIDS))
    assert_array_equal(loaded.new(table("Mug.")).codes, nearest(vectors_of(["Mug."]), book_of()))


def test_a_codebook_of_another_size_than_the_model_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    CodeSource.choose(dataset, {}).save(tmp_path)
    with pytest.raises(CheckpointMismatchError, match="has 2 books of 4 codes, but the model beside it 2 of 256"):
        CodeSource.load(tmp_path, CatalogueShape(3, code_books=BOOKS, centroids=256))


def test_without_a_codebook_nothing_can_be_coded(other: PreparedDataset, tmp_path: Path) -> None:
    loaded = CodeSource.load(tmp_path, CatalogueShape(3, code_books=BOOKS, centroids=CENTROIDS))
    assert loaded.shape == CatalogueShape(0, code_books=BOOKS, centroids=CENTROIDS)
    with pytest.raises(SettingsError, match="holds no codebook to code new items with"):
        loaded.new(table("Saw."))
    for ask in (loaded.matching, loaded.coded_alike):
        with pytest.raises(CheckpointMismatchError, match=rf"has no codebook \({BOOK_FILE}\)"):
            ask(other, {})


def test_the_encoder_is_known_by_the_codebook_where_no_vectors_are_stored(make_dataset: MakeDataset) -> None:
    bare = make_dataset([[0]], texts=TEXTS, name="bare")
    write_codes(bare, "own", book_of())
    source = CodeSource.stored(bare, "own")
    assert (source.encoder, source.text_rules) == (None, None)
    assert source.new(table("Mug.")).codes.tolist() == nearest(vectors_of(["Mug."]), book_of()).tolist()
    info = FeatureInfo("enc", WIDTH, "mean", "0" * 64, bare.texts_fingerprint, "default")
    bare.write_features("elsewhere", vectors_of(TEXTS), info)
    assert CodeSource.stored(bare, "own").encoder == info
