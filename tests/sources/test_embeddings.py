"""Items by their text vectors: which stored vectors are read, and how new items and other folders get vectors alike."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources import source as interface
from linguarec.sources.embeddings import EmbeddingSource

WIDTH = 4
TEXTS = ["Red ruler.", "Blue ruler.", "Red saw."]
MakeDataset = Callable[..., PreparedDataset]


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """A stand-in for a text encoder: a vector that depends on the text alone."""
    rows = [np.random.default_rng(list(text.encode())).standard_normal(WIDTH) for text in texts]
    return np.array(rows, dtype=np.float32).reshape(-1, WIDTH)


class FakeEncoder:
    """Counts the texts that it encodes."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.read += texts
        return vectors_of(texts)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr(EmbeddingSource, "_text_encoder", fake)
    return fake


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> PreparedDataset:
    return make_dataset([[0, 1, 2]], texts=TEXTS, features={"enc": vectors_of(TEXTS)})


def write_vectors(dataset: PreparedDataset, name: str, **changes: Any) -> None:
    """Store the vectors of the folder's texts once more, described as those of another encoder."""
    info = FeatureInfo(name, WIDTH, "mean", "1" * 64, dataset.texts_fingerprint, "default")
    dataset.write_features(name, vectors_of(dataset.texts), replace(info, **changes))


def write_draw(dataset: PreparedDataset, number: int) -> np.ndarray:
    drawn = vectors_of([f"{text} {number}" for text in dataset.texts])
    np.save(dataset.feature_path("enc").with_suffix(f".drop{number}.npy"), drawn)
    return drawn


# -- choosing


def test_the_only_vectors_are_read_and_of_several_the_requested_ones(dataset: PreparedDataset) -> None:
    assert EmbeddingSource.choose(dataset, {}).names == {"features": "enc"}
    write_vectors(dataset, "other")
    with pytest.raises(SettingsError, match="has several item vectors: enc, other; choose one with --features"):
        EmbeddingSource.choose(dataset, {})
    found = EmbeddingSource.choose(dataset, {"features": "other"})
    assert (found.name, found.info.weights_sha256, len(found)) == ("other", "1" * 64, 3)
    with pytest.raises(
        SettingsError, match=r"--features nope: .* has no item vectors of that name; it has: enc, other"
    ):
        EmbeddingSource.choose(dataset, {"features": "nope"})


def test_a_folder_without_vectors_names_the_command_that_makes_them(make_dataset: MakeDataset) -> None:
    bare = make_dataset([[0, 1]])
    with pytest.raises(SettingsError, match=rf"has none; make them with `linguarec encode {bare.path}`"):
        EmbeddingSource.choose(bare, {})


def test_with_a_start_the_vectors_of_its_encoder_are_read(dataset: PreparedDataset, tmp_path: Path) -> None:
    start = EmbeddingSource.choose(dataset, {}).without_items()
    start.folder = tmp_path / "start"
    write_vectors(dataset, "other")
    assert EmbeddingSource.choose(dataset, {}, start).name == "enc"
    message = r"start was trained on vectors of enc \(weights 0000.*and .* has vectors other \(encoder other"
    with pytest.raises(StaleFeaturesError, match=message):
        EmbeddingSource.choose(dataset, {"features": "other"}, start)


def test_several_folders_are_read_by_one_encoder(dataset: PreparedDataset, make_dataset: MakeDataset) -> None:
    second = make_dataset([[0, 1]], texts=["Mug.", "Tea."], features={"enc": vectors_of(["Mug.", "Tea."])}, name="two")
    write_draw(dataset, 0)
    first, other = EmbeddingSource.choose_for_all([dataset, second], {})
    assert (first.name, other.name) == ("enc", "enc")
    assert (first.num_draws, other.num_draws) == (1, 0)
    assert torch.equal(other.catalogue().features, torch.from_numpy(vectors_of(["Mug.", "Tea."])))
    write_vectors(second, "enc")
    with pytest.raises(StaleFeaturesError, match=r"item vectors enc of .*two and of .*tiny differ in encoder"):
        EmbeddingSource.choose_for_all([dataset, second], {})


# -- reading


def test_a_part_is_the_rows_in_the_order_asked_for(dataset: PreparedDataset) -> None:
    part = EmbeddingSource.choose(dataset, {}).part(np.array([2, 0]))
    assert part.rows.tolist() == [2, 0]
    assert part.codes is None
    assert torch.equal(part.features, torch.from_numpy(vectors_of([TEXTS[2], TEXTS[0]])))


def test_each_item_is_read_by_the_draw_asked_for(dataset: PreparedDataset) -> None:
    draws = [write_draw(dataset, number) for number in range(2)]
    (source,) = EmbeddingSource.choose_for_all([dataset], {})
    assert source.num_draws == 2
    part = source.part(np.array([0, 1, 2, 1]), np.array([0, 1, 2, 2]))
    expected = [vectors_of(TEXTS)[0], draws[0][1], draws[1][2], draws[1][1]]
    assert torch.equal(part.features, torch.from_numpy(np.stack(expected)))


def test_chunks_are_the_catalogue_in_parts_and_new_items_have_no_row(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "ITEMS_PER_CHUNK", 2)
    source = EmbeddingSource.choose(dataset, {})
    assert [chunk.rows.tolist() for chunk in source.chunks()] == [[0, 1], [2]]
    assert [chunk.rows.tolist() for chunk in source.chunks(new=True)] == [[-1, -1], [-1]]
    assert torch.equal(torch.cat([chunk.features for chunk in source.chunks(new=True)]), source.catalogue().features)
    (empty,) = source.without_items().chunks()
    assert empty.features.shape == (0, WIDTH)


def test_the_shape_is_what_a_model_is_built_for(dataset: PreparedDataset) -> None:
    source = EmbeddingSource.choose(dataset, {})
    assert source.shape == CatalogueShape(3, feature_width=WIDTH)
    assert source.without_items().shape == CatalogueShape(0, feature_width=WIDTH)
    assert source.text_rules == "default"


# -- new items, and items of other folders


def table(*texts: str) -> pa.Table:
    return pa.table({"raw_id": [f"n{number}" for number in range(len(texts))], "text": list(texts)})


def test_new_items_are_encoded_or_take_the_vectors_given(dataset: PreparedDataset, encoder: FakeEncoder) -> None:
    source = EmbeddingSource.choose(dataset, {}).kept_by_run()
    new = source.new(table("Green saw.", "Blue ruler."))
    assert torch.equal(new.catalogue().features, torch.from_numpy(vectors_of(["Green saw.", "Blue ruler."])))
    assert encoder.read == ["Green saw.", "Blue ruler."]
    given = source.new(table("Green saw."), np.full((1, WIDTH), 0.5))
    assert given.catalogue().features.tolist() == [[0.5] * WIDTH]
    assert len(encoder.read) == 2
    assert len(source.joined(new)) == 0  # a run keeps what a model made of the vectors, not the vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((2, WIDTH)), "There are 1 new items and 2 vectors; give one for each item"),
        (np.zeros((1, 7)), r"have the shape \(1, 7\), this model reads vectors of width 4"),
        (np.full((1, WIDTH), np.inf), "1 of the 1 new items hold NaN or an infinity, first that of row 0"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(dataset: PreparedDataset, vectors: np.ndarray, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        EmbeddingSource.choose(dataset, {}).new(table("Saw."), vectors)


def test_texts_cannot_be_encoded_if_the_encoder_is_not_known(dataset: PreparedDataset, encoder: FakeEncoder) -> None:
    write_vectors(dataset, "imported", weights_sha256=None, texts_fingerprint=None)
    source = EmbeddingSource.choose(dataset, {"features": "imported"})
    with pytest.raises(SettingsError, match=r"text vectors \(imported\) were imported, not encoded here"):
        source.new(table("Saw."))
    assert encoder.read == []


def test_another_folder_is_read_by_its_vectors_of_the_encoder_else_encoded(
    dataset: PreparedDataset, make_dataset: MakeDataset, encoder: FakeEncoder
) -> None:
    own = EmbeddingSource.choose(dataset, {}).without_items()
    stored = make_dataset([[0]], texts=["Mug."], features={"enc": vectors_of(["Mug."]) + 1}, name="stored")
    found = own.matching(stored, {})
    assert (found.name, encoder.read) == ("enc", [])
    assert torch.equal(found.catalogue().features, torch.from_numpy(vectors_of(["Mug."]) + 1))
    bare = make_dataset([[0]], texts=["Tea."], name="bare")
    made = own.matching(bare, {})
    assert (made.name, made.folder, encoder.read) == (None, bare.path, ["Tea."])
    assert torch.equal(made.catalogue().features, torch.from_numpy(vectors_of(["Tea."])))
    with pytest.raises(
        StaleFeaturesError, match=rf"bare has no vectors\. .*`linguarec encode {bare.path} --encoder enc"
    ):
        own.matching(bare, {}, encode=False)


def test_some_items_of_another_folder_are_new_items(
    dataset: PreparedDataset, make_dataset: MakeDataset, encoder: FakeEncoder
) -> None:
    own = EmbeddingSource.choose(dataset, {}).without_items()
    texts = ["Mug.", "Tea.", "Cup."]
    stored = make_dataset([[0]], texts=texts, features={"enc": vectors_of(texts) + 1}, name="stored")
    found = own.new_of(stored, np.array([2, 1]))
    assert torch.equal(found.catalogue().features, torch.from_numpy(vectors_of(["Cup.", "Tea."]) + 1))
    bare = make_dataset([[0]], texts=texts, name="bare")
    found = own.new_of(bare, np.array([2]))
    assert torch.equal(found.catalogue().features, torch.from_numpy(vectors_of(["Cup."])))
    assert encoder.read == ["Cup."]


# -- the run folder


def test_a_saved_source_knows_its_encoder_and_holds_no_items(dataset: PreparedDataset, tmp_path: Path) -> None:
    source = EmbeddingSource.choose(dataset, {})
    source.save(tmp_path)
    loaded = EmbeddingSource.load(tmp_path, source.shape, raw_ids=dataset.raw_item_ids)
    assert loaded.info == replace(source.info, texts_fingerprint=None)
    assert len(loaded) == 0
    assert EmbeddingSource.choose(dataset, {}, loaded).name == "enc"


def test_an_encoder_that_is_not_known_stays_so(tmp_path: Path) -> None:
    loaded = EmbeddingSource.load(tmp_path, CatalogueShape(9, feature_width=WIDTH))
    assert loaded.info == FeatureInfo(UNKNOWN, WIDTH, UNKNOWN, None, None, UNKNOWN)
    assert loaded.text_rules is None
    loaded.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
