"""Item-kNN: its similarities by hand, and its files. What all closed forms do: tests/contract/test_closed_forms.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared import tiny_shop

import linguarec
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import training_sequences
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.itemknn.method import SIMILARITY_FILES, ItemKNNScorer
from linguarec.families.itemknn.model import ItemKNN, ItemKNNConfig, nearest
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.ids import IdSource

# Item 3 occurs twice in a sequence, item 5 nowhere.
LOG = [[0, 1, 2], [0, 1], [3, 1, 3], [2, 0], [4], [], [4, 2, 1]]
ITEMS = 6


def similarity_by_loops(log: list[list[int]], num_items: int, neighbours: int, shrinkage: float) -> np.ndarray:
    """[N, N]: pair by pair, then of each row the largest ones, equal ones by their column."""
    users = [{user for user, items in enumerate(log) if item in items} for item in range(num_items)]
    found = np.zeros((num_items, num_items))
    for one in range(num_items):
        for other in range(num_items):
            both = len(users[one] & users[other])
            if one != other and both:
                found[one, other] = both / ((len(users[one]) * len(users[other])) ** 0.5 + shrinkage)
        best = sorted(range(num_items), key=lambda column: (-np.float32(found[one, column]), column))
        found[one, best[neighbours:]] = 0
    return found


def drawn_log() -> list[list[int]]:
    """60 users of 12 items, some of them several times."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 12, rng.integers(1, 6)).tolist() for _ in range(60)]


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """The tiny world as a prepared folder."""
    return tiny_shop(make_dataset, features=None)


@pytest.fixture
def run(dataset: PreparedDataset, tmp_path: Path) -> Path:
    finetune("itemknn", dataset.path, tmp_path / "run", ItemKNNConfig(neighbours=20))
    return tmp_path / "run"


@pytest.mark.parametrize("at_once", [1, 20, 1 << 22])
@pytest.mark.parametrize(("neighbours", "shrinkage"), [(100, 0.0), (3, 10.0), (1, 0.5)])
def test_the_similarities_are_those_of_loops_in_blocks_of_any_size(
    neighbours: int, shrinkage: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linguarec.families.itemknn.model._PRODUCTS_AT_ONCE", at_once)
    for log, items in ((LOG, ITEMS), (drawn_log(), 13)):
        found = nearest(Ragged.from_lists(log), items, neighbours, shrinkage)
        np.testing.assert_allclose(found.toarray(), similarity_by_loops(log, items, neighbours, shrinkage), rtol=1e-6)
        assert (found.data.dtype, found.indices.dtype, found.indptr.dtype) == (np.float32, np.int32, np.int32)
        assert (found.data > 0).all() and np.diff(found.indptr).max() <= neighbours
        for row in range(items):
            assert (np.diff(found.indices[found.indptr[row] : found.indptr[row + 1]]) > 0).all()


def test_equally_similar_items_are_kept_by_their_row() -> None:
    found = nearest(Ragged.from_lists([[3, 0, 2, 1]] * 2), 4, 2, 1.0)
    assert [row.indices.tolist() for row in (found[[item]] for item in range(4))] == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_a_log_without_pairs_has_no_similarities() -> None:
    assert nearest(Ragged.from_lists([[0], [1], []]), 3, 5, 1.0).nnz == 0


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_score_is_the_decayed_sum_over_the_history(decay: float) -> None:
    network = ItemKNN(ItemKNNConfig(neighbours=3, shrinkage=1, decay=decay), CatalogueShape(ITEMS))
    network.fit(Ragged.from_lists(LOG))
    scorer = ItemKNNScorer(network)
    inputs, keys = scorer.encode(IdSource(Path(), ITEMS))
    gives = similarity_by_loops(LOG, ITEMS, 3, 1)
    expected = [
        gives[1],
        gives[2] + decay * gives[3] + decay**2 * gives[0],  # item 3 counts where it occurs last
        gives[1] + decay * gives[4],
    ]
    histories = Ragged.from_lists([[1], [3, 0, 3, 2], [4, 1]])
    scores = np.zeros((3, ITEMS))
    for index, queries in scorer.queries(inputs, histories, tokens_per_batch=4):
        scores[index] = (queries @ keys).toarray()
    np.testing.assert_allclose(scores, np.stack(expected), atol=1e-6)
    with pytest.raises(ValueError, match="history 1 is empty"):
        next(scorer.queries(inputs, Ragged.from_lists([[1], []])))


def test_items_that_are_bought_together_are_recommended(make_dataset: Any, tmp_path: Path) -> None:
    pairs = [[0, 1, 6, 7], [2, 3, 7, 6], [4, 5, 6, 7], [1, 0, 7, 6], [3, 2, 6, 7], [5, 4, 7, 6]]
    dataset = make_dataset(pairs * 5)  # training leaves the last two out, which are 6 and 7 for everybody
    finetune("itemknn", dataset.path, tmp_path / "run")
    found = linguarec.load_model(tmp_path / "run").recommend([["i0"], ["i3"], ["i4"]], k=1)
    assert [[one.raw_id for one in best] for best in found] == [["i1"], ["i2"], ["i5"]]


def test_a_run_recommends_by_its_similarities_which_stand_in_it_once(dataset: PreparedDataset, run: Path) -> None:
    assert (run / "model.safetensors").stat().st_size < 100
    [found] = linguarec.load_model(run).recommend([dataset.raw_item_ids[:3]], k=5)
    train = training_sequences(dataset.sequences, dataset.roles("leave-one-out"))
    gives = similarity_by_loops([train[user].tolist() for user in range(len(train))], dataset.num_items, 20, 10)
    scores = gives[2] + 0.7 * gives[1] + 0.49 * gives[0]
    scores[:3] = -np.inf
    best = np.argsort(-scores, kind="stable")[:5]
    assert [one.raw_id for one in found] == [dataset.raw_item_ids[item] for item in best]
    np.testing.assert_allclose([one.score for one in found], scores[best], atol=1e-6)


def test_what_needs_vectors_is_refused(run: Path) -> None:
    recommender = linguarec.load_model(run)
    for call in (recommender.item_vectors, lambda: recommender.similar_items(["i0"])):
        with pytest.raises(SettingsError, match="knows no vectors of items"):
            call()


def _with(values: np.ndarray, place: int, value: int) -> np.ndarray:
    changed = values.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("data", lambda values: values[:-1]),
        ("data", lambda values: values.astype(np.float64)),
        ("data", lambda values: np.full_like(values, np.nan)),
        ("indices", lambda values: values[:-1]),
        ("indices", lambda values: values.astype(np.int64)),
        ("indices", lambda values: _with(values, 0, 48)),
        ("indices", lambda values: _with(values, 0, -1)),
        ("indptr", lambda values: values[:-1]),
        ("indptr", lambda values: values.astype(np.int64)),
        ("indptr", lambda values: _with(values, 1, values[2] + 1)),
        ("indptr", lambda values: _with(values, 0, 1)),
    ],
)
def test_damaged_files_of_neighbours_are_refused(run: Path, part: str, damage: Any) -> None:
    file = run / SIMILARITY_FILES[part]
    np.save(file, damage(np.load(file)))
    (run / "files.json").unlink()  # the seal
    with pytest.raises(CheckpointMismatchError, match=str(run) + ".*neighbours"):
        linguarec.load_model(run)


def test_a_file_that_was_cut_is_refused(run: Path) -> None:
    file = run / SIMILARITY_FILES["indices"]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointMismatchError, match=file.name):
        linguarec.load_model(run)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"neighbours": 0}, "neighbours is 0; it must be above 0"),
        ({"shrinkage": -1.0}, "shrinkage is -1.0"),
        ({"decay": 1.5}, "decay is 1.5; it must be at most 1"),
        ({"decay": float("nan")}, "decay is nan"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ItemKNNConfig(**settings)
