import numpy as np
import pytest
import torch

from linguarec.data.ragged import Ragged
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.ranks import TargetRanks, chunk_rows, full_precision


def oracle(queries, keys, targets, exclude=None, within=None):
    """One target at a time, one candidate at a time, in exact integer arithmetic."""
    greater, ties = [], []
    for q, target in enumerate(targets.tolist()):
        candidates = set(range(len(keys)) if within is None else within.tolist())
        if exclude is not None:
            candidates -= set(exclude[q].tolist()) - {target}
        score = [int((queries[q] * key).sum()) for key in keys]
        greater.append(sum(score[item] > score[target] for item in candidates))
        ties.append(sum(score[item] == score[target] for item in candidates))
    return greater, ties


@pytest.fixture
def world():
    """Small whole numbers: every product is exact, and many scores tie."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randint(-2, 3, (37, 4), generator=generator).float()
    keys = torch.randint(-2, 3, (29, 4), generator=generator).float()
    targets = torch.randint(0, 29, (37,), generator=generator).numpy()
    rng = np.random.default_rng(0)
    exclude = Ragged.from_lists([rng.integers(0, 29, size=rng.integers(0, 9)).tolist() for _ in range(37)])
    return queries, keys, targets, exclude


def equal(ranks: TargetRanks, expected) -> bool:
    return ranks.greater.tolist() == expected[0] and ranks.ties.tolist() == expected[1]


def test_a_hand_made_case():
    keys = torch.tensor([[3.0], [1.0], [2.0], [1.0], [0.0]])
    ranks = DenseRanker(keys).ranks(torch.ones(3, 1), np.array([0, 1, 4]))
    assert ranks.greater.tolist() == [0, 2, 4]
    assert ranks.ties.tolist() == [1, 2, 1]
    assert ranks.expected.tolist() == [1.0, 3.5, 5.0]


def test_equals_the_oracle(world):
    queries, keys, targets, exclude = world
    assert equal(DenseRanker(keys).ranks(queries, targets), oracle(queries, keys, targets))
    assert equal(DenseRanker(keys).ranks(queries, targets, exclude), oracle(queries, keys, targets, exclude))


def test_equals_the_oracle_within_a_whitelist(world):
    queries, keys, targets, exclude = world
    within = np.random.default_rng(1).permutation(sorted(set(targets.tolist()) | {0, 5}))
    found = DenseRanker(keys).ranks(queries, targets, exclude, within)
    assert equal(found, oracle(queries, keys, targets, exclude, within))


def test_an_excluded_target_stays_a_candidate():
    exclude = Ragged.from_lists([[0, 1, 1]])
    ranks = DenseRanker(torch.tensor([[3.0], [2.0], [5.0]])).ranks(torch.ones(1, 1), np.array([0]), exclude)
    assert (ranks.greater.item(), ranks.ties.item()) == (1, 1)


@pytest.mark.parametrize("width", [3, 16, 300])
def test_ranks_do_not_depend_on_the_other_queries(width):
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(700, width, generator=generator)
    keys = torch.randn(2_000, width, generator=generator)
    targets = torch.randint(0, 2_000, (700,), generator=generator).numpy()
    ranker = DenseRanker(keys)
    whole = ranker.ranks(queries, targets)
    for size in (1, 7, 512, 699):
        parts = [ranker.ranks(queries[i : i + size], targets[i : i + size]) for i in range(0, 700, size)[:10]]
        greater = np.concatenate([part.greater for part in parts])
        assert np.array_equal(greater, whole.greater[: len(greater)])


def test_ranks_do_not_depend_on_the_order_of_the_items():
    generator = torch.Generator().manual_seed(2)
    queries, keys = torch.randn(300, 24, generator=generator), torch.randn(1_001, 24, generator=generator)
    keys[500:] = keys[:501].clone()  # equal items, which must tie wherever they stand
    targets = torch.randint(0, 1_001, (300,), generator=generator).numpy()
    order = torch.randperm(1_001, generator=generator)
    new_row = torch.empty_like(order)
    new_row[order] = torch.arange(1_001)
    before = DenseRanker(keys).ranks(queries, targets)
    after = DenseRanker(keys[order]).ranks(queries, new_row.numpy()[targets])
    assert np.array_equal(before.greater, after.greater)
    assert np.array_equal(before.ties, after.ties)
    assert (before.ties >= 2).all()


def test_half_precision_inputs_are_scored_in_float32():
    queries, keys = torch.ones(1, 2, dtype=torch.bfloat16), torch.tensor([[256.0, 1.0], [256.0, 0.0]])
    ranks = DenseRanker(keys.bfloat16()).ranks(queries, np.array([1]))  # 257 is not a bfloat16: it would tie with 256
    assert (ranks.greater.item(), ranks.ties.item()) == (1, 1)


def test_autocast_and_matmul_precision_in_force_do_not_change_a_rank(world):
    queries, keys, targets, _ = world
    queries, keys = queries + 1e-3 * torch.randn(37, 4), keys + 1e-3 * torch.randn(29, 4)
    expected = DenseRanker(keys).ranks(queries, targets)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = DenseRanker(keys).ranks(queries, targets)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(found.greater, expected.greater)


def test_full_precision_puts_the_setting_back_after_an_error():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), full_precision(torch.device("cpu")):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_what_cannot_be_ranked_is_refused(world):
    queries, keys, targets, exclude = world
    with pytest.raises(ValueError, match="not finite"):
        DenseRanker(keys).ranks(queries * torch.nan, targets)
    with pytest.raises(ValueError, match="not finite"):
        DenseRanker(keys / 0).ranks(queries, targets)
    with pytest.raises(ValueError, match="1 targets are not among the candidates"):
        DenseRanker(keys).ranks(queries[:1], np.array([3]), within=np.array([1, 2]))
    with pytest.raises(ValueError, match="equally many"):
        DenseRanker(keys).ranks(queries[:5], targets[:5], exclude)
    with pytest.raises(ValueError, match="equally many"):
        DenseRanker(keys).ranks(queries, targets[:5])
    with pytest.raises(ValueError, match="rows of the 29 items"):
        DenseRanker(keys).ranks(queries[:1], np.array([29]))
    with pytest.raises(ValueError, match=r"must be \[Q, 4\]"):
        DenseRanker(keys).ranks(queries[:, :3], targets)


def test_chunks_stay_within_bounds():
    cpu = torch.device("cpu")
    assert [chunk_rows(n, cpu) for n in (1, 4_385, 447_000)] == [512, 512, 64]
