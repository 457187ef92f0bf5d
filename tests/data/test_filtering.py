"""Filtering against plain Python on small random logs."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pytest

from linguarec.data import filtering
from linguarec.data.engine import Engine, EngineChoice, open_engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_engine(tmp_path, EngineChoice(memory="500MB")) as engine:
        yield engine


def stored(engine: Engine, **columns: list[int]) -> ibis.Table:
    return engine.store(ibis.memtable(pa.table(columns)))


@pytest.mark.parametrize("seed", range(4))
def test_k_core_is_the_fixed_point(engine: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 45, 300).tolist(), (rng.random(300) ** 2 * 45).astype(int).tolist()
    expected = list(zip(users, items, range(300), strict=True))
    while True:
        by_user, by_item = Counter(row[0] for row in expected), Counter(row[1] for row in expected)
        kept = [row for row in expected if by_user[row[0]] >= 5 and by_item[row[1]] >= 5]
        if len(kept) == len(expected):
            break
        expected = kept
    log = stored(engine, user=users, item=items, position=list(range(300)))
    core, rounds = filtering.k_core(engine, log, 5, 5)
    assert sorted((row["user"], row["item"], row["position"]) for row in engine.rows(core)) == sorted(expected)
    assert 0 < len(expected) < 300
    assert rounds >= 1


def test_k_core_of_a_core_changes_nothing(engine: Engine) -> None:
    log = stored(engine, user=[0, 0, 1, 1], item=[0, 1, 0, 1], position=[0, 1, 2, 3])
    core, rounds = filtering.k_core(engine, log, 2, 2)
    assert (engine.value(core.count()), rounds) == (4, 0)


def test_duplicates(engine: Engine) -> None:
    def remaining(duplicates: filtering.Duplicates) -> list[int]:
        log = stored(
            engine,
            user=[0, 0, 0, 0, 1],
            item=[7, 7, 7, 7, 7],
            time=[5, 5, 5, 3, 5],
            variant=[1, 1, 2, 1, 1],
            position=[0, 1, 2, 3, 4],
        )
        return sorted(row["position"] for row in engine.rows(filtering.without_duplicates(log, duplicates)))

    assert remaining("keep") == [0, 1, 2, 3, 4]
    assert remaining("identical") == [0, 2, 3, 4]
    assert remaining("first") == [3, 4]


def test_order_is_total_and_ties_follow_the_file_or_the_seed(engine: Engine) -> None:
    rows = 200
    log = stored(engine, user=[0] * rows, item=[1] * rows, time=[9] * rows, position=list(range(rows))[::-1])

    def order(ties: filtering.Ties, seed: int) -> list[int]:
        return [row["position"] for row in engine.rows(filtering.ordered(log, ties, seed))]

    assert order("file", 0) == list(range(rows))
    first, again, other = order("random", 0), order("random", 0), order("random", 1)
    assert first == again
    assert sorted(first) == list(range(rows))
    assert first != other
    # No trace of the file's order is left: neighbours in the file are as far apart as in any shuffle (a third).
    place = np.argsort(first)
    assert abs(np.mean(np.abs(np.diff(place))) / rows - 1 / 3) < 0.05
    assert abs(np.corrcoef(place, np.arange(rows))[0, 1]) < 0.2


def test_shuffle_key_is_the_same_in_plain_integers(engine: Engine) -> None:
    log = stored(engine, position=[0, 1, 2, 5_000_000_000])
    keys = [
        row["key"]
        for row in engine.rows(log.select("position", key=filtering.shuffle_key(log.position, 3)).order_by("position"))
    ]

    def mix(value: int) -> int:
        for _ in range(2):
            value = ((value ^ (value >> 16)) * 0x045D9F3B) % 2**32
        return value ^ (value >> 16)

    assert keys == [mix(mix(position % 2**32) ^ mix(3)) for position in (0, 1, 2, 5_000_000_000)]
