"""Items by their rows: nothing stored is read, and items of no row are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.ids import IdSource


@pytest.fixture
def dataset(make_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return make_dataset([[0, 4, 2]])


def test_all_items_of_a_folder_are_read_by_their_rows(dataset: PreparedDataset) -> None:
    source = IdSource.choose(dataset, {})
    assert (len(source), source.shape, source.names, source.num_draws) == (5, CatalogueShape(5), {}, 0)
    part = source.part(np.array([3, 0]))
    assert part.rows.tolist() == [3, 0]
    assert (part.features, part.codes, part.tokens) == (None, None, None)
    assert source.catalogue().rows.tolist() == [0, 1, 2, 3, 4]
    assert [len(each) for each in IdSource.choose_for_all([dataset, dataset], {})] == [5, 5]


def test_items_of_another_folder_and_new_ones_are_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    run = IdSource(tmp_path / "run", 5)
    for ask in (lambda: run.matching(dataset, {}), lambda: IdSource.choose(dataset, {}, run)):
        with pytest.raises(
            SettingsError, match=rf"run holds a model that knows items by ID; the items of {dataset.path}"
        ):
            ask()
    with pytest.raises(SettingsError, match="knows items by ID only and cannot read new ones"):
        run.new(pa.table({"raw_id": ["n"], "text": ["Saw."]}))


def test_loading_needs_the_shape_alone(dataset: PreparedDataset, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    IdSource.choose(dataset, {}).save(folder)
    assert list(folder.iterdir()) == []
    loaded = IdSource.load(folder, CatalogueShape(5))
    assert (len(loaded), len(loaded.without_items())) == (5, 0)
