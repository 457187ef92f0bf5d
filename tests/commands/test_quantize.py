"""quantize and import-codes: what they refuse, and codes from the nearest text where there are no vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linguarec.codes.codebook import ItemCodes
from linguarec.commands.import_codes import import_codes
from linguarec.commands.quantize import quantize
from linguarec.data.features import FeatureInfo
from linguarec.errors import DataFormatError, LinguarecError, OutputError, SettingsError, StaleFeaturesError

ITEMS = 300
TEXTS = [f"word{row} thing" for row in range(ITEMS)]


def vectors(seed: int = 0, items: int = ITEMS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((items, 16)).astype(np.float32)


def write_index(file: Path, rows: np.ndarray) -> Path:
    import faiss

    index = faiss.index_factory(16, "IVF1,PQ4x8", faiss.METRIC_INNER_PRODUCT)
    faiss.downcast_index(index).do_polysemous_training = False  # it only renumbers the centroids, for seconds
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(file))
    return file


def test_no_folder_and_unknown_vectors(make_dataset: Any) -> None:
    with pytest.raises(SettingsError, match="name at least one prepared folder"):
        quantize([], "words")
    folder = make_dataset([list(range(ITEMS))], features={"words": vectors()}, num_items=ITEMS)
    with pytest.raises(LinguarecError, match="nothing"):
        quantize([folder.path], "nothing", subvectors=4, centroids=8)


def test_the_only_vectors_are_taken(make_dataset: Any) -> None:
    one, two, none = (
        make_dataset([list(range(ITEMS))], features=features, num_items=ITEMS, name=name)
        for name, features in (
            ("one", {"words": vectors(), "other": vectors()}),
            ("two", {"words": vectors()}),
            ("none", {}),
        )
    )
    found = quantize([one.path, two.path], subvectors=4, centroids=8, fit_on="all")
    assert found.codes == "words.opq4x8"
    with pytest.raises(SettingsError, match="one has several item vectors: other, words; choose one with --features"):
        quantize([one.path], subvectors=4, centroids=8)
    with pytest.raises(SettingsError, match=r"none has no item vectors; make them with `linguarec encode .*none`"):
        quantize([one.path, none.path], subvectors=4, centroids=8)
    with pytest.raises(SettingsError, match=r"--features other: .*two has no item vectors of that name; it has: words"):
        quantize([one.path, two.path], "other", subvectors=4, centroids=8)


def test_a_folder_that_is_named_twice_is_refused(make_dataset: Any) -> None:
    folder = make_dataset([list(range(ITEMS))], features={"words": vectors()}, num_items=ITEMS)
    with pytest.raises(SettingsError, match=f"--seed is -1.*\nthese folders are named twice: {folder.path}$"):
        quantize([folder.path, folder.path / "." / "splits" / ".."], "words", seed=-1)
    assert folder.code_names == []


def test_fitting_on_all_items_is_advised_where_it_helps(make_dataset: Any) -> None:
    """Of the 300 items 52 occur in training; the other folder has no more vectors than that at all."""
    large = make_dataset([list(range(54))], features={"words": vectors()}, num_items=ITEMS, name="large")
    few = np.tile(vectors(items=54), (6, 1))[:ITEMS]
    small = make_dataset([list(range(54))], features={"words": few}, num_items=ITEMS, name="small")
    with pytest.raises(
        SettingsError, match=r"\(--centroids 13 or so\), pass --fit-on all \(300 distinct vectors\), or fit"
    ):
        quantize([large.path], subvectors=4)
    with pytest.raises(SettingsError, match=r"\(--centroids 13 or so\), or fit on more folders together\.$"):
        quantize([small.path], subvectors=4)
    assert quantize([large.path], subvectors=4, fit_on="all").fitted_items == ITEMS


def test_codes_of_that_name_are_kept(make_dataset: Any) -> None:
    folder = make_dataset([list(range(ITEMS))], features={"words": vectors()}, num_items=ITEMS)
    quantize([folder.path], "words", subvectors=4, centroids=8, fit_on="all", name="mine")
    with pytest.raises(OutputError, match="has codes 'mine' already; pass --overwrite"):
        quantize([folder.path], "words", subvectors=4, centroids=8, fit_on="all", name="mine")


def test_vectors_of_two_encoders_get_no_common_book(make_dataset: Any) -> None:
    folders = [
        make_dataset([list(range(ITEMS))], features={"words": vectors()}, num_items=ITEMS, name=name)
        for name in ("one", "two")
    ]
    folders[1].write_features("words", vectors(), FeatureInfo("other", 16, "cls", "0" * 64, None, "default"))
    match = r"The item vectors words of .*two and of .*one differ in pooling cls against mean\."
    with pytest.raises(StaleFeaturesError, match=match):
        quantize([folder.path for folder in folders], "words", subvectors=4, centroids=8, fit_on="all")


def test_an_index_of_another_data_set_is_refused(make_dataset: Any, tmp_path: Path) -> None:
    folder = make_dataset([list(range(ITEMS))], num_items=ITEMS, texts=TEXTS)
    index = write_index(tmp_path / "x.index", vectors(items=ITEMS - 1))
    with pytest.raises(DataFormatError, match=r"holds 299 items, but .* has 300 items; the index"):
        import_codes(folder.path, index, rows="all")
    with pytest.raises(DataFormatError, match="no faiss index"):
        import_codes(folder.path, tmp_path / "absent.index", rows="all")
    assert folder.code_names == []


def test_items_that_the_index_lacks_take_the_code_of_the_nearest_text(make_dataset: Any, tmp_path: Path) -> None:
    texts = [*TEXTS[:-2], "word7", "word41"]
    folder = make_dataset([list(range(ITEMS))], num_items=ITEMS, texts=texts)
    index = write_index(tmp_path / "x.index", vectors(items=ITEMS - 2))  # leave-one-out: the last two are held out
    result = import_codes(folder.path, index, decode_as="decoded")
    assert (result["indexed_items"], result["coded_from_nearest_text"], result["coded_from_vectors"]) == (298, 2, 0)
    stored = ItemCodes.load(folder.codes_path("official"))
    assert np.array_equal(stored.codes[298:], stored.codes[[7, 41]])
    np.testing.assert_allclose(folder.features("decoded"), stored.book.decode(stored.codes), atol=1e-6)
    with pytest.raises(OutputError, match="has codes 'official' already"):
        import_codes(folder.path, index)
    with pytest.raises(OutputError, match="has vectors 'decoded' already"):
        import_codes(folder.path, index, name="again", decode_as="decoded")
