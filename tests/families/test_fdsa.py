"""FDSA: what it takes from IDs and from texts, alone and through the commands."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linguarec
from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.commands.compare import compare
from linguarec.commands.convert import convert
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.dataset import PreparedDataset
from linguarec.data.synthetic import TINY, generate_world, word_vectors
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.families.fdsa.model import FDSA, FDSAConfig
from linguarec.nn.encoders import TransformerConfig, TransformerEncoder
from linguarec.nn.shape import CatalogueShape
from linguarec.training.settings import TrainingSettings

NUM_ITEMS, WIDTH = 12, 6
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=6, accelerator="cpu")


@pytest.fixture
def model() -> FDSA:
    torch.manual_seed(0)
    config = TransformerConfig(hidden_size=8, inner_size=8, layers=1, max_length=5, initializer_range=0.5)
    shape = CatalogueShape(NUM_ITEMS, WIDTH)
    return FDSA(FDSAConfig(initializer_range=0.5), shape, TransformerEncoder(config)).eval()


@pytest.fixture
def items() -> ItemBatch:
    vectors = torch.randn(NUM_ITEMS, WIDTH, generator=torch.Generator().manual_seed(1))
    return ItemBatch(torch.arange(NUM_ITEMS), torch.zeros(NUM_ITEMS, dtype=torch.int64), vectors)


@pytest.fixture
def batch() -> SequenceBatch:
    zeros = torch.zeros(2, dtype=torch.int64)
    positions = torch.tensor([0, 1, 2, 0, 1])
    targets = torch.tensor([4, 2, 9, 3, 0])
    return SequenceBatch(
        torch.tensor([3, 4, 2, 7, 3]), torch.tensor([0, 3, 5]), positions, targets, torch.arange(2), zeros
    )


def with_vectors(items: ItemBatch, vectors: torch.Tensor) -> ItemBatch:
    return ItemBatch(items.rows, items.domain, vectors)


@torch.no_grad()
def test_texts_change_the_queries_and_not_the_keys(model: FDSA, items: ItemBatch, batch: SequenceBatch) -> None:
    shuffled = with_vectors(items, items.features.roll(1, dims=0))
    queries, others = (model.queries(batch, model.item_inputs(each)) for each in (items, shuffled))
    assert (queries - others).abs().amax(dim=1).min() > 1e-2
    assert torch.equal(model.item_keys(items), model.item_keys(shuffled))


@torch.no_grad()
def test_a_new_item_is_read_by_its_text_and_has_no_key(model: FDSA, items: ItemBatch, batch: SequenceBatch) -> None:
    """In a history, two new items with different texts give different queries."""
    rows = items.rows.clone()
    rows[3] = -1
    found = []
    for text in (items.features[3], items.features[5]):
        vectors = items.features.clone()
        vectors[3] = text
        new = ItemBatch(rows, items.domain, vectors)
        assert torch.equal(model.item_keys(new)[3], torch.zeros(8))
        found.append(model.queries(batch, model.item_inputs(new)))
    differences = (found[0] - found[1]).abs().amax(dim=1)
    assert differences[[0, 1, 2, 4]].min() > 1e-2
    assert differences[3] == 0  # the one position that the item comes after


def test_without_texts_it_still_learns(model: FDSA, items: ItemBatch, batch: SequenceBatch) -> None:
    empty = with_vectors(items, torch.zeros(NUM_ITEMS, WIDTH))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.finetune_loss(batch, empty)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@torch.no_grad()
def test_both_encoders_read_the_same_positions(model: FDSA, items: ItemBatch, batch: SequenceBatch) -> None:
    """The query of each position is the normalised map of both states: computed here one history at a time."""
    inputs = model.item_inputs(items)
    queries = model.queries(batch, inputs)
    for start, stop in ((0, 3), (3, 5)):
        offsets, positions = torch.tensor([0, stop - start]), torch.arange(stop - start)
        history = inputs[batch.items[start:stop]]
        states = [
            encoder(part, positions, offsets)
            for encoder, part in ((model.encoder, history[:, :8]), (model.feature_encoder, history[:, 8:]))
        ]
        expected = model.output_norm(model.merge(torch.cat(states, dim=1)))
        torch.testing.assert_close(queries[start:stop], expected, atol=1e-6, rtol=1e-6)


# -- through the commands


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    world = generate_world(seed=0, domains=1, size=TINY)[0]
    texts = [item.text for item in world.items]
    sequences = [world.sequences[user].tolist() for user in range(len(world.sequences))]
    noise = np.random.default_rng(0).standard_normal((len(texts), 16)).astype(np.float32)
    made: PreparedDataset = make_dataset(sequences, texts, {"words": word_vectors(texts, 16), "noise": noise})
    return made


def train(dataset: PreparedDataset, folder: Path, **arguments: Any) -> Any:
    return finetune("fdsa", dataset.path, folder, transformer=SMALL, training=QUICK, **arguments)


def test_a_run_of_its_own(dataset: PreparedDataset, make_dataset: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(SettingsError, match="several item vectors: noise, words; choose one with --features"):
        train(dataset, run)
    result = train(dataset, run, features="words")
    tested = evaluate(run, plots=False)["systems"]
    assert tested["fdsa"]["ndcg@10"]["mean"] == pytest.approx(result["test"]["ndcg@10"], abs=1e-6)
    assert tested["fdsa"]["ndcg@10"]["mean"] > tested["popularity"]["ndcg@10"]["mean"]
    recommender = linguarec.load_model(run)
    with pytest.raises(SettingsError, match="fdsa ranks items by ID only and cannot rank new ones"):
        recommender.add_items([{"raw_id": "new", "title": "", "text": "a new one"}])
    with pytest.raises(SettingsError, match="fdsa ranks items by ID only: nothing that it learned carries over"):
        train(dataset, tmp_path / "from", features="words", from_=run)
    with pytest.raises(CheckpointMismatchError, match=r"one tensor for them, position_embedding\.weight"):
        convert(run, tmp_path / "released.pth")


def test_items_of_other_shops_are_refused(dataset: PreparedDataset, make_dataset: Any, tmp_path: Path) -> None:
    train(dataset, tmp_path / "run", features="words")
    for raw_ids, error, message in (
        (["a", "b", "c", "d"], SettingsError, "knows items by text and ID, and none of the items"),
        ([*dataset.raw_item_ids[:3], "new"], DataFormatError, r"such as 'new'\. A fdsa ranks items by ID only"),
    ):
        vectors = {"words": np.array(dataset.features("words")[:4])}
        other = make_dataset([[0, 1, 2, 3]] * 3, raw_ids=raw_ids, features=vectors, name=f"other-{raw_ids[0]}")
        with pytest.raises(error, match=message):
            evaluate(tmp_path / "run", other.path, zero_shot=True)


def test_it_is_no_baseline_of_ids_alone(dataset: PreparedDataset, tmp_path: Path) -> None:
    """The best model of IDs alone is what text models are compared with; this one reads text."""
    quick = TrainingSettings(max_epochs=1, targets_per_step=200, accelerator="cpu")
    found = compare(
        dataset.path,
        ["fdsa"],
        tmp_path / "compared",
        seeds=1,
        training=quick,
        transformer=SMALL,
        features="words",
        defaults="fixed",
    )
    assert found["baseline"] == "popularity"
