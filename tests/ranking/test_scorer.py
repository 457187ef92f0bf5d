"""A network in use: queries one a position or one a history, inputs with added rows, modes, and what is told of cuts."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.ranking.scorer import VectorScorer, evaluating, last_queries, left_out, log_left_out
from linguarec.sources import source as interface
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.inputs import INPUTS_FILE, VectorInputs

NUM_ITEMS, WIDTH, LONGEST = 12, 3, 4


class Sums(nn.Module):
    """A causal network: the query at a position is the sum of the inputs up to it, weighted by the position."""

    def __init__(self, one_a_history: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.one_a_history = one_a_history
        self.calls: list[SequenceBatch] = []

    @property
    def max_length(self) -> int:
        return LONGEST

    def item_inputs(self, items: ItemBatch) -> Tensor:
        assert items.features is not None
        return items.features * self.scale

    def item_keys(self, items: ItemBatch) -> Tensor:
        assert items.features is not None
        return items.features[:, :2] + (0.0 if not self.training else 100.0)

    def queries(self, batch: SequenceBatch, inputs: Tensor) -> Tensor:
        self.calls.append(batch)
        read = inputs[batch.items] * (1 + batch.positions[:, None])
        parts = [read[start:stop].cumsum(dim=0) for start, stop in spans(batch)]
        return torch.stack([part[-1] for part in parts]) if self.one_a_history else torch.cat(parts)


def spans(batch: SequenceBatch) -> Iterator[tuple[int, int]]:
    ends = batch.offsets.tolist()
    yield from itertools.pairwise(ends)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((NUM_ITEMS, WIDTH)).astype(np.float32)


@pytest.fixture
def source(vectors: np.ndarray) -> EmbeddingSource:
    return EmbeddingSource(Path("x"), FeatureInfo(UNKNOWN, WIDTH, UNKNOWN, None, None, UNKNOWN), vectors)


HISTORIES = Ragged.from_lists([[3, 1, 4], [5], [9, 2, 6, 5, 3, 11], [8, 8]])


def expected(inputs: np.ndarray) -> np.ndarray:
    """The query of each history, by a plain loop over its last items."""
    found = []
    for row in range(len(HISTORIES)):
        history = HISTORIES[row][-LONGEST:]
        found.append(sum((1 + place) * inputs[item] for place, item in enumerate(history)))
    return np.stack(found)


def gathered(scorer: VectorScorer, inputs: VectorInputs, **options: Any) -> np.ndarray:
    """The queries of all batches in the order of the histories."""
    found = np.full((len(HISTORIES), WIDTH), np.nan, np.float32)
    with torch.inference_mode():
        for index, queries in scorer.queries(inputs, HISTORIES, **options):
            assert np.isnan(found[index]).all()
            found[index] = queries.numpy()
    return found


# -- items


def test_items_are_encoded_in_chunks_of_the_source(
    source: EmbeddingSource, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "ITEMS_PER_CHUNK", 5)
    inputs, keys = VectorScorer(Sums().train()).encode(source)
    assert isinstance(inputs, VectorInputs)
    np.testing.assert_allclose(inputs.base.numpy(), 2 * vectors)
    np.testing.assert_array_equal(keys.numpy(), vectors[:, :2])  # in evaluation mode, whatever the network is in


def test_no_items_have_inputs_and_keys_of_the_right_width(source: EmbeddingSource) -> None:
    inputs, keys = VectorScorer(Sums()).encode(source.without_items())
    assert (len(inputs), inputs.base.shape, keys.shape) == (0, (0, WIDTH), (0, 2))


# -- histories


@pytest.mark.parametrize("one_a_history", [False, True])
@pytest.mark.parametrize("tokens_per_batch", [1, 5, 100])
def test_the_query_is_that_after_the_last_item(
    one_a_history: bool, tokens_per_batch: int, source: EmbeddingSource, vectors: np.ndarray
) -> None:
    scorer = VectorScorer(Sums(one_a_history))
    inputs, _ = scorer.encode(source)
    found = gathered(scorer, inputs, tokens_per_batch=tokens_per_batch)
    np.testing.assert_allclose(found, expected(2 * vectors), rtol=1e-5)


def test_where_each_history_is_one_item_long_positions_and_histories_are_the_same(vectors: np.ndarray) -> None:
    batch = SequenceBatch(*(torch.arange(3), torch.arange(4), torch.zeros(3).long()), *[torch.zeros(3).long()] * 3)
    found = torch.from_numpy(vectors[:3])
    assert torch.equal(last_queries(found, batch), found)


def test_a_long_history_is_cut_to_its_last_items_and_only_their_inputs_are_read(
    source: EmbeddingSource, vectors: np.ndarray
) -> None:
    network = Sums()
    scorer = VectorScorer(network)
    inputs, _ = scorer.encode(source)
    list(scorer.queries(inputs, HISTORIES))
    (batch,) = network.calls
    assert (batch.offsets[1:] - batch.offsets[:-1]).tolist() == [1, 2, 3, 4]  # shortest first
    assert batch.positions.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert batch.items.tolist() == list(range(10))  # rows of the inputs that were gathered for the batch


def test_users_travel_with_their_histories(source: EmbeddingSource) -> None:
    network = Sums()
    scorer = VectorScorer(network)
    inputs, _ = scorer.encode(source)
    index = [index for index, _ in scorer.queries(inputs, HISTORIES, users=np.array([70, 71, 72, 73]))]
    assert [index.tolist() for index in index] == [[1, 3, 0, 2]]
    assert network.calls[0].users.tolist() == [71, 73, 70, 72]


def test_processes_share_the_batches_of_one(source: EmbeddingSource) -> None:
    scorer = VectorScorer(Sums())
    inputs, _ = scorer.encode(source)
    whole = [(index.tolist(), found) for index, found in scorer.queries(inputs, HISTORIES, tokens_per_batch=3)]
    assert [index for index, _ in whole] == [[1, 3], [0], [2]]
    shards = [list(scorer.queries(inputs, HISTORIES, tokens_per_batch=3, shard=(rank, 2))) for rank in range(2)]
    assert [index.tolist() for index, _ in shards[0]] == [[1, 3], [2]]
    assert [index.tolist() for index, _ in shards[1]] == [[0]]
    for (_, alone), (_, shared) in zip(whole, [shards[0][0], shards[1][0], shards[0][1]], strict=True):
        assert torch.equal(alone, shared)


def test_an_empty_history_is_refused(source: EmbeddingSource) -> None:
    scorer = VectorScorer(Sums())
    inputs, _ = scorer.encode(source)
    with pytest.raises(ValueError, match="history 1 is empty"):
        list(scorer.queries(inputs, Ragged.from_lists([[1], []])))


# -- inputs


def test_added_rows_are_read_beside_those_of_the_base(vectors: np.ndarray) -> None:
    whole = torch.from_numpy(vectors)
    grown = VectorInputs(whole[:7]).joined(VectorInputs(whole[7:9])).joined(VectorInputs(whole[9:10], whole[10:]))
    assert (len(grown), len(grown.base), len(grown.added)) == (NUM_ITEMS, 7, 5)
    rows = torch.tensor([11, 0, 6, 7, 7, 10, 2])
    assert torch.equal(grown.rows(rows), whole[rows])
    assert torch.equal(grown.select(rows.numpy()).base, whole[rows])
    assert grown.base.data_ptr() == whole.data_ptr()  # the base, which may be a memory map, is not copied


def test_queries_with_added_rows_are_those_of_the_whole(vectors: np.ndarray) -> None:
    scorer = VectorScorer(Sums())
    grown = VectorInputs(torch.from_numpy(vectors[:5])).joined(VectorInputs(torch.from_numpy(vectors[5:])))
    np.testing.assert_allclose(gathered(scorer, grown), expected(vectors), rtol=1e-5)


def test_saved_inputs_are_the_base_with_what_was_added(
    source: EmbeddingSource, vectors: np.ndarray, tmp_path: Path
) -> None:
    whole = torch.from_numpy(vectors)
    VectorInputs(whole[:7]).joined(VectorInputs(whole[7:].half())).save(tmp_path, [])
    loaded = VectorScorer(Sums()).load_inputs(tmp_path, source)
    assert (len(loaded.base), len(loaded.added)) == (NUM_ITEMS, 0)
    assert torch.equal(loaded.base[:7], whole[:7])
    torch.testing.assert_close(loaded.base[7:], whole[7:], atol=2e-3, rtol=0)
    assert np.load(tmp_path / INPUTS_FILE).dtype == np.float32


def test_vectors_of_a_file_are_checked_when_they_are_read(tmp_path: Path) -> None:
    whole = torch.ones(5, 3)
    whole[3, 1] = torch.nan
    VectorInputs(whole).save(tmp_path, [])
    loaded = VectorInputs.load(tmp_path).joined(VectorInputs(torch.ones(1, 3)))
    assert torch.equal(loaded.rows(torch.tensor([0, 4, 5])), torch.ones(3, 3))
    with pytest.raises(CheckpointMismatchError, match=rf"{tmp_path}/inputs\.npy holds NaN or an infinity in row 3"):
        loaded.rows(torch.tensor([5, 3]))


# -- modes, and what is cut


def test_each_module_returns_to_its_mode() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Dropout())
    network[1].eval()  # frozen by the caller, and to stay so
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert network.training


def test_nothing_is_counted_where_nothing_is_cut(source: EmbeddingSource) -> None:
    scorer = VectorScorer(Sums())
    inputs, _ = scorer.encode(source)
    assert left_out(scorer, inputs, {"test": HISTORIES}) is None


class Counting(VectorScorer):
    """A scorer that cuts."""

    def cut_items(self, inputs: VectorInputs) -> dict[str, int]:
        return {"over_256_tokens": 1_300}

    def cut_histories(self, inputs: VectorInputs, histories: Ragged) -> dict[str, int]:
        return {"over_50_items": len(histories), "over_256_tokens": 0, "without_text": 2}


def test_what_is_cut_is_counted_and_told(source: EmbeddingSource, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    counts = left_out(Counting(Sums()), VectorInputs(torch.zeros(1, 1)), {"test": HISTORIES})
    assert counts == {
        "items": {"over_256_tokens": 1_300},
        "test_histories": {"over_50_items": 4, "over_256_tokens": 0, "without_text": 2},
    }
    log_left_out(counts)
    log_left_out(None)
    assert [record.getMessage() for record in caplog.records] == [
        "longer than the model reads, and cut: items: 1,300 over 256 tokens; test histories: 4 over 50 items",
        "of items without any text alone, and therefore all read alike: test histories: 2",
    ]
