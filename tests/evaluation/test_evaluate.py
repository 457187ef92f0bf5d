from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from linguarec.batching.batches import ItemBatch
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.evaluate import EvaluationResult, evaluate_model, join
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.families.sasrec.model import SASRecConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.ranks import TargetRanks
from linguarec.ranking.scorer import VectorScorer, evaluating
from linguarec.sources.ids import IdSource

NUM_ITEMS, NUM_CASES = 157, 211


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6, initializer_range=0.3)
    config = SASRecConfig(initializer_range=0.5)
    return ModelDescription(FAMILIES["sasrec"], config, encoder, CatalogueShape(NUM_ITEMS)).build().eval()


@pytest.fixture
def cases() -> EvaluationCases:
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, NUM_ITEMS, size=rng.integers(1, 12)).tolist() for _ in range(NUM_CASES)]
    targets = rng.integers(0, NUM_ITEMS, size=NUM_CASES).astype(np.int32)
    return EvaluationCases(Ragged.from_lists(histories), targets, np.arange(NUM_CASES) + 1_000)


def catalogue(rows=None) -> ItemBatch:
    rows = torch.arange(NUM_ITEMS) if rows is None else rows
    return ItemBatch(rows, torch.zeros_like(rows))


def brute_force(model, cases, exclude_history=False):
    """Each case alone: its own forward pass, its own sorted list of scores."""
    from linguarec.batching.batches import SequenceBatch

    model.eval()
    keys, inputs = model.item_keys(catalogue()).double(), model.item_inputs(catalogue())
    ranks = []
    for q in range(len(cases)):
        history = torch.from_numpy(np.array(cases.histories[q][-6:], dtype=np.int64))
        none = torch.tensor([-1])
        batch = SequenceBatch(
            history,
            torch.tensor([0, len(history)]),
            torch.arange(len(history)),
            torch.full_like(history, -1),
            none,
            none,
        )
        scores = keys @ model.queries(batch, inputs)[-1].double()
        target = int(cases.targets[q])
        seen = set(cases.histories[q].tolist()) - {target} if exclude_history else set()
        ranks.append(1 + sum(float(scores[i]) > float(scores[target]) for i in range(NUM_ITEMS) if i not in seen))
    return ranks


@pytest.mark.parametrize("exclude_history", [False, True])
def test_equals_a_brute_force_oracle(model, cases, exclude_history):
    result = evaluate_model(model, catalogue(), cases, exclude_history=exclude_history)
    with torch.no_grad():
        expected = brute_force(model, cases, exclude_history)
    assert (result.ranks.greater + 1).tolist() == expected
    assert result.ranks.ties.tolist() == [1] * NUM_CASES
    assert result.users.tolist() == cases.users.tolist()
    assert result.mean("recall@10") == pytest.approx(np.mean([rank <= 10 for rank in expected]))


def test_the_same_at_every_batch_size(model, cases):
    expected = evaluate_model(model, catalogue(), cases).ranks.greater.tolist()
    for tokens_per_batch in (1, 17, 300):
        found = evaluate_model(model, catalogue(), cases, tokens_per_batch=tokens_per_batch)
        assert found.ranks.greater.tolist() == expected


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_same_at_every_number_of_processes(model, cases, processes):
    whole = evaluate_model(model, catalogue(), cases, tokens_per_batch=64)
    shards = [
        evaluate_model(model, catalogue(), cases, tokens_per_batch=64, shard=(rank, processes))
        for rank in range(processes)
    ]
    assert sum(len(shard) for shard in shards) == NUM_CASES
    joined = join(shards[::-1])
    assert joined.ranks.greater.tolist() == whole.ranks.greater.tolist()
    assert joined.cases.tolist() == list(range(NUM_CASES))
    assert joined.means() == whole.means()


def test_the_same_in_every_order_of_the_items(model, cases):
    order = torch.randperm(NUM_ITEMS)
    new_row = torch.empty_like(order)
    new_row[order] = torch.arange(NUM_ITEMS)
    moved = EvaluationCases(
        Ragged(new_row.numpy()[cases.histories.values], cases.histories.offsets),
        new_row.numpy()[cases.targets],
        cases.users,
    )
    expected = evaluate_model(model, catalogue(), cases)
    found = evaluate_model(model, catalogue(order), moved)
    assert found.ranks.greater.tolist() == expected.ranks.greater.tolist()


def test_within_ranks_among_the_candidates_only(model, cases):
    half = np.unique(cases.targets)
    expected = evaluate_model(model, catalogue(), cases)
    found = evaluate_model(model, catalogue(), cases, within=half)
    assert (found.ranks.greater <= expected.ranks.greater).all()
    assert found.ranks.greater.max() < len(half)


def test_dropout_is_off_and_each_module_returns_to_its_mode(model, cases):
    expected = evaluate_model(model, catalogue(), cases).ranks.greater.tolist()
    model.train()
    model.item.eval()  # frozen by the caller, and to stay so
    found = evaluate_model(model, catalogue(), cases)
    assert found.ranks.greater.tolist() == expected
    assert model.training
    assert not model.item.training
    with evaluating(model):
        assert not model.encoder.training


def test_items_are_encoded_in_chunks(model, monkeypatch):
    source, everything = IdSource(Path("folder"), NUM_ITEMS), torch.arange(NUM_ITEMS)
    inputs, keys = VectorScorer(model).encode(source)
    monkeypatch.setattr("linguarec.sources.source.ITEMS_PER_CHUNK", 10)
    assert len(list(source.chunks())) == 16
    chunked_inputs, chunked_keys = VectorScorer(model).encode(source)
    assert torch.equal(inputs.rows(everything), chunked_inputs.rows(everything))
    assert torch.equal(keys, chunked_keys)
    assert torch.equal(keys, model.item_keys(catalogue()))


def test_an_empty_history_is_refused(model):
    cases = EvaluationCases(Ragged.from_lists([[1], []]), np.array([0, 0], np.int32), np.array([0, 1]))
    with pytest.raises(ValueError, match="history 1 is empty"):
        evaluate_model(model, catalogue(), cases)


def test_no_cases(model):
    result = evaluate_model(
        model, catalogue(), EvaluationCases(Ragged.from_lists([]), np.zeros(0, np.int32), np.zeros(0, np.int64))
    )
    assert len(result) == 0
    assert np.isnan(result.mean("ndcg@10"))


def test_means_weigh_users_not_cases():
    ranks = TargetRanks(np.array([0, 20, 20]), np.array([1, 1, 1]))
    result = EvaluationResult(ranks, np.arange(3), np.array([5, 6, 6]))
    assert result.means((10,))["recall@10"] == 0.5
    assert result.select(np.array([False, True, True])).means((10,))["recall@10"] == 0


def test_unknown_metric_is_refused():
    result = EvaluationResult(TargetRanks(np.array([0]), np.array([1])), np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match="unknown metric 'precision'"):
        result.mean("precision@10")


def test_overlapping_shards_are_refused(model, cases):
    whole = evaluate_model(model, catalogue(), cases)
    with pytest.raises(ValueError, match="overlap"):
        join([whole, whole])


def test_take():
    sequences = Ragged.from_lists([[1, 2], [], [3], [4, 5, 6]])
    taken = sequences.select(np.array([3, 1, 0]))
    assert [taken[i].tolist() for i in range(3)] == [[4, 5, 6], [], [1, 2]]
