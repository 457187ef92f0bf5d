"""Filters raw rows to the interactions of a folder, as Ibis expressions.

A raw log has the columns `user`, `item` (strings), `time` (int64 microseconds or NULL), `variant` (int64, a hash of
the other columns that distinguish two rows, or NULL) and `position` (row of the source file, from 0). A coded log has `user`,
`item` (int32 codes), `time` and `position`. The same expressions run on DuckDB and on Spark.
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import ibis
import ibis.expr.types as ir

from linguarec.data.engine import Engine

Number = TypeVar("Number", int, ir.IntegerColumn)
Ties = Literal["file", "random"]
Duplicates = Literal["identical", "first", "keep"]


def codes_by_appearance(engine: Engine, log: ir.Table, key: str) -> ir.Table:
    """Stored `raw_id`, `code`: the distinct values of column `key`, numbered from 0 as they first appear in the source file."""
    first = log.group_by(raw_id=log[key]).agg(first=log.position.min())
    return engine.numbered(first, "first")


def coded(log: ir.Table, users: ir.Table, items: ir.Table) -> ir.Table:
    """The log with integer codes for users and items, without the rows whose user or item has no code."""
    users = users.rename(user_raw="raw_id", user_code="code")
    items = items.rename(item_raw="raw_id", item_code="code")
    joined = log.inner_join(items, log.item == items.item_raw)
    joined = joined.inner_join(users, joined.user == users.user_raw)
    return joined.select(user="user_code", item="item_code", time="time", variant="variant", position="position")


def without_duplicates(log: ir.Table, duplicates: Duplicates) -> ir.Table:
    """Drop repeated rows of a coded log; of equal rows the first in the file is kept.

    "identical": drops rows that agree in user, item, time and all other columns of the source. "first": drops a user's later
    interactions with the same item. "keep": drops nothing.
    """
    if duplicates == "keep":
        return log.drop("variant")
    if duplicates == "identical":
        keys = ["user", "item", "time", "variant"]
        return log.group_by(keys).agg(position=log.position.min()).drop("variant")
    # The first in time; among equal times the first in the file.
    return (
        log.group_by("user", "item")
        .agg(position=log.position.argmin(_pair(log)), time=log.time.argmin(_pair(log)))
        .select("user", "item", "time", "position")
    )


def k_core(engine: Engine, log: ir.Table, user_core: int, item_core: int) -> tuple[ir.Table, int]:
    """Drop users with fewer than `user_core` and items with fewer than `item_core` rows until all have enough.

    The log is counted once. Each round then finds only the rows of the users and items dropped in that round and subtracts
    them from the counts; the log is rewritten once, at the end. Replaces the stored table `log`; returns the remaining table
    and the number of rounds.
    """
    users, items = _Side.count(engine, log, "user", user_core), _Side.count(engine, log, "item", item_core)
    rounds = 0
    while engine.value(users.falling.count()) + engine.value(items.falling.count()) > 0:
        rounds += 1
        by_user = log.semi_join(users.falling, "user").anti_join(items.fallen, "item")
        by_item = log.semi_join(items.falling, "item").anti_join(users.fallen, "user").anti_join(users.falling, "user")
        lost = engine.store(by_user.select("user", "item").union(by_item.select("user", "item")))
        users, items = users.without(engine, lost), items.without(engine, lost)
        engine.drop(lost)
    if rounds == 0:
        return log, 0
    return engine.store(log.anti_join(users.fallen, "user").anti_join(items.fallen, "item"), log), rounds


@dataclass(frozen=True)
class _Side:
    """Users or items in the k-core: `counts` of rows of the remaining ones, `falling` in this round, `fallen` before it."""

    key: str
    minimum: int
    counts: ir.Table
    falling: ir.Table
    fallen: ir.Table

    @classmethod
    def count(cls, engine: Engine, log: ir.Table, key: str, minimum: int) -> "_Side":
        counts = engine.store(log.group_by(key).agg(rows=log.count()))
        falling = engine.store(counts.filter(counts.rows < minimum).select(key))
        return cls(key, minimum, counts, falling, engine.store(falling.filter(False)))

    def without(self, engine: Engine, lost: ir.Table) -> "_Side":
        """This side after a round that drops the rows `lost`."""
        losses = lost.group_by(self.key).agg(lost=lost.count())
        joined = self.counts.anti_join(self.falling, self.key).left_join(losses, self.key)
        rows = joined.rows - joined.lost.fill_null(0)
        counts = engine.store(joined.select(self.key, rows=rows), self.counts)
        falling = engine.store(counts.filter(counts.rows < self.minimum).select(self.key))
        fallen = engine.store(self.fallen.union(self.falling), self.fallen, self.falling)
        return replace(self, counts=counts, falling=falling, fallen=fallen)


def ordered(log: ir.Table, ties: Ties, seed: int) -> ir.Table:
    """Total order: user, time, and for equal times the position in the file or a seeded shuffle of it."""
    keys = [log.user, log.time] if ties == "file" else [log.user, log.time, shuffle_key(log.position, seed)]
    return log.order_by([*keys, log.position])


def ordered_after(log: ir.Table, ties: Ties, seed: int, earlier: int, has_times: bool) -> ir.Table:
    """Total order of a log whose rows with `position` below `earlier` are in order already, and come before others of
    their time; without times, before all others."""
    keys = _keys_after(log, ties, seed, earlier, has_times)
    return log.order_by([log.user, log.time, *keys] if has_times else [log.user, *keys])


def in_final_order(log: ir.Table, ties: Ties, seed: int, earlier: int, has_times: bool) -> ir.Table:
    """The order of `ordered_after` over all users but for the times of the world: in that order the rows can be stored,
    and be those of `earlier` next time."""
    return log.order_by(_keys_after(log, ties, seed, earlier, has_times))


def _keys_after(log: ir.Table, ties: Ties, seed: int, earlier: int, has_times: bool) -> list[ir.Value]:
    late = log.position >= earlier
    keys: list[ir.Value] = [late]
    if not has_times:
        # Ranks of different pieces do not compare.
        keys.append(ibis.ifelse(late, log.time, ibis.null("int64")))
    if ties == "random":
        keys.append(ibis.ifelse(late, shuffle_key(log.position - earlier, seed), 0))
    return [*keys, log.position]


def shuffle_key(position: ir.IntegerColumn, seed: int) -> ir.IntegerColumn:
    """A 32-bit hash of each position and the seed, in plain integer arithmetic: the same in every engine and version."""
    return _mix32(_mix32(position % 2**32) ^ _mix32(seed % 2**32))


def _mix32(value: Number) -> Number:
    """A bijection on 32 bits (xor-shift and multiply, twice), for an integer or an integer column."""
    for _ in range(2):
        value = ((value ^ (value >> 16)) * 0x045D9F3B) % 2**32
    return value ^ (value >> 16)


def _pair(log: ir.Table) -> ir.StructColumn:
    return ibis.struct({"time": log.time, "position": log.position})
