"""EASE: its closed form by hand. What all closed forms do: tests/contract/test_closed_forms.py."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import tiny_shop

import linguarec
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import training_sequences
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.ease import method
from linguarec.families.ease.method import EASEScorer, check_memory
from linguarec.families.ease.model import EASE, EASEConfig, item_weights, seconds_needed
from linguarec.families.family import Request
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.ids import IdSource
from linguarec.training.settings import TrainingSettings

# Item 3 occurs twice in a sequence, item 5 nowhere.
LOG = [[0, 1, 2], [0, 1], [3, 1, 3], [2, 0], [4], [], [4, 2, 1]]
ITEMS = 6


def weights_by_regression(
    log: list[list[int]], num_items: int, regularisation: float, length_damping: float = 0.0
) -> np.ndarray:
    """B column by column: the ridge regression of an item on all others, which is what EASE's constraint means."""
    seen = np.zeros((len(log), num_items))
    for user, items in enumerate(log):
        for item in items:
            seen[user, item] = 1
    lengths = seen.sum(axis=1)
    counts = np.array([length**-length_damping if length else 0 for length in lengths])
    seen *= np.sqrt(counts * lengths.sum() / (counts * lengths).sum())[:, None]
    weights = np.zeros((num_items, num_items))
    for item in range(num_items):
        others = [other for other in range(num_items) if other != item]
        gram = seen[:, others].T @ seen[:, others] + regularisation * np.eye(num_items - 1)
        weights[others, item] = np.linalg.solve(gram, seen[:, others].T @ seen[:, item])
    return weights


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """The tiny world as a prepared folder."""
    return tiny_shop(make_dataset, features=None)


@pytest.fixture
def run(dataset: PreparedDataset, tmp_path: Path) -> Path:
    finetune("ease", dataset.path, tmp_path / "run", EASEConfig(regularisation=20), defaults="fixed")
    return tmp_path / "run"


@pytest.mark.parametrize(("regularisation", "damping"), [(0.5, 0.0), (30.0, 0.0), (0.5, 0.5), (2.0, 1.0)])
def test_the_weights_are_those_of_a_regression_for_each_item(regularisation: float, damping: float) -> None:
    config = EASEConfig(regularisation=regularisation, length_damping=damping)
    found = item_weights(Ragged.from_lists(LOG), ITEMS, config)
    np.testing.assert_allclose(found, weights_by_regression(LOG, ITEMS, regularisation, damping), atol=1e-7)
    assert found.dtype == np.float32
    assert not found.diagonal().any()
    assert not found[5].any() and not found[:, 5].any()


def test_a_large_catalogue_is_solved_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = item_weights(Ragged.from_lists(LOG), ITEMS, EASEConfig(2.0))
    monkeypatch.setattr("linguarec.families.ease.model._ROWS_AT_ONCE", 4)
    np.testing.assert_array_equal(item_weights(Ragged.from_lists(LOG), ITEMS, EASEConfig(2.0)), whole)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_score_is_the_decayed_sum_over_the_history(decay: float) -> None:
    network = EASE(EASEConfig(regularisation=2, decay=decay), CatalogueShape(ITEMS))
    network.fit(Ragged.from_lists(LOG))
    scorer = EASEScorer(network)
    inputs, keys = scorer.encode(IdSource(Path(), ITEMS))
    histories = Ragged.from_lists([[1], [3, 0, 3, 2], [4, 1]])
    weights = weights_by_regression(LOG, ITEMS, 2)
    expected = [
        weights[1],
        weights[2] + decay * weights[3] + decay**2 * weights[0],  # item 3 counts where it occurs last
        weights[1] + decay * weights[4],
    ]
    scores = torch.zeros(3, ITEMS)
    for index, queries in scorer.queries(inputs, histories, tokens_per_batch=4):
        scores[torch.from_numpy(index)] = queries @ keys.T
    np.testing.assert_allclose(scores, np.stack(expected), atol=1e-6)


def test_queries_are_made_of_few_histories_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is as long as the catalogue, so a batch of 16,384 short histories would fill the memory."""
    monkeypatch.setattr(method, "_QUERY_NUMBERS_AT_ONCE", 3 * ITEMS)
    scorer = EASEScorer(EASE(EASEConfig(), CatalogueShape(ITEMS)))
    scorer.network.fit(Ragged.from_lists(LOG))  # type: ignore[operator]
    inputs, _ = scorer.encode(IdSource(Path(), ITEMS))
    sizes = [len(index) for index, _ in scorer.queries(inputs, Ragged.from_lists([[1]] * 8))]
    assert sizes == [3, 3, 2]


def test_items_that_are_bought_together_are_recommended(make_dataset: Any, tmp_path: Path) -> None:
    pairs = [[0, 1, 6, 7], [2, 3, 7, 6], [4, 5, 6, 7], [1, 0, 7, 6], [3, 2, 6, 7], [5, 4, 7, 6]]
    dataset = make_dataset(pairs * 5)  # training leaves the last two out, which are 6 and 7 for everybody
    finetune("ease", dataset.path, tmp_path / "run", EASEConfig(regularisation=1))
    recommender = linguarec.load_model(tmp_path / "run")
    found = recommender.recommend([["i0"], ["i3"], ["i4"]], k=1)
    assert [[one.raw_id for one in best] for best in found] == [["i1"], ["i2"], ["i5"]]


def test_a_run_recommends_by_its_weights_which_stand_in_it_once(dataset: PreparedDataset, run: Path) -> None:
    train = training_sequences(dataset.sequences, dataset.roles("leave-one-out"))
    keys = np.load(run / "keys.npy")
    np.testing.assert_array_equal(keys, item_weights(train, dataset.num_items, EASEConfig(20)).T)
    assert (run / "model.safetensors").stat().st_size < 100

    [found] = linguarec.load_model(run).recommend([dataset.raw_item_ids[:3]], k=5)
    weights = weights_by_regression(
        [part.tolist() for part in (train[user] for user in range(len(train)))], len(keys), 20
    )
    scores = weights[2] + 0.7 * weights[1] + 0.49 * weights[0]
    scores[:3] = -np.inf
    best = np.argsort(-scores, kind="stable")[:5]
    assert [one.raw_id for one in found] == [dataset.raw_item_ids[item] for item in best]
    np.testing.assert_allclose([one.score for one in found], scores[best], atol=1e-6)


def test_keys_of_another_catalogue_are_refused(run: Path) -> None:
    keys = np.load(run / "keys.npy")
    np.save(run / "keys.npy", keys[:, :-1])
    with pytest.raises(CheckpointMismatchError, match=str(run)):
        linguarec.load_model(run)
    (run / "files.json").unlink()  # the seal
    with pytest.raises(CheckpointMismatchError, match=r"queries must be \[Q, "):
        linguarec.load_model(run)


def test_too_many_items_are_refused_before_anything_is_written(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "available_memory", lambda: 10_000)
    with pytest.raises(SettingsError, match=f"^.*{dataset.num_items:,} items need .* enough for 20 items"):
        finetune("ease", dataset.path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingsError, match=r"60,000 items need 80.5 GiB .* 16.0 GiB are .* enough for 26,754 items"):
        check_memory(60_000, 16 * 2**30)
    check_memory(20_000, 16 * 2**30)
    check_memory(60_000, None)


@pytest.mark.parametrize("name", ["ease", "ease-text"])
def test_planning_solves_nothing(name: str, make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a solution is measured when the training begins; what does not fit is refused before."""
    data = tiny_shop(make_dataset)
    solved: list[int] = []
    monkeypatch.setattr(method, "seconds_needed", lambda items: solved.append(items) or 1.0)
    family = FAMILIES[name]
    request = Request(
        family,
        [data],
        None,
        None,
        family.finetuning.options(),
        TrainingSettings(),
        "leave-one-out",
        1.0,
        0,
        tmp_path / "run",
    )
    plan = family.finetuning.plan(request)
    assert solved == []
    plan.begin()
    assert solved == [data.num_items]


def test_memory_and_time_are_told_before_it_starts(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(method, "memory_needed", lambda items: 3 * 2**30)
    monkeypatch.setattr(method, "available_memory", lambda: 4 * 2**30)
    spans = {0.01: "less than 0.1 s", 20.4: "20 s", 192.0: "3.2 min", 7_200.0: "2.0 hours"}
    for number, (seconds, shown) in enumerate(spans.items()):
        monkeypatch.setattr(method, "seconds_needed", lambda items, seconds=seconds: seconds)
        caplog.clear()
        with caplog.at_level("INFO"):
            finetune("ease", dataset.path, tmp_path / str(number))
        before = caplog.text.split("solved in")[0]
        assert f"{dataset.num_items} items need 3.0 GiB of memory and {shown} a solution, by estimate" in before


def test_the_memory_of_a_tiny_catalogue_is_not_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "seconds_needed", lambda items: 0.001)
    told = "48 items need less than 1 MiB of memory and less than 0.1 s a solution, by estimate"
    assert method.resources_needed(48) == told
    assert "1,000 items need 23 MiB of memory" in method.resources_needed(1_000)


def test_a_large_catalogue_chooses_its_decay_alone_unless_asked(
    dataset: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(method, "SLOW", dataset.num_items)
    with caplog.at_level("INFO"):
        found = finetune("ease", dataset.path, tmp_path / "unasked")
    assert list(found.chosen or {}) == ["decay"]
    assert "regularisation, length_damping: kept, because each try takes minutes; --defaults searched" in caplog.text
    asked = finetune("ease", dataset.path, tmp_path / "asked", defaults="searched")
    assert list(asked.chosen or {}) == ["decay", "regularisation", "length_damping"]


def test_the_time_grows_with_the_cube_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()  # a second goes by from one look to the next
    monkeypatch.setattr("linguarec.families.ease.model.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        "linguarec.families.ease.model.threadpool_info", lambda: [{"user_api": "blas", "num_threads": 2}]
    )
    assert seconds_needed(40, tried=20) == 4, "two threads share the second of one"
    assert seconds_needed(10, tried=20) == 0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"regularisation": 0.0}, "regularisation is 0.0; it must be above 0"),
        ({"regularisation": 1e12}, "it must be at most 1,000,000,000"),
        ({"decay": 0.0}, "decay is 0.0; it must be above 0"),
        ({"decay": 1.5}, "decay is 1.5; it must be at most 1"),
        ({"decay": float("nan")}, "decay is nan"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EASEConfig(**settings)
