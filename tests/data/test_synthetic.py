"""The synthetic world keeps its promises: seeded, readable, lawful, with a best score that nothing beats."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linguarec.data.synthetic import DEMO, LAUNCH, TINY, Shop, generate_world, word_vectors
from linguarec.errors import OutputError


@pytest.fixture(scope="module")
def domain() -> Shop:
    return generate_world(seed=1, domains=1, size=DEMO)[0]


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    one, again, other = (generate_world(seed=seed, domains=2, size=TINY) for seed in (3, 3, 4))
    for left, right in zip(one, again, strict=True):
        assert left.items == right.items
        assert np.array_equal(left.sequences.values, right.sequences.values)
        assert np.array_equal(left.timestamps, right.timestamps)
    assert not np.array_equal(one[0].sequences.values, other[0].sequences.values)


def test_sizes(domain: Shop):
    assert len(domain.items) == 240
    assert len(domain.sequences) == 2_000
    assert domain.sequences.lengths.min() == 5
    assert domain.sequences.lengths.max() == 15
    assert len({item.raw_id for item in domain.items}) == 240
    assert len({item.text for item in domain.items}) == 240


def test_the_law_is_a_distribution_and_the_log_follows_it(domain: Shop):
    values, offsets = np.asarray(domain.sequences.values), domain.sequences.offsets
    last, test = values[offsets[1:] - 2], values[offsets[1:] - 1]
    law = domain.next_item_law(last, after_launch=True)
    assert law.sum(1) == pytest.approx(np.ones(len(last)))
    # Mean log-likelihood of the drawn items against its expectation, within 4 standard errors.
    logs = np.log(law)
    expected = (law * logs).sum(1)
    deviation = np.sqrt((law * logs**2).sum(1) - expected**2).mean() / np.sqrt(len(last))
    assert logs[np.arange(len(last)), test].mean() == pytest.approx(expected.mean(), abs=4 * deviation)


def test_best_possible_is_the_score_of_ranking_by_the_law(domain: Shop):
    values, offsets = np.asarray(domain.sequences.values), domain.sequences.offsets
    law = domain.next_item_law(values[offsets[1:] - 2], after_launch=True)
    top = np.argsort(-law, axis=1, kind="stable")[:, :10]
    hits = top == values[offsets[1:] - 1][:, None]
    best = domain.best_possible(10)
    assert hits.any(1).mean() == pytest.approx(best["recall@10"], abs=4 * 0.5 / np.sqrt(2_000))
    assert (hits / np.log2(np.arange(10) + 2)).sum(1).mean() == pytest.approx(best["ndcg@10"], abs=0.03)
    popularity = np.argsort(-np.bincount(values, minlength=240))[:10]
    assert np.isin(values[offsets[1:] - 1], popularity).mean() < best["recall@10"] / 2


def test_best_possible_of_a_world_small_enough_to_count_by_hand():
    # Two tastes of one item each: staying has probability 0.2 + 0.1, moving on 0.6 + 0.1.
    size = replace(TINY, tastes=2, items_per_taste=1, new_items_per_taste=0)
    [domain] = generate_world(domains=1, size=size)
    assert sorted(domain.next_item_law(np.array([0]), after_launch=True)[0]) == pytest.approx([0.3, 0.7])
    assert domain.best_possible(1) == pytest.approx({"recall@1": 0.7, "ndcg@1": 0.7})
    assert domain.best_possible(10) == pytest.approx({"recall@10": 1.0, "ndcg@10": 0.7 + 0.3 / np.log2(3)})


def test_new_items_are_only_ever_a_last_interaction_after_the_launch(domain: Shop):
    last = np.zeros(len(domain.sequences.values), dtype=bool)
    last[domain.sequences.offsets[1:] - 1] = True
    is_new = np.isin(domain.sequences.values, domain.new_items)
    assert len(domain.new_items) == 24
    assert is_new[last].mean() > 0.05
    assert not is_new[~last].any()
    assert (domain.timestamps[last] > LAUNCH).all()
    assert (domain.timestamps[~last] < LAUNCH).all()
    within_user = np.diff(domain.timestamps)[~last[:-1]]
    assert (within_user > 0).all()


def test_text_tells_the_taste(domain: Shop):
    vectors = word_vectors([item.text for item in domain.items], width=128)
    assert vectors.shape == (240, 128)
    vectors -= vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    nearest = similarity.argmax(1)
    assert (domain.tastes[nearest] == domain.tastes).mean() > 0.6  # 1 / 12 by chance


def test_domains_share_tastes_but_no_items():
    kitchen, garden = generate_world(domains=2, size=TINY)
    assert np.array_equal(kitchen.transition, garden.transition)
    assert not {item.text for item in kitchen.items} & {item.text for item in garden.items}


def test_files_hold_the_log_and_the_catalogue(tmp_path: Path):
    [domain] = generate_world(domains=1, size=TINY)
    domain.write(tmp_path / "kitchen")
    with (tmp_path / "kitchen" / "items.csv").open(encoding="utf-8", newline="") as file:
        items = list(csv.DictReader(file))
    with (tmp_path / "kitchen" / "interactions.csv").open(encoding="utf-8", newline="") as file:
        log = list(csv.DictReader(file))
    assert [row["item_id"] for row in items] == [item.raw_id for item in domain.items]
    assert set(items[0]) == {"item_id", "title", "brand", "category"}
    assert [row["item_id"] for row in log] == [domain.items[row].raw_id for row in domain.sequences.values]
    assert len({row["user_id"] for row in log}) == 300
    with pytest.raises(OutputError, match="exists already"):
        domain.write(tmp_path / "kitchen")


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="domains must be 1 to 5, not 6"):
        generate_world(domains=6)
    with pytest.raises(ValueError, match="tastes must be 2 to 12, not 13"):
        replace(TINY, tastes=13)
    with pytest.raises(ValueError, match="new_items_per_taste"):
        replace(TINY, new_items_per_taste=12)
    with pytest.raises(ValueError, match="3 <= shortest"):
        replace(TINY, shortest=2)
