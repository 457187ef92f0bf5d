"""Steps of self-supervision: three readings of the same sequences, repeatable, resumable, split evenly over processes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from linguarec.batching.self_supervised import PrefixLoader, SelfSupervisedBatch, SelfSupervisedLoader
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError

LENGTHS = [0, 1, 2, 3, 30, 4, 9, 2, 12, 5, 21, 7, 8]
MAX_LENGTH = 8
SEQUENCES = Ragged(
    np.arange(sum(LENGTHS), dtype=np.int32) + 100, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
)
Row = tuple[int, list[int], list[int], list[int], list[int]]


def make(mask_share: float = 0.4, seed: int = 0) -> SelfSupervisedLoader:
    return SelfSupervisedLoader(PrefixLoader(SEQUENCES, MAX_LENGTH, 16, mask_share, seed))


def rows(batch: SelfSupervisedBatch) -> list[Row]:
    """(user, masked items, targets, context, segment) of each row."""
    masked = batch.masked
    parts = (masked.items, masked.targets, batch.context.items, batch.segment.items)
    bounds = pairwise(masked.offsets.tolist())
    return [
        (user, *(part[start:stop].tolist() for part in parts))
        for user, (start, stop) in zip(masked.users.tolist(), bounds, strict=True)
    ]


def test_each_sequence_comes_once_an_epoch_with_a_new_end() -> None:
    loader, ends = make(), []
    for _ in range(200):
        found = [row for batch in loader for row in rows(batch)]
        assert sorted(user for user, *_ in found) == [user for user, length in enumerate(LENGTHS) if length >= 2]
        for user, items, targets, *_ in found:
            whole = [max(pair) for pair in zip(items, targets, strict=True)]
            end = whole[-1] - 100 - int(SEQUENCES.offsets[user]) + 1
            assert 2 <= end <= LENGTHS[user]
            assert whole == list(range(whole[-1] + 1 - min(end, MAX_LENGTH), whole[-1] + 1))
            ends += [end] * (user == 6)
    assert set(ends) == set(range(2, 10))


def test_the_last_place_is_hidden_and_a_share_of_the_others() -> None:
    hidden_places = set()
    for _ in range(30):
        for batch in make(seed=_):
            for _user, items, targets, *_others in rows(batch):
                assert [item < 0 for item in items] == [target >= 0 for target in targets]
                assert items[-1] < 0
                assert sum(item < 0 for item in items) == 1 + round(0.4 * (len(items) - 1))
                hidden_places |= {place for place, item in enumerate(items) if item < 0 and len(items) == MAX_LENGTH}
    assert hidden_places == set(range(MAX_LENGTH))


def test_segment_and_context_part_the_sequence() -> None:
    lengths, starts = set(), set()
    for seed in range(30):
        for batch in make(seed=seed):
            assert batch.step_targets == int((batch.masked.targets >= 0).sum())
            for part in (batch.context, batch.segment):
                assert bool((part.targets == -1).all())
                assert torch.equal(part.offsets, batch.masked.offsets)
                assert torch.equal(part.positions, batch.masked.positions)
            for _, items, targets, context, segment in rows(batch):
                whole = [max(pair) for pair in zip(items, targets, strict=True)]
                inside = [place for place, item in enumerate(segment) if item >= 0]
                assert inside == list(range(inside[0], inside[-1] + 1))
                assert 1 <= len(inside) <= max(1, len(items) // 2)
                assert [max(pair) for pair in zip(context, segment, strict=True)] == whole
                assert all((a < 0) != (b < 0) for a, b in zip(context, segment, strict=True))
                if len(items) == MAX_LENGTH:
                    lengths.add(len(inside))
                    starts.add(inside[0])
    assert lengths == {1, 2, 3, 4}
    assert starts == set(range(MAX_LENGTH))


@pytest.mark.parametrize("taken", [1, 3])
def test_goes_on_where_its_state_was_taken(taken: int) -> None:
    loader = make()
    steps = len(loader)
    unbroken = [rows(batch) for _ in range(3) for batch in loader]
    loader, stream = make(), []
    while len(stream) < taken:
        for batch in loader:
            stream.append(rows(batch))
            if len(stream) == taken:
                break
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    while len(stream) < 3 * steps:
        stream += [rows(batch) for batch in resumed]
    assert stream == unbroken


def test_processes_share_what_one_reads() -> None:
    whole, parts = make(), [make() for _ in range(3)]
    for rank, part in enumerate(parts):
        part.shard(rank, 3)
    for batch, *shares in zip(whole, *parts, strict=True):
        together = [row for share in shares for row in rows(share) if row[0] >= 0]
        assert sorted(together) == sorted(rows(batch))
        assert {share.step_targets for share in shares} == {batch.step_targets}


def test_a_process_without_sequences_has_nothing_to_learn() -> None:
    loader = SelfSupervisedLoader(PrefixLoader(SEQUENCES.select(np.array([2])), MAX_LENGTH, 16, 0.2, 0))
    loader.shard(1, 2)
    (batch,) = loader
    for part in (batch.masked, batch.context, batch.segment):
        assert bool((part.items == -1).all())
        assert bool((part.targets == -1).all())
    assert batch.masked.users.tolist() == [-1]


def test_too_small_a_step_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"self_supervision\.targets_per_step\) takes 15 hidden places"):
        PrefixLoader(SEQUENCES, MAX_LENGTH, 15, 0.2, 0)
