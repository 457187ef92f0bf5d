"""What a recommender returns, and which items it may return."""

from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from linguarec.catalogue import Catalogue
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.filters import Filter
from linguarec.histories import as_histories
from linguarec.ranking.explaining import Explanation
from linguarec.ranking.ranker import Best

_SCHEMA = pa.schema(
    [
        ("history", pa.int64()),
        ("rank", pa.int32()),
        ("raw_id", pa.string()),
        ("score", pa.float32()),
        ("title", pa.string()),
    ]
)
_REASONS = pa.list_(pa.struct([("raw_id", pa.string()), ("share", pa.float64())]))


@dataclass(frozen=True)
class Reason:
    """An item of the history, and its share of a recommended item's score (`linguarec.ranking.explaining`)."""

    raw_id: str
    share: float


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `score` orders the items of one history and means nothing across histories.

    Where an explanation was asked for: `reasons`, the items of the history, the largest share first; `parts`: amounts that sum
    to the score, by the name of the model, of each part of a blend, and "repeats" for the repeat term.
    """

    raw_id: str
    score: float
    title: str
    text: str
    reasons: tuple[Reason, ...] | None = None
    parts: dict[str, float] | None = None


def recommended(catalogue: Catalogue, best: Best) -> list[list[Recommendation]]:
    """The best entries of each query as items."""
    found = best.rows >= 0
    entries = best.rows[found]
    columns = catalogue.values("raw_id", entries), catalogue.titles(entries), catalogue.values("text", entries)
    items = (
        Recommendation(raw_id, score, title, text)
        for score, raw_id, title, text in zip(best.scores[found].tolist(), *columns, strict=True)
    )
    return [list(islice(items, count)) for count in found.sum(axis=1).tolist()]


def explained(
    catalogue: Catalogue, best: Best, explanation: Explanation, found: list[list[Recommendation]]
) -> list[list[Recommendation]]:
    """The items of `recommended`, with their reasons and parts."""
    explained = []
    for query, items in enumerate(found):
        raw_ids = catalogue.values("raw_id", explanation.items[query])
        columns = np.flatnonzero(best.rows[query] >= 0).tolist()
        explained.append(
            [
                replace(
                    item,
                    reasons=_reasons(raw_ids, explanation.shares[query][:, column]),
                    parts={name: float(values[query, column]) for name, values in explanation.parts.items()},
                )
                for item, column in zip(items, columns, strict=True)
            ]
        )
    return explained


def _reasons(raw_ids: list[str], shares: npt.NDArray[np.float64]) -> tuple[Reason, ...]:
    order = np.argsort(-shares, kind="stable").tolist()
    return tuple(Reason(raw_ids[place], float(shares[place])) for place in order)


def columns_of(catalogue: Catalogue, best: Best) -> dict[str, list[Any]]:
    """The best entries as columns: `history`, its place from 0; `rank` from 1; `raw_id`, `score`, `title`. No text is read."""
    histories, places = np.nonzero(best.rows >= 0)
    entries = best.rows[histories, places]
    return {
        "history": histories.tolist(),
        "rank": (places + 1).tolist(),
        "raw_id": catalogue.values("raw_id", entries),
        "score": best.scores[histories, places].tolist(),
        "title": catalogue.titles(entries),
    }


def table_of(catalogue: Catalogue, best: Best, found: list[list[Recommendation]] | None = None) -> pa.Table:
    """The columns of `columns_of` as a table; with those of `explained`, also `reasons` and `parts`."""
    table = pa.Table.from_pydict(columns_of(catalogue, best), schema=_SCHEMA)
    if found is None:
        return table
    items = [item for row in found for item in row]
    reasons = [[asdict(reason) for reason in item.reasons or ()] for item in items]
    parts = [list((item.parts or {}).items()) for item in items]
    table = table.append_column("reasons", pa.array(reasons, _REASONS))
    return table.append_column("parts", pa.array(parts, pa.map_(pa.string(), pa.float64())))


def check_k(k: Any) -> None:
    """Refuse a number of items that cannot be.

    Raises:
        SettingsError: it is no whole number, or below 1.
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise SettingsError([f"k is {k}; it must be a whole number, at least 1"])


def candidates(
    catalogue: Catalogue, within: Any, filters: str | Filter | None, histories: int, skip_unknown: bool
) -> tuple[npt.NDArray[np.int64] | Ragged | None, list[str]]:
    """Entries of the only items that may be recommended, and the unknown ids among those that are named.

    Args:
        catalogue: where they are.
        within: one list of raw ids for all histories, one list for each of them, or None: all items.
        filters: which of these items may be recommended, by their attributes; None = all.
        histories: how many there are.
        skip_unknown: unknown ids are no error.

    Raises:
        SettingsError: `within` is no list, is empty, or holds another number of lists than there are histories.
        UnknownItemError: an id is not in the catalogue.
        FilterError: the filter cannot be read, or does not fit the attributes.
    """
    listed, unknown = _listed(catalogue, within, histories, skip_unknown)
    if filters is None:
        return listed, unknown
    passing = (Filter.parse(filters) if isinstance(filters, str) else filters).rows(catalogue)
    if listed is None:
        return np.flatnonzero(passing), unknown
    if not isinstance(listed, Ragged):
        return listed[passing[listed]], unknown
    kept = passing[listed.values]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[listed.offsets]
    return Ragged(listed.values[kept], offsets), unknown


def _listed(
    catalogue: Catalogue, within: Any, histories: int, skip_unknown: bool
) -> tuple[npt.NDArray[np.int64] | Ragged | None, list[str]]:
    if within is None:
        return None, []
    lists, for_all = as_histories(within, "within", "a list of item ids, or one list for each history")
    if not lists:
        raise SettingsError(["within is empty, so nothing could be recommended; leave it out to allow all items"])
    if for_all:
        rows, unknown = catalogue.rows(lists, skip_unknown)
        return np.unique(rows.values.astype(np.int64)), unknown
    if len(lists) != histories:
        raise SettingsError(
            [f"within holds {len(lists)} lists for {histories} histories; give one list for all, or one for each"]
        )
    return catalogue.rows(lists, skip_unknown)
