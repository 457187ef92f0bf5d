"""Steps of pre-training: every target once, views and negatives by their law, the same however many processes share them."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from prepared import HeldItems

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import (
    MixedLoader,
    Mixing,
    NegativeSettings,
    PretrainingBatch,
    PretrainingLoader,
    ViewSettings,
)
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.sources.joined import JoinedItems

WIDTH, CODE_BOOKS, CENTROIDS, DRAWS = 3, 8, 16, 2


@dataclass(frozen=True)
class Corpus:
    """Several logs, and the items of each."""

    logs: TrainingLogs
    items: list[HeldItems]


def make_domain(name: str, users: int, num_items: int, seed: int, first: float) -> tuple[TrainingLog, HeldItems]:
    """Random sequences; the vector of item i is (first, i, draw)."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(num_items, size=length).tolist() for length in generator.integers(2, 9, size=users)]
    vectors = [
        np.stack([np.full(num_items, first), np.arange(num_items), np.full(num_items, draw)], axis=1).astype(np.float32)
        for draw in range(DRAWS + 1)
    ]
    codes = generator.integers(CENTROIDS, size=(num_items, CODE_BOOKS)).astype(np.uint8)
    log = TrainingLog(name, Ragged.from_lists(rows), num_items)
    return log, HeldItems(num_items, vectors[0], codes, vectors[1:])


@pytest.fixture
def domains() -> Corpus:
    logs, items = zip(make_domain("a", 60, 20, 0, 1.0), make_domain("b", 30, 50, 1, 2.0), strict=True)
    return Corpus(TrainingLogs(logs), list(items))


def make_loader(
    domains: Corpus, mixing: float = 1.0, code_replacement: float = 0.75, views: bool = True, **view: float
) -> PretrainingLoader:
    steps = MixedLoader(domains.logs, 10, 60, None, Mixing(mixing), seed=0)
    negatives = NegativeSettings(code_replacement)
    settings = ViewSettings(**view) if views else None
    return PretrainingLoader(steps, JoinedItems(domains.items), settings, negatives, CENTROIDS)  # type: ignore[arg-type]


def pairs_of(batch: PretrainingBatch) -> list[tuple[int, int, int, int]]:
    """(user, domain, item read, next item) of every position."""
    sequences, rows = batch.sequences, batch.items.rows
    lengths = sequences.offsets.diff()
    users, domain = (column.repeat_interleave(lengths) for column in (sequences.users, sequences.domain))
    return list(
        zip(
            users.tolist(),
            domain.tolist(),
            rows[sequences.items].tolist(),
            rows[sequences.targets].tolist(),
            strict=True,
        )
    )


def test_an_epoch_asks_for_every_target_once(domains: Corpus) -> None:
    expected: Counter[tuple[int, int, int, int]] = Counter()
    first_user = 0
    for number, domain in enumerate(domains.logs.logs):
        for user in range(len(domain.sequences)):
            row = domain.sequences[user].tolist()
            expected.update((first_user + user, number, *pair) for pair in itertools.pairwise(row))
        first_user += len(domain.sequences)
    found = Counter(pair for batch in make_loader(domains) for pair in pairs_of(batch))
    assert found == expected


def test_steps_mix_the_domains(domains: Corpus) -> None:
    assert all(set(batch.sequences.domain.tolist()) == {0, 1} for batch in make_loader(domains))


def steps_of_one_domain(domains: Corpus, exponent: float = 1.0, targets_per_step: int = 60) -> MixedLoader:
    return MixedLoader(domains.logs, 10, targets_per_step, None, Mixing(exponent, "one"), seed=0)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
def test_steps_of_one_domain_ask_for_the_same_targets_as_mixed_ones(exponent: float, domains: Corpus) -> None:
    loader = steps_of_one_domain(domains, exponent)
    numbers = []
    for _ in range(3):
        found: Counter[int] = Counter()
        for batch in loader:
            (domain,) = set(domains.logs.domain_of_sequence[batch.sequences.users.numpy()].tolist())
            found[domain] += batch.step_targets
        mixed = Counter(pair[1] for batch in make_loader(domains, exponent) for pair in pairs_of(batch))
        assert {one: pytest.approx(count, abs=7) for one, count in mixed.items()} == found
        numbers.append(len(loader))
    assert numbers[0] == numbers[1] == numbers[2] > 4


def test_steps_of_one_domain_come_in_a_shuffled_order_with_every_target_once(domains: Corpus) -> None:
    loader = steps_of_one_domain(domains)
    epochs = [[batch.windows.tolist() for batch in loader] for _ in range(2)]
    for steps in epochs:
        assert sorted(itertools.chain(*steps)) == list(range(sum(map(len, steps))))
    orders = [[int(step[0] >= len(domains.logs.logs[0].sequences)) for step in steps] for steps in epochs]
    assert all(order not in (sorted(order), sorted(order, reverse=True)) for order in orders)
    assert orders[0] != orders[1]


def test_a_domain_that_is_smaller_than_a_step_of_its_own_is_refused(domains: Corpus) -> None:
    small = domains.logs.logs[1].num_targets
    with pytest.raises(
        SettingsError, match=rf"b has {small} targets in an epoch, fewer than the {small + 1} of a step"
    ):
        steps_of_one_domain(domains, targets_per_step=small + 1)
    MixedLoader(domains.logs, 10, small + 1, None, Mixing(), seed=0)


def test_mixing_0_gives_all_domains_the_same_share(domains: Corpus) -> None:
    sizes = [domain.num_targets for domain in domains.logs.logs]
    for mixing in (0, 0.5):
        counts = Counter(pair[1] for batch in make_loader(domains, mixing) for pair in pairs_of(batch))
        assert sum(counts.values()) == pytest.approx(sum(sizes), abs=8)  # histories are drawn whole: up to 7 targets
        assert counts[0] / counts[1] == pytest.approx((sizes[0] / sizes[1]) ** mixing, abs=0.1)


def test_shares_count_targets_where_histories_are_longer_than_the_model_reads() -> None:
    """Behind `max_length` each target has a window of its own: counting windows, long histories would count up to 5 times."""
    generator = np.random.default_rng(0)
    rows = [
        [generator.integers(9, size=length).tolist() for _ in range(users)] for length, users in ((26, 20), (6, 100))
    ]
    both = TrainingLogs([TrainingLog(f"d{length}", Ragged.from_lists(of), 9) for length, of in enumerate(rows)])
    assert [log.num_targets for log in both.logs] == [500, 500]
    for mixing in (0.0, 0.5, 1.0):
        loader = MixedLoader(both, 5, 50, None, Mixing(mixing), seed=0)
        counts: Counter[int] = Counter()
        for batch in loader:
            lengths = batch.sequences.offsets.diff()
            domain = torch.from_numpy(both.domain_of_sequence)[batch.sequences.users].repeat_interleave(lengths)
            counts.update(domain[batch.sequences.targets >= 0].tolist())
        assert counts == {0: 500, 1: 500}, mixing


def test_mixing_0_shows_a_small_domain_over_and_over() -> None:
    """One long and one short history against many: 30 targets and 600."""
    generator = np.random.default_rng(0)
    small, large = ([generator.integers(9, size=21).tolist(), [*range(9), 0, 1]], [[0, 1, 2, 3, 4, 5, 6]] * 100)
    both = TrainingLogs([TrainingLog(name, Ragged.from_lists(of), 9) for name, of in (("a", small), ("b", large))])
    loader = MixedLoader(both, 8, 50, None, Mixing(0), seed=0)
    counts: Counter[int] = Counter()
    for batch in loader:
        lengths = batch.sequences.offsets.diff()
        domain = torch.from_numpy(both.domain_of_sequence)[batch.sequences.users].repeat_interleave(lengths)
        counts.update(domain[batch.sequences.targets >= 0].tolist())
    assert counts[0] == pytest.approx(315, abs=8) and counts[1] == pytest.approx(315, abs=6)


def test_items_bring_the_vectors_and_codes_of_their_own_domain(domains: Corpus) -> None:
    for batch in make_loader(domains, word_drop=1.0):
        items = batch.items
        assert items.features is not None and items.codes is not None
        assert items.features[:, 0].tolist() == (items.domain + 1).tolist()
        assert items.features[:, 1].tolist() == items.rows.tolist()
        for row, domain, codes in zip(items.rows.tolist(), items.domain.tolist(), items.codes.tolist(), strict=True):
            stored = domains.items[domain].codes
            assert stored is not None and codes == stored[row].tolist()
        keys = list(zip(items.domain.tolist(), items.rows.tolist(), items.features[:, 2].tolist(), strict=True))
        assert len(set(keys)) == len(keys)  # each distinct pair once


def test_item_drop_keeps_a_subsequence_of_each_history(domains: Corpus) -> None:
    kept = total = 0
    for batch in make_loader(domains, item_drop=0.4, word_drop=0.0):
        view, whole = batch.augmented, batch.sequences
        assert view is not None and len(view) == len(whole)
        for row in range(len(view)):
            full = batch.items.rows[whole.items[whole.offsets[row] : whole.offsets[row + 1]]].tolist()
            part = batch.items.rows[view.items[view.offsets[row] : view.offsets[row + 1]]].tolist()
            places = iter(full)
            assert len(part) >= 1 and all(item in places for item in part)
            assert view.positions[view.offsets[row] : view.offsets[row + 1]].tolist() == list(range(len(part)))
            kept, total = kept + len(part), total + len(full)
        assert (view.targets == -1).all()
    # 0.6 of the items, and one of each history that would have lost all.
    assert 0.58 < kept / total < 0.72


def test_dropping_every_item_leaves_one_of_each_history(domains: Corpus) -> None:
    for batch in make_loader(domains, item_drop=1.0, word_drop=0.0):
        assert batch.augmented is not None
        assert set(batch.augmented.offsets.diff().tolist()) == {1}


def test_word_drop_reads_a_stored_draw_of_all_items_of_a_history(domains: Corpus) -> None:
    seen: Counter[tuple[float, ...]] = Counter()
    for batch in make_loader(domains, word_drop=0.5, item_drop=0.0):
        view = batch.augmented
        assert view is not None and batch.items.features is not None
        assert torch.equal(view.offsets, batch.sequences.offsets)
        draws = batch.items.features[view.items, 2]
        seen.update(tuple(set(part.tolist())) for part in draws.split(view.offsets.diff().tolist()))
        assert (batch.items.features[batch.sequences.items, 2] == 0).all()
    assert set(seen) == {(0.0,), (1.0,), (2.0,)}
    assert 0.35 < seen[(0.0,)] / sum(seen.values()) < 0.65


def test_synthetic_negatives_replace_codes_at_the_asked_rate(domains: Corpus) -> None:
    replaced, total, values = 0, 0, Counter[int]()
    for batch in make_loader(domains, code_replacement=0.75):
        assert batch.negatives is not None and batch.items.codes is not None
        targets = batch.items.codes[batch.sequences.targets[batch.sequences.targets >= 0]]
        assert batch.negatives.shape == targets.shape
        changed = batch.negatives != targets
        replaced, total = replaced + int(changed.sum()), total + changed.numel()
        values.update(batch.negatives[changed].tolist())
    assert replaced / total == pytest.approx(0.75 * 15 / 16, abs=0.03)  # a sixteenth draws the number that was there
    assert set(values) == set(range(CENTROIDS))


def test_no_negatives_at_rate_0(domains: Corpus) -> None:
    assert all(batch.negatives is None for batch in make_loader(domains, code_replacement=0.0))


def test_processes_share_the_views_and_negatives_of_one(domains: Corpus) -> None:
    parts = []
    for rank in range(2):
        loader = make_loader(domains)
        loader.shard(rank, 2)
        parts.append(list(loader))
    for whole, *shared in zip(make_loader(domains), *parts, strict=True):
        assert Counter(described(whole)) == Counter(entry for part in shared for entry in described(part))


def described(batch: PretrainingBatch) -> list[Any]:
    """One entry a history: user, items, targets, the view's items with their draws, and the negatives."""
    assert batch.augmented is not None and batch.negatives is not None and batch.items.features is not None
    entries, position = [], 0
    for row in range(len(batch.sequences)):
        part = slice(int(batch.sequences.offsets[row]), int(batch.sequences.offsets[row + 1]))
        view = slice(int(batch.augmented.offsets[row]), int(batch.augmented.offsets[row + 1]))
        length = part.stop - part.start
        read = batch.items.features[batch.sequences.items[part]]
        asked = batch.items.features[batch.sequences.targets[part]]
        seen = batch.items.features[batch.augmented.items[view]]
        synthetic = batch.negatives[position : position + length]
        position += length
        parts = (read, asked, seen, synthetic)
        entries.append((int(batch.sequences.users[row]), *(str(tensor.tolist()) for tensor in parts)))
    return entries


def test_goes_on_where_it_was(domains: Corpus) -> None:
    whole = [described(batch) for batch in loader_twice(domains)]
    loader = make_loader(domains)
    steps = iter(loader)
    before = [described(next(steps)) for _ in range(3)]
    state = loader.state_dict()
    again = make_loader(domains)
    again.load_state_dict(state)
    after = [described(batch) for batch in again]
    assert before + after == whole[: len(before) + len(after)]
    assert [described(batch) for batch in again] == whole[len(again) : 2 * len(again)]  # the next epoch


def loader_twice(domains: Corpus) -> list[PretrainingBatch]:
    """The batches of two epochs."""
    loader = make_loader(domains)
    return [*loader, *loader]


def test_a_model_that_asks_for_no_views_needs_no_draws(domains: Corpus) -> None:
    bare = Corpus(domains.logs, [HeldItems(len(items), items.vectors) for items in domains.items])
    without = list(make_loader(bare, views=False))
    assert all(batch.augmented is None for batch in without)
    whole = list(make_loader(domains))
    assert [pairs_of(batch) for batch in without] == [pairs_of(batch) for batch in whole]
    assert sum(len(batch.items) for batch in without) < sum(len(batch.items) for batch in whole)


def test_a_step_larger_than_the_data_is_refused(domains: Corpus) -> None:
    with pytest.raises(SettingsError, match=r"takes 4000 targets, and all folders together have \d+: negatives"):
        PretrainingLoader(
            MixedLoader(domains.logs, 10, 4000, None, Mixing(), seed=0),
            JoinedItems(domains.items),
            None,  # type: ignore[arg-type]
        )
