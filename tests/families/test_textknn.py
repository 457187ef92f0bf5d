"""Text-kNN: its query by hand. What all closed forms do: tests/contract/test_closed_forms.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.synthetic import TINY, generate_world
from linguarec.errors import SettingsError
from linguarec.families.textknn.model import TextKNN, TextKNNConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import VectorScorer
from linguarec.sources.embeddings import EmbeddingSource

WIDTH = 12


def vectors_of(texts: list[str]) -> np.ndarray:
    """A stand-in for a text encoder [N, 12]: a vector of the text without its last stop, far from a mean of zero."""
    drawn = [np.random.default_rng(list(text.rstrip(".").encode())).standard_normal(WIDTH) + 3 for text in texts]
    return np.stack(drawn).astype(np.float32)


@pytest.fixture
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """New texts are read by the stand-in: no language model is loaded."""

    class Encoder:
        def encode(self, texts: list[str]) -> np.ndarray:
            return vectors_of(texts)

    monkeypatch.setattr(EmbeddingSource, "_text_encoder", Encoder())


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """The tiny world as a prepared folder, with vectors."""
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
    texts = [item.text for item in domain.items]
    made: PreparedDataset = make_dataset(sequences, texts=texts, features={"enc": vectors_of(texts)})
    return made


@pytest.fixture
def run(dataset: PreparedDataset, tmp_path: Path) -> Path:
    finetune("textknn", dataset.path, tmp_path / "run")
    return tmp_path / "run"


def centred(dataset: PreparedDataset) -> np.ndarray:
    """Item vectors [N, 12] in float64 by hand: without their mean, of length 1."""
    vectors = np.asarray(dataset.features("enc"), dtype=np.float64)
    vectors = vectors - vectors.mean(axis=0)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_query_is_the_decayed_sum_of_the_history(decay: float, dataset: PreparedDataset) -> None:
    network = TextKNN(TextKNNConfig(decay=decay), CatalogueShape(dataset.num_items, WIDTH))
    network.mean.copy_(torch.from_numpy(np.asarray(dataset.features("enc"), np.float64).mean(axis=0)))
    scorer = VectorScorer(network)
    inputs, keys = scorer.encode(EmbeddingSource.stored(dataset, "enc"))
    unit = centred(dataset)
    np.testing.assert_allclose(keys, unit, atol=1e-5)
    expected = [
        unit[1],
        unit[2] + decay * unit[3] + decay**2 * unit[0] + decay**3 * unit[3],  # each occurrence counts
        unit[1] + decay * unit[4],
    ]
    found = np.zeros((3, WIDTH))
    histories = Ragged.from_lists([[1], [3, 0, 3, 2], [4, 1]])
    with torch.inference_mode():
        for index, queries in scorer.queries(inputs, histories, tokens_per_batch=4):
            found[index] = queries.numpy()
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_a_run_recommends_by_the_cosines(dataset: PreparedDataset, run: Path) -> None:
    [found] = linguarec.load_model(run).recommend([dataset.raw_item_ids[:3]], k=5)
    unit = centred(dataset)
    scores = unit @ (unit[2] + 0.7 * unit[1] + 0.49 * unit[0])
    scores[:3] = -np.inf
    best = np.argsort(-scores, kind="stable")[:5]
    assert [one.raw_id for one in found] == [dataset.raw_item_ids[item] for item in best]
    np.testing.assert_allclose([one.score for one in found], scores[best], atol=1e-5)


def test_similar_items_are_those_of_the_largest_cosine(dataset: PreparedDataset, run: Path) -> None:
    [found] = linguarec.load_model(run).similar_items([dataset.raw_item_ids[7]], k=3)
    cosines = centred(dataset) @ centred(dataset)[7]
    cosines[7] = -np.inf
    assert [one.raw_id for one in found] == [dataset.raw_item_ids[item] for item in np.argsort(-cosines)[:3]]


def test_a_folder_without_vectors_is_refused(make_dataset: Any, tmp_path: Path) -> None:
    bare = make_dataset([[0, 1, 2, 3]] * 4, name="bare")
    with pytest.raises(SettingsError, match="linguarec encode"):
        finetune("textknn", bare.path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_item_whose_vector_is_the_mean_has_score_zero() -> None:
    network = TextKNN(TextKNNConfig(), CatalogueShape(1, 2))
    batch = type("Items", (), {"features": torch.zeros(1, 2)})()
    assert network.item_keys(batch).tolist() == [[0, 0]]


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_bad_settings_are_named(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is"):
        TextKNNConfig(decay=decay)
