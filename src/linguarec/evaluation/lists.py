"""Measures of lists of recommendations beyond their accuracy: coverage, novelty, diversity, popularity bias.

    coverage    fraction of the catalogue that is in a list at least once           (Ge et al., RecSys 2010)
    novelty     mean over a list of -log2 p(item)                                   (Zhou et al., PNAS 107(10), 2010)
    diversity   1 - mean cosine of the pairs of a list, by text vectors             (Ziegler et al., WWW 2005)
    popularity  mean over a list of the item's popularity percentile                (after Abdollahpouri et al., RMSE 2019)
    gini        Gini coefficient of how often each item is in a list                (Fleder and Hosanagar, Manag. Sci., 2009)

p(item) = (n + 1) / (sum of n + N): n of its occurrences in training, smoothed by one occurrence of each of the N items, so
that an item that was never seen has a finite value. The percentile of an item is the fraction of the catalogue that occurs
less often in training, items that occur equally often counted half: a random item has 0.5. Coverage and gini are of all lists
together, the others are means over lists, then over users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import EvaluationCases
from linguarec.errors import DataFormatError, StaleFeaturesError
from linguarec.evaluation.evaluate import EvaluationResult, Protocols
from linguarec.evaluation.metrics import FloatArray, per_user
from linguarec.evaluation.report import Table

LENGTH = 10  # of the lists
IntArray = npt.NDArray[np.int64]
Measures = dict[str, dict[str, dict[str, float]]]  # protocol -> system -> measure -> value
_NUMBERS_AT_ONCE = 1 << 24  # of gathered vectors: 64 MB


@dataclass(frozen=True, eq=False)
class ListedItems:
    """What lists are judged by.

    `counts` [N]: occurrences of each item in training. `vectors` [N, D]: text vectors named `name`; where there are none,
    `lacking` says why, and diversity is not measured.
    """

    counts: IntArray
    vectors: npt.NDArray[Any] | None = None
    name: str | None = None
    lacking: str | None = None

    @classmethod
    def of(cls, dataset: PreparedDataset, counts: IntArray) -> "ListedItems":
        """The items of a folder, with the first of its text vectors by name."""
        names = dataset.feature_names
        if not names:
            return cls(counts, lacking=f"{dataset.name} has no text vectors (`linguarec encode` makes them)")
        try:
            return cls(counts, dataset.features(names[0]), names[0])
        except (StaleFeaturesError, DataFormatError) as error:
            return cls(counts, lacking=f"the text vectors {names[0]} cannot be used: {error}")

    @property
    def information(self) -> FloatArray:
        """-log2 p of each item, [N] bits."""
        found: FloatArray = -np.log2((self.counts + 1) / (self.counts.sum() + len(self.counts)))
        return found

    @property
    def percentile(self) -> FloatArray:
        """Popularity percentile of each item, [N], between 0 and 1."""
        ordered = np.sort(self.counts)
        fewer = np.searchsorted(ordered, self.counts, side="left")
        not_more = np.searchsorted(ordered, self.counts, side="right")
        found: FloatArray = (fewer + not_more) / 2 / max(1, len(ordered))
        return found

    def measures(self, result: EvaluationResult) -> dict[str, float]:
        """The measures of the lists of a result, by name and length; without any list, none."""
        rows = result.best
        if rows is None or not (rows >= 0).any():
            return {}
        k, listed = rows.shape[1], rows >= 0
        users = result.users
        exposure = np.bincount(rows[listed], minlength=len(self.counts))
        found = {
            f"coverage@{k}": float(np.count_nonzero(exposure) / len(exposure)),
            f"novelty@{k}": _mean(_mean_of_lists(self.information, rows), users),
        }
        if self.vectors is not None:
            diversity = list_diversity(rows, self.vectors)
            if not np.isnan(diversity).all():
                found[f"diversity@{k}"] = _mean(diversity, users)
        found[f"popularity@{k}"] = _mean(_mean_of_lists(self.percentile, rows), users)
        found[f"gini@{k}"] = gini(exposure)
        return found


def gini(values: npt.NDArray[Any]) -> float:
    """Gini coefficient of values >= 0: 0 = all are equal, 1 - 1/n = one of them has everything."""
    ordered, n = np.sort(values).astype(np.float64), len(values)
    total = ordered.sum()
    if total == 0:
        return 0.0
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * total))


def list_diversity(rows: npt.NDArray[np.integer[Any]], vectors: npt.NDArray[Any]) -> FloatArray:
    """1 - mean cosine of the pairs of each list, [Q]; NaN for a list with fewer than two items that have a vector.

    Items without a text have a vector of zeros, which is similar to nothing: they are in no pair.

    Args:
        rows: [Q, k] item rows, -1 = none.
        vectors: [N, D].
    """
    found = np.full(len(rows), np.nan)
    lists_at_once = max(1, _NUMBERS_AT_ONCE // max(1, rows.shape[1] * vectors.shape[1]))
    for start in range(0, len(rows), lists_at_once):
        part = rows[start : start + lists_at_once]
        items, place = np.unique(np.maximum(part, 0), return_inverse=True)
        units = np.asarray(vectors[items], dtype=np.float32)
        lengths = np.linalg.norm(units, axis=1)
        units /= np.where(lengths > 0, lengths, 1)[:, None]
        place = place.reshape(part.shape)
        known = (part >= 0) & (lengths[place] > 0)
        total = np.zeros((len(part), units.shape[1]), dtype=np.float32)
        for column in range(part.shape[1]):
            total += units[place[:, column]] * known[:, column, None]
        count = known.sum(axis=1)
        # |sum of unit vectors|^2 = their number + twice the sum of the cosines of the pairs
        cosines = np.square(total).sum(axis=1, dtype=np.float64) - count
        pairs = count * (count - 1)
        enough = pairs > 0
        found[start : start + len(part)][enough] = 1 - cosines[enough] / pairs[enough]
    return found


def popular_lists(cases: EvaluationCases, counts: IntArray, k: int = LENGTH) -> dict[str, npt.NDArray[np.int32]]:
    """The most popular items as a list for each case, [Q, k], with (kept) and without (excluded) the items of the history.

    Items that are equally popular stand in catalogue order.
    """
    order = np.lexsort((np.arange(len(counts)), -counts)).astype(np.int32)
    kept = np.full((len(cases), k), -1, dtype=np.int32)
    kept[:, : len(order)] = order[:k]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    excluded = np.full((len(cases), k), -1, dtype=np.int32)
    for start in range(0, len(cases), 1_024):
        histories = cases.histories.select(np.arange(start, min(start + 1_024, len(cases))))
        width = min(len(order), k + int(histories.lengths.max(initial=0)))
        free = np.ones((len(histories), width), dtype=bool)
        places, owner = place[histories.values], np.repeat(np.arange(len(histories)), histories.lengths)
        near = places < width
        free[owner[near], places[near]] = False
        number = np.cumsum(free, axis=1) - 1  # of each free place among those of its case
        query, column = np.nonzero(free & (number < k))
        excluded[start + query, number[query, column]] = order[column]
    return {"kept": kept, "excluded": excluded}


def measured(results: Mapping[str, Protocols], items: ListedItems) -> Measures:
    """Of the results that have lists."""
    found: Measures = {}
    for system, by_protocol in results.items():
        for protocol, result in by_protocol.items():
            if values := items.measures(result):
                found.setdefault(protocol, {})[system] = values
    return found


@dataclass(frozen=True)
class Lists:
    """The measures of several systems with several seeds each.

    `seeds`: protocol -> system -> measure -> the value of each seed. `vectors`: name of those that diversity is by, or None,
    and then `lacking` says why it is not measured.
    """

    seeds: dict[str, dict[str, dict[str, list[float]]]]
    vectors: str | None
    lacking: str | None

    @classmethod
    def of(cls, found: Sequence[Measures], items: ListedItems) -> "Lists":
        """Of the measures of each seed of each system."""
        seeds: dict[str, dict[str, dict[str, list[float]]]] = {}
        for each in found:
            for protocol, systems in each.items():
                for system, values in systems.items():
                    of_system = seeds.setdefault(protocol, {}).setdefault(system, {})
                    for name, value in values.items():
                        of_system.setdefault(name, []).append(value)
        return cls(seeds, items.name, items.lacking)

    @property
    def medians(self) -> Measures:
        """The median over the seeds."""
        return {
            protocol: {
                system: {name: float(np.median(seeds)) for name, seeds in values.items()}
                for system, values in of.items()
            }
            for protocol, of in self.seeds.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: `lists`, and `list_vectors` or `no_diversity`."""
        medians = self.medians
        lists = {
            protocol: {
                system: {
                    name: {"median": medians[protocol][system][name], "seeds": seeds} for name, seeds in values.items()
                }
                for system, values in of.items()
            }
            for protocol, of in self.seeds.items()
        }
        return {"lists": lists, **diversity_by(self.vectors, self.lacking)}


def diversity_by(vectors: str | None, lacking: str | None) -> dict[str, str]:
    """JSON-able form: `list_vectors`, the name of those that diversity is by, or `no_diversity`, why it is not measured."""
    found = {"list_vectors": vectors, "no_diversity": lacking}
    return {name: value for name, value in found.items() if value is not None}


def measures_table(found: Mapping[str, Mapping[str, Mapping[str, float]]], systems: Sequence[str]) -> Table:
    """One row per measure and protocol, one column per system."""
    names = list(dict.fromkeys(name for of in found.values() for values in of.values() for name in values))
    rows = [
        [f"{name}, {protocol}", *(_cell(of.get(system, {}).get(name)) for system in systems)]
        for name in names
        for protocol, of in found.items()
    ]
    return Table(["of the lists", *systems], rows)


def systems_measures_table(found: Measures) -> Table:
    """One row per system and protocol, one column per measure."""
    names = list(dict.fromkeys(name for of in found.values() for values in of.values() for name in values))
    systems = list(dict.fromkeys(system for of in found.values() for system in of))
    rows = [
        [f"{system}, {protocol}", *(_cell(of[system].get(name)) for name in names)]
        for system in systems
        for protocol, of in found.items()
        if system in of
    ]
    return Table(["of the lists", *names], rows)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _mean_of_lists(values: FloatArray, rows: npt.NDArray[np.int32]) -> FloatArray:
    """Mean of the items' values over each list, [Q]; NaN for an empty one."""
    listed = rows >= 0
    total = np.where(listed, values[np.maximum(rows, 0)], 0.0).sum(axis=1)
    count = listed.sum(axis=1)
    found: FloatArray = np.divide(total, count, out=np.full(len(rows), np.nan), where=count > 0)
    return found


def _mean(values: FloatArray, users: IntArray) -> float:
    """Mean over the users, of their lists that have a value."""
    known = ~np.isnan(values)
    return float(per_user(values[known], users[known])[1].mean())
