"""Requests that change the catalogue, made into changes that the state can keep: checked, and their texts encoded together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from linguarec.recommender import Recommender
from linguarec.serving.problems import Problem, unknown_item
from linguarec.serving.schemas import Item
from linguarec.serving.state import ItemChange
from linguarec.serving.upserts import (
    Vector,
    changed_rows,
    new_rows,
    packed,
    present,
    unreadable,
    vectors_for,
)


@dataclass(frozen=True)
class Upsert:
    """Items to add or replace. Of several items with one id the last one counts."""

    items: Sequence[Item]


@dataclass(frozen=True)
class Removal:
    """An item to remove."""

    raw_id: str


@dataclass(frozen=True)
class Changed:
    """What became of a request: the number of its last change in the state, how many of its items were taken, and why
    others, by place, were refused."""

    sequence: int
    count: int
    refused: Mapping[int, str]


@dataclass
class Plan:
    """The changes of several requests, of which each id has one, and what is known of each request.

    `problems`: of requests that cannot be met at all. `refused`: of each request, id -> why the item is refused.
    """

    changes: list[ItemChange] = field(default_factory=list)
    problems: dict[int, Problem] = field(default_factory=dict)
    refused: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Accepted:
    """An item with a row in the form of the catalogue."""

    item: Item
    row: pa.Table


def plan_changes(recommender: Recommender, own: int, asked: Sequence[Upsert | Removal]) -> Plan:
    """What the requests change, in their order.

    Args:
        recommender: of the run.
        own: entries of the run's own catalogue; those behind came from the state.
        asked: the requests.

    Raises:
        LinguarecError: the texts cannot be encoded on this machine.
    """
    plan = Plan(refused=[{} for _ in asked])
    newest: dict[str, _Accepted | None] = {}  # None = removed
    for number, one in enumerate(asked):
        if isinstance(one, Removal):
            there = newest[one.raw_id] is not None if one.raw_id in newest else _has(recommender, one.raw_id)
            if there:
                newest[one.raw_id] = None
            else:
                plan.problems[number] = unknown_item(one.raw_id)
        else:
            newest |= _accepted(recommender, one, plan.refused[number])
    upserts = {raw_id: accepted for raw_id, accepted in newest.items() if accepted is not None}
    for raw_id in _kept(recommender, own, upserts):
        del newest[raw_id], upserts[raw_id]
    vectors, unfit = _read(recommender, upserts)
    for refused, one in zip(plan.refused, asked, strict=True):
        if isinstance(one, Upsert):
            refused |= {item.raw_id: unfit[item.raw_id] for item in one.items if item.raw_id in unfit}
    source = recommender.snapshot.source
    for raw_id, accepted in newest.items():
        if accepted is None:
            plan.changes.append(ItemChange(raw_id, None))
        elif raw_id not in unfit:
            vector = vectors.get(raw_id)
            text = None if accepted.item.vector is not None else accepted.row["text"][0].as_py()
            kept = None if vector is None else packed(vector, source, text)
            plan.changes.append(ItemChange(raw_id, accepted.item.columns, kept))
    return plan


def outcome(one: Upsert | Removal, refused: Mapping[str, str], sequence: int) -> Changed:
    """What became of a request."""
    if isinstance(one, Removal):
        return Changed(sequence, 1, {})
    by_place = {place: refused[item.raw_id] for place, item in enumerate(one.items) if item.raw_id in refused}
    return Changed(sequence, len(one.items) - len(by_place), by_place)


def _has(recommender: Recommender, raw_id: str) -> bool:
    return bool(present(recommender.catalogue, [raw_id])[0] >= 0)


def _accepted(recommender: Recommender, asked: Upsert, refused: dict[str, str]) -> dict[str, _Accepted]:
    """The items of a request that can be rows of the catalogue; the others are noted in `refused`."""
    items = {item.raw_id: item for item in asked.items}
    raw_ids = list(items)
    rows, bad = new_rows(recommender.catalogue, [{**item.columns, "raw_id": raw_id} for raw_id, item in items.items()])
    refused |= {raw_ids[place]: reason for place, reason in bad.items()}
    return {
        raw_id: _Accepted(items[raw_id], rows.slice(place, 1))
        for place, raw_id in enumerate(rows["raw_id"].to_pylist())
    }


def _kept(recommender: Recommender, own: int, upserts: Mapping[str, _Accepted]) -> list[str]:
    """The ids of items that the state has already as they are."""
    entries = present(recommender.catalogue, list(upserts))
    there = [raw_id for raw_id, entry in zip(upserts, entries.tolist(), strict=True) if entry >= own]
    if not there:
        return []
    rows = changed_rows(recommender.catalogue, pa.concat_tables([upserts[raw_id].row for raw_id in there]))
    return sorted(set(there) - set(rows["raw_id"].to_pylist()))


def _read(
    recommender: Recommender, upserts: Mapping[str, _Accepted]
) -> tuple[dict[str, Vector | None], dict[str, str]]:
    """The vectors of the items that the catalogue does not have as they are, and why some of them cannot be read.

    Raises:
        LinguarecError: the texts cannot be encoded.
    """
    if not upserts:
        return {}, {}
    rows = changed_rows(recommender.catalogue, pa.concat_tables([accepted.row for accepted in upserts.values()]))
    if not len(rows):
        return {}, {}
    raw_ids: list[str] = rows["raw_id"].to_pylist()
    given = [upserts[raw_id].item.array for raw_id in raw_ids]
    if not recommender.description.family.ranks_new or recommender.snapshot.source.encoder_id is None:
        vectors = given  # there is nothing to encode; what is given is refused below
    else:
        vectors = vectors_for(recommender.snapshot.source, rows, given)
    unfit = unreadable(recommender, rows, vectors)
    return dict(zip(raw_ids, vectors, strict=True)), {raw_ids[place]: reason for place, reason in unfit.items()}
