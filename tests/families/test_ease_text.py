"""EASE with text: its closed form by hand, new items by their text, and the whole way of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.batching.batches import ItemBatch
from linguarec.commands.blend import blend
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.families.ease.method import EASEScorer
from linguarec.families.ease.model import EASEConfig
from linguarec.families.ease_text.method import keys_as_new
from linguarec.families.ease_text.model import EASEText, EASETextConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.embeddings import EmbeddingSource

# Item 3 occurs twice in a sequence, item 5 nowhere.
LOG = [[0, 1, 2], [0, 1], [3, 1, 3], [2, 0], [4], [], [4, 2, 1]]
ITEMS, WIDTH = 6, 4
VECTORS = np.random.default_rng(0).standard_normal((ITEMS, WIDTH)).astype(np.float32) + 2
CONFIG = EASETextConfig(regularisation=2, text_weight=3, decay=0.5)


def centred(vectors: np.ndarray) -> np.ndarray:
    found = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def weights_by_regression(config: EASETextConfig, texts: np.ndarray, num_items: int = ITEMS) -> np.ndarray:
    """B column by column: the ridge regression of an item on all others, over users and text dimensions alike."""
    seen = np.zeros((len(LOG), num_items))
    for user, items in enumerate(LOG):
        seen[user, items] = 1
    rows = np.concatenate([seen, np.sqrt(config.text_weight) * texts.T])
    weights = np.zeros((num_items, num_items))
    for item in range(num_items):
        others = [other for other in range(num_items) if other != item]
        gram = rows[:, others].T @ rows[:, others] + config.regularisation * np.eye(num_items - 1)
        weights[others, item] = np.linalg.solve(gram, rows[:, others].T @ rows[:, item])
    return weights


def fitted(vectors: np.ndarray = VECTORS, config: EASETextConfig = CONFIG) -> EASEText:
    network = EASEText(config, CatalogueShape(len(vectors), vectors.shape[1]))
    network.fit(Ragged.from_lists(LOG), vectors)
    return network


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """A sparse log: each user takes 5 of the 12 items of one group, and the vectors tell the groups."""
    generator = np.random.default_rng(0)
    groups = np.arange(60) % 5
    sequences = [generator.permutation(np.flatnonzero(groups == user % 5))[:5].tolist() for user in range(60)]
    vectors = 3 * np.eye(5)[groups] + generator.standard_normal((60, 5)) / 4
    made: PreparedDataset = make_dataset(sequences, num_items=60, features={"enc": vectors.astype(np.float32)})
    return made


@pytest.fixture
def run(dataset: PreparedDataset, tmp_path: Path) -> Path:
    finetune("ease-text", dataset.path, tmp_path / "run", EASETextConfig(regularisation=20, text_weight=10))
    return tmp_path / "run"


@pytest.mark.parametrize(("regularisation", "text_weight"), [(0.5, 3.0), (30.0, 0.1)])
def test_the_weights_are_those_of_a_regression_for_each_item(regularisation: float, text_weight: float) -> None:
    config = EASETextConfig(regularisation=regularisation, text_weight=text_weight)
    expected = weights_by_regression(config, centred(VECTORS))
    np.testing.assert_allclose(fitted(config=config).keys.T, expected, atol=1e-6)


def test_a_large_catalogue_is_solved_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted().keys
    monkeypatch.setattr("linguarec.families.ease_text.model._ROWS_AT_ONCE", 4)
    np.testing.assert_allclose(fitted().keys, whole, atol=1e-7)


def column_of_new(vector: np.ndarray) -> np.ndarray:
    """[N] by hand: the regression of a new item, whom no user has, on all items of the catalogue."""
    texts = centred(VECTORS)
    seen = np.zeros((len(LOG), ITEMS))
    for user, items in enumerate(LOG):
        seen[user, items] = 1
    rows = np.concatenate([seen, np.sqrt(CONFIG.text_weight) * texts.T])
    text = vector - VECTORS.mean(axis=0, dtype=np.float64)
    wanted = np.concatenate([np.zeros(len(LOG)), np.sqrt(CONFIG.text_weight) * text / np.linalg.norm(text)])
    found: np.ndarray = np.linalg.solve(rows.T @ rows + CONFIG.regularisation * np.eye(ITEMS), rows.T @ wanted)
    return found


def test_the_key_of_a_new_item_is_a_regression_on_its_text() -> None:
    vector = np.arange(WIDTH, dtype=np.float32)
    mixed = ItemBatch(
        torch.tensor([2, -1]),
        torch.zeros(2, dtype=torch.int64),
        features=torch.from_numpy(np.stack([VECTORS[2], vector])),
    )
    network = fitted()
    keys = network.item_keys(mixed)
    np.testing.assert_allclose(keys[0], network.keys[2])
    np.testing.assert_allclose(keys[1], column_of_new(vector), atol=1e-6)


@pytest.mark.parametrize("item", [1, 3, 5])
def test_a_key_as_new_is_that_of_a_log_without_the_item(item: int) -> None:
    network, items = fitted(), np.array([item, 0])
    source = EmbeddingSource(Path(), FeatureInfo("enc", WIDTH, "mean", None, None, "default"), VECTORS[items])
    scorer = EASEScorer(network)
    found = keys_as_new(scorer, scorer.ranker(network.keys), items, source)
    without = EASEText(CONFIG, CatalogueShape(ITEMS, WIDTH))
    without.fit(Ragged.from_lists([[one for one in user if one != item] for user in LOG]), VECTORS)
    np.testing.assert_allclose(found[0], without.keys[item], atol=1e-6)


def test_a_new_item_of_a_history_stands_for_the_items_of_its_text() -> None:
    scorer = EASEScorer(fitted())
    vector = np.arange(WIDTH, dtype=np.float32)
    vectors = np.concatenate([VECTORS, vector[None]])
    rows = torch.tensor([*range(ITEMS), -1])
    items = ItemBatch(rows, torch.zeros(ITEMS + 1, dtype=torch.int64), features=torch.from_numpy(vectors))
    inputs, _ = scorer.encode_batches([items])
    new = column_of_new(vector)
    expected = np.zeros((3, ITEMS))
    expected[0, 1] = 1
    expected[1] = 0.5 * new
    expected[1, 3] += 1  # and its earlier occurrence, two steps ago, does not count
    expected[2] = new  # once, although it occurs twice
    found = np.zeros((3, ITEMS))
    for index, queries in scorer.queries(inputs, Ragged.from_lists([[1], [3, ITEMS, 3], [ITEMS, ITEMS]])):
        found[index] = queries
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_run_is_evaluated_loaded_and_saved(dataset: PreparedDataset, run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    evaluated = evaluate(run, plots=False)["systems"]
    assert evaluated["ease-text"]["ndcg@10"]["mean"] == pytest.approx(metrics["test"]["ndcg@10"])
    finetune("ease", dataset.path, tmp_path / "ease", EASEConfig(regularisation=20))
    without_text = json.loads((tmp_path / "ease" / "metrics.json").read_text())
    assert metrics["test_excluded"]["recall@10"] > 1.1 * without_text["test_excluded"]["recall@10"]
    assert metrics["test_excluded"]["recall@10"] > 0.9  # of the group's 12 items, 4 are in the history
    assert len(np.load(run / "keys.npy")) == dataset.num_items
    recommender = linguarec.load_model(run)
    histories = [dataset.raw_item_ids[:3], dataset.raw_item_ids[5:6]]
    found = recommender.recommend(histories, k=5)
    recommender.save(tmp_path / "saved")
    assert linguarec.load_model(tmp_path / "saved").recommend(histories, k=5) == found


def test_new_items_are_ranked_and_read(dataset: PreparedDataset, run: Path) -> None:
    recommender = linguarec.load_model(run)
    vectors = np.asarray(dataset.features("enc"))
    recommender.add_items([{"raw_id": "new", "text": "a text"}], vectors=vectors[[7]])
    known = dataset.raw_item_ids
    found = [one.raw_id for one in recommender.recommend([[known[12]]], k=12)[0]]
    assert "new" in found  # items 7 and 12 are of the same group, which has 12 items and the new one
    found = [one.raw_id for one in recommender.recommend([["new"]], k=12)[0]]
    assert sum(known.index(raw_id) % 5 == 2 for raw_id in found) >= 11
    assert known[7] in found[:3]


def test_a_finished_run_is_not_solved_again(dataset: PreparedDataset, run: Path) -> None:
    before = (run / "keys.npy").stat().st_mtime_ns
    finetune("ease-text", dataset.path, run, EASETextConfig(regularisation=20, text_weight=10), resume=True)
    assert (run / "keys.npy").stat().st_mtime_ns == before
    with pytest.raises(SettingsError, match=r"model.text_weight: the run has 10.*, now 50"):
        finetune("ease-text", dataset.path, run, EASETextConfig(regularisation=20), resume=True)


def test_it_is_a_part_of_a_blend(dataset: PreparedDataset, run: Path, tmp_path: Path) -> None:
    finetune("itemknn", dataset.path, tmp_path / "counts")
    blend([run, tmp_path / "counts"], tmp_path / "blend")
    found = json.loads((tmp_path / "blend" / "metrics.json").read_text())
    parts = {
        name: json.loads((path / "metrics.json").read_text()) for name, path in (("t", run), ("c", tmp_path / "counts"))
    }
    best = max(part["valid"]["ndcg@10"] for part in parts.values())
    assert found["valid"]["excluded"]["ndcg@10"] >= best - 1e-9


def test_what_does_not_fit_is_refused(
    dataset: PreparedDataset, make_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = make_dataset([[0, 1, 2, 3]] * 4, name="bare")
    with pytest.raises(SettingsError, match="linguarec encode"):
        finetune("ease-text", bare.path, tmp_path / "run")
    monkeypatch.setattr("linguarec.families.ease_text.method.available_memory", lambda: 10_000)
    with pytest.raises(SettingsError, match="enough for 20 items"):
        finetune("ease-text", dataset.path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text_weight": 0.0}, "text_weight is 0.0; it must be above 0"),
        ({"regularisation": -1.0}, "regularisation is -1.0; it must be above 0"),
        ({"decay": 2.0}, "decay is 2.0; it must be at most 1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        EASETextConfig(**settings)
