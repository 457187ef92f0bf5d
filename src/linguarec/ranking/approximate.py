"""The best k of many items by an index of short codes, with exact scores: below the time that reading all keys takes.

The index (faiss: random rotation, inverted lists, 4 bits for each two numbers of the residual) only names candidates. They are
scored as `DenseRanker` scores them, so that an item which is found has its exact score and place; what is lost is an item
that is no candidate. Ranks are always exact.
"""

import hashlib
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError
from linguarec.files import writing_file
from linguarec.ranking.dense import DenseRanker, Keys
from linguarec.ranking.ordering import ordered
from linguarec.ranking.ranker import Best, IntArray, Within
from linguarec.ranking.ranks import TargetRanks, full_precision
from linguarec.records import record_of
from linguarec.regular import check_regular
from linguarec.stored import NOT_AN_ARRAY

CANDIDATES, PROBES = 400, 64  # recall@10 0.995 on 1,000,000 vectors of width 300: bench/README.md
AGAIN = "Build the index again from the keys."

_TRAINING_ROWS, _ROWS_AT_ONCE, _SAMPLED_ROWS = 100_000, 50_000, 1_024


@dataclass(frozen=True)
class _About:
    """What a file says of an index: its settings, and a fingerprint of the keys."""

    items: int
    candidates: int
    probes: int
    keys: str


class ApproximateRanker:
    """A `Ranker` of item vectors whose `top_k` looks at some candidates only. Made by `build` or `load`.

    Items that were added since the index was built are all scored. Where removed items, `exclude` or `within` leave fewer
    than k of the candidates, that query is answered exactly.

    Args:
        index: over the first `indexed` items of `dense`.
        dense: ranks all items exactly.
        indexed: number of items in the index.
        candidates: looked at for each query, at least.
        added: the items behind them.
    """

    def __init__(
        self,
        index: Any,
        dense: DenseRanker,
        indexed: int,
        candidates: int = CANDIDATES,
        added: DenseRanker | None = None,
    ) -> None:
        self.dense, self.indexed, self.candidates = dense, indexed, candidates
        self._index = index
        self._added = DenseRanker(torch.empty(0, dense.width, device=dense.device)) if added is None else added

    @classmethod
    def build(cls, dense: DenseRanker, candidates: int = CANDIDATES, probes: int = PROBES) -> "ApproximateRanker":
        """Build the index of all items of `dense`: about a minute for a million.

        Args:
            dense: of N items; there must be some.
            candidates: looked at for each query, at least.
            probes: inverted lists that are searched, of about the square root of N.

        Raises:
            ValueError: there are no items.
        """
        import faiss

        if not len(dense):
            raise ValueError("an index of no items cannot be built")
        even = dense.width + dense.width % 2
        lists = max(1, min(1 << round(math.log2(math.sqrt(len(dense)))), len(dense) // 64))
        index = faiss.index_factory(dense.width, f"RR{even},IVF{lists},PQ{even // 2}x4fsr", faiss.METRIC_INNER_PRODUCT)
        inverted: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
        for clustering in (inverted.cp, inverted.pq.cp):
            clustering.min_points_per_centroid = 1  # a small catalogue is no error
        inverted.nprobe = min(probes, lists)
        index.train(_keys(dense, np.unique(np.linspace(0, len(dense) - 1, _TRAINING_ROWS).astype(np.int64))))
        for start in range(0, len(dense), _ROWS_AT_ONCE):
            index.add(_keys(dense, np.arange(start, min(start + _ROWS_AT_ONCE, len(dense)))))
        return cls(index, dense, len(dense), candidates)

    def __len__(self) -> int:
        return len(self.dense)

    def __repr__(self) -> str:
        return f"ApproximateRanker({len(self):,} items, {self.indexed:,} of them in the index)"

    @property
    def removed(self) -> npt.NDArray[np.int64]:
        """See `Ranker`."""
        return self.dense.removed

    # -- the file ------------------------------------------------------------------------------------------------------

    def save(self, file: Path) -> None:
        """Write the index atomically, without the keys and without the items that were added since."""
        import faiss

        about = {
            "items": self.indexed,
            "candidates": self.candidates,
            "probes": faiss.extract_index_ivf(self._index).nprobe,
            "keys": _fingerprint(self.dense, self.indexed),
        }
        with writing_file(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, index=faiss.serialize_index(self._index), about=np.array(json.dumps(about)))

    @classmethod
    def load(cls, file: Path, dense: DenseRanker) -> "ApproximateRanker":
        """Read an index of the first items of `dense`; those behind them count as added.

        Raises:
            CheckpointMismatchError: the file is missing or damaged, or belongs to other keys.
        """
        import faiss

        check_regular(file, CheckpointMismatchError)
        if not file.is_file():
            raise CheckpointMismatchError(f"{file} is missing. {AGAIN}")
        try:
            with np.load(file) as stored:
                about = record_of(_About, json.loads(str(stored["about"])))
                content = stored["index"]
            items, candidates, probes, keys = about.items, about.candidates, about.probes, about.keys
            if content.dtype != np.uint8 or content.ndim != 1 or min(items, candidates, probes) < 0:
                raise ValueError("its index is no bytes, or a number is negative")
        except (*NOT_AN_ARRAY, zlib.error) as reason:
            raise CheckpointMismatchError(f"{file} is cut short, or no index of items ({reason}). {AGAIN}") from reason
        if items > len(dense) or keys != _fingerprint(dense, items):
            raise CheckpointMismatchError(
                f"{file} is the index of {items:,} items with other keys than the {len(dense):,} that are here. {AGAIN}"
            )
        try:
            index = faiss.deserialize_index(content)
            faiss.extract_index_ivf(index).nprobe = probes
        except (RuntimeError, OverflowError) as reason:  # faiss's own error is a RuntimeError
            raise CheckpointMismatchError(f"{file} holds no index of faiss ({reason}). {AGAIN}") from reason
        later = torch.arange(items, len(dense), device=dense.device)
        added = DenseRanker(dense.keys_of(later)).with_removed(dense.removed[dense.removed >= items] - items)
        return cls(index, dense, items, candidates, added)

    # -- ranking -------------------------------------------------------------------------------------------------------

    def ranks(
        self, queries: Tensor, targets: IntArray, exclude: Ragged | None = None, within: Within | None = None
    ) -> TargetRanks:
        """See `Ranker`; exact."""
        return self.dense.ranks(queries, targets, exclude, within)

    def top_k(self, queries: Tensor, k: int, exclude: Ragged | None = None, within: Within | None = None) -> Best:
        """See `Ranker`; scores are exact, and an item among the best k may be missing."""
        few = len(self) // 8
        listed = isinstance(within, Ragged) and within.lengths.max(initial=0) < few
        if k < 1 or k > few or listed or (isinstance(within, np.ndarray) and len(within) < few):
            return self.dense.top_k(queries, k, exclude, within)
        total = self.dense.count(queries)
        for lists in (exclude, within):
            if isinstance(lists, Ragged) and len(lists) != total:
                return self.dense.top_k(queries, k, exclude, within)  # which refuses it
        with full_precision(self.dense.device):
            self.dense.error(queries)  # refuses what is not finite
            wide = np.ascontiguousarray(queries.float().cpu().numpy())
            _, rows = self._index.search(wide, min(self.indexed, max(self.candidates, 4 * k)))
            allowed = self._allowed(rows, exclude, within)
            places = torch.from_numpy(np.where(allowed, rows, 0)).to(self.dense.device)
            scores = self.dense.scores_of(queries, places).float().cpu().numpy()
        scores = np.where(allowed, scores, np.float32(-np.inf))
        if len(self._added):
            later = self._added.top_k(queries, k, *(_behind(lists, self.indexed) for lists in (exclude, within)))
            rows = np.concatenate([rows, np.where(later.rows < 0, -1, later.rows + self.indexed)], axis=1)
            scores = np.concatenate([scores, later.scores], axis=1)
        best = ordered(rows, scores, k)
        short = np.flatnonzero(allowed.sum(axis=1) < k)
        if len(short):
            again = self.dense.top_k(
                queries[torch.from_numpy(short).to(queries.device)],
                k,
                None if exclude is None else exclude.select(short),
                within.select(short) if isinstance(within, Ragged) else within,
            )
            best.rows[short], best.scores[short] = again.rows, again.scores
        return best

    def recall(self, queries: Tensor, k: int) -> float:
        """The fraction of the exact best k of each query that `top_k` finds; to be measured on queries of real histories."""
        found, exact = self.top_k(queries, k).rows, self.dense.top_k(queries, k).rows
        hits = sum(len(np.intersect1d(mine[mine >= 0], best)) for mine, best in zip(found, exact, strict=True))
        return hits / max(1, int((exact >= 0).sum()))

    def with_added(self, keys: Keys) -> "ApproximateRanker":
        """See `Ranker`. All added items are scored at each call: build the index again before they are many."""
        dense, added = self.dense.with_added(keys), self._added.with_added(keys)
        return ApproximateRanker(self._index, dense, self.indexed, self.candidates, added)

    def with_removed(self, rows: IntArray) -> "ApproximateRanker":
        """See `Ranker`."""
        dense = self.dense.with_removed(rows)
        later = np.asarray(rows, dtype=np.int64)
        added = self._added.with_removed(later[later >= self.indexed] - self.indexed)
        return ApproximateRanker(self._index, dense, self.indexed, self.candidates, added)

    def _allowed(
        self, rows: npt.NDArray[np.int64], exclude: Ragged | None, within: Within | None
    ) -> npt.NDArray[np.bool_]:
        """Which of the candidates `rows` [Q, C] may be recommended; -1 = none was found."""
        allowed: npt.NDArray[np.bool_] = rows >= 0
        if len(self.removed):
            allowed &= ~np.isin(rows, self.removed)
        if isinstance(within, np.ndarray):
            inside = np.zeros(len(self), dtype=bool)
            inside[self.dense.checked(within)] = True
            allowed &= inside[rows]
        for number in range(len(rows)):
            if exclude is not None:
                allowed[number] &= ~np.isin(rows[number], exclude[number])
            if isinstance(within, Ragged):
                allowed[number] &= np.isin(rows[number], within[number])
        return allowed


def _behind(lists: Within | None, first: int) -> Any:
    """The listed rows from `first` on, counted from there."""
    if lists is None:
        return None
    if isinstance(lists, np.ndarray):
        return lists[lists >= first] - first
    kept = lists.values >= first
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[lists.offsets]
    return Ragged(lists.values[kept] - first, offsets)


def _keys(dense: DenseRanker, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = dense.keys_of(torch.from_numpy(rows).to(dense.device)).cpu().numpy()
    return found


def _fingerprint(dense: DenseRanker, count: int) -> str:
    """SHA-256 of the number of the first `count` keys, their width, and a thousand of them."""
    rows = np.unique(np.linspace(0, max(0, count - 1), min(count, _SAMPLED_ROWS)).astype(np.int64))
    digest = hashlib.sha256(json.dumps([count, dense.width]).encode())
    digest.update(np.ascontiguousarray(_keys(dense, rows)).tobytes())
    return digest.hexdigest()
