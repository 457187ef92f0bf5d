"""A run in service: its recommender, and how requests are answered from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import orjson

from linguarec.catalogue import Catalogue
from linguarec.data.ragged import Ragged
from linguarec.errors import LinguarecError
from linguarec.ranking.ranker import Best
from linguarec.recommender import Recommender, Seen
from linguarec.serving.problems import Problem
from linguarec.serving.schemas import RecommendRequest

_KEPT_ITEMS = 100_000  # items whose JSON is kept


class ItemJson:
    """Items as the members of JSON objects: `"raw_id":"a","title":"..","attributes":{..}`.

    Entries of a catalogue never change, so each is written once, and kept while there are not too many.
    """

    def __init__(self, most: int = _KEPT_ITEMS) -> None:
        self._most = most
        self._kept: dict[int, bytes] = {}

    def of(self, catalogue: Catalogue, entries: Sequence[int]) -> list[bytes]:
        """The members of each entry."""
        kept = self._kept
        lacking = list({entry for entry in entries if entry not in kept})
        if lacking:
            if len(kept) + len(lacking) > self._most:
                kept = self._kept = {entry: kept[entry] for entry in entries if entry in kept}
            kept.update(zip(lacking, self._written(catalogue, np.array(lacking, dtype=np.int64)), strict=True))
        return [kept[entry] for entry in entries]

    def _written(self, catalogue: Catalogue, entries: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> list[bytes]:
        names = catalogue.attributes
        columns = [catalogue.values(name, entries) for name in names]
        rows = zip(*columns, strict=True) if names else iter([()] * len(entries))
        return [
            orjson.dumps(
                {
                    "raw_id": raw_id,
                    "title": title,
                    "attributes": {name: value for name, value in zip(names, row, strict=True) if value is not None},
                }
            )[1:-1]
            for raw_id, title, row in zip(
                catalogue.values("raw_id", entries), catalogue.titles(entries), rows, strict=True
            )
        ]


@dataclass(frozen=True)
class Served:
    """A run as it is served. A reload makes a new one; the recommender exchanges its snapshots itself."""

    recommender: Recommender
    folder: Path
    items: ItemJson = field(default_factory=ItemJson)

    @property
    def run(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name


class Live:
    """What is served now. Calls come from worker threads.

    Args:
        served: the run.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.sequence = 0

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a run.

        Raises:
            LinguarecError: it cannot be opened.
        """
        return cls(Served(Recommender.load(folder), folder))

    def recommend(self, asked: Sequence[RecommendRequest]) -> list[bytes | Exception]:
        """The answer of each request as JSON, or the problem that stands for it.

        Requests that are ranked alike are ranked together.
        """
        served = self.served
        version = orjson.dumps({"run": served.run, "sequence": self.sequence})
        answers: list[bytes | Exception | None] = [None] * len(asked)
        groups: dict[Seen, list[int]] = {}
        for number, request in enumerate(asked):
            groups.setdefault(request.exclude_seen, []).append(number)
        for exclude_seen, numbers in groups.items():
            try:
                found = _ranked(served, [asked[number] for number in numbers], exclude_seen)
            except LinguarecError as error:
                for number in numbers:
                    answers[number] = error
                continue
            for number, (lists, unknown) in zip(numbers, found, strict=True):
                answers[number] = _answer(lists, unknown, version)
        return [answer for answer in answers if answer is not None]


def _ranked(
    served: Served, asked: Sequence[RecommendRequest], exclude_seen: Seen
) -> list[tuple[list[bytes], list[list[str]]]]:
    """For each request the recommendations of each of its histories as a JSON list, and the unknown ids of each."""
    histories = [history for request in asked for history in request.histories or ()]
    rows, unknown = known_entries(served.recommender.catalogue, histories)
    ranked = np.flatnonzero(rows.lengths)
    lists = [b"[]"] * len(histories)
    if len(ranked):
        k = max(request.k for request in asked)
        catalogue, best = served.recommender.best_entries(rows.select(ranked), k, exclude_seen)
        ks = [request.k for request in asked for _ in request.histories or ()]
        written = _written(served.items, catalogue, best, [ks[place] for place in ranked.tolist()])
        for place, text in zip(ranked.tolist(), written, strict=True):
            lists[place] = text
    found, start = [], 0
    for request in asked:
        stop = start + request.asked
        found.append((lists[start:stop], unknown[start:stop]))
        start = stop
    return found


def known_entries(catalogue: Catalogue, histories: Sequence[Sequence[str]]) -> tuple[Ragged, list[list[str]]]:
    """The entries of the known ids of each history, and the ids of each that are unknown."""
    flat = [raw_id for history in histories for raw_id in history]
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    entries = catalogue.find(flat)
    known = entries >= 0
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    unknown: list[list[str]] = [[] for _ in histories]
    if not known.all():
        of_history = np.repeat(np.arange(len(histories)), lengths)
        for place in np.flatnonzero(~known).tolist():
            unknown[of_history[place]].append(flat[place])
    kept = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])[offsets]
    return Ragged(entries[known].astype(np.int32), kept), unknown


def _written(items: ItemJson, catalogue: Catalogue, best: Best, ks: Sequence[int]) -> list[bytes]:
    """The best entries of each history as a JSON list of its `k` first."""
    lists = []
    for entries, scores, k in zip(best.rows.tolist(), best.scores.tolist(), ks, strict=True):
        count = entries.index(-1) if entries[-1] == -1 else len(entries)
        count = min(count, k)
        members = items.of(catalogue, entries[:count])
        parts = [
            b'{"rank":%d,"score":%b,%b}' % (rank, repr(score).encode(), member)
            for rank, (score, member) in enumerate(zip(scores, members, strict=False), start=1)
        ]
        lists.append(b"[%b]" % b",".join(parts))
    return lists


def _answer(lists: Sequence[bytes], unknown: Sequence[Sequence[str]], version: bytes) -> bytes:
    return b'{"recommendations":[%b],"unknown":%b,"model":%b}' % (b",".join(lists), orjson.dumps(unknown), version)


def check_size(request: RecommendRequest, most: int, longest: int, k: int) -> None:
    """Refuse a request that exceeds the limits of the service.

    Raises:
        Problem: 422, naming the field.
    """
    field = "histories" if request.histories is not None else "users"
    if request.asked > most:
        raise Problem(
            422, "too-many", f"{field} has {request.asked:,}, at most {most:,} are taken.", field, "Send several calls."
        )
    if request.k > k:
        raise Problem(422, "too-many", f"k is {request.k:,}, at most {k:,} are given.", "k", "Ask for fewer.")
    for number, history in enumerate(request.histories or ()):
        if len(history) > longest:
            raise Problem(
                422,
                "too-many",
                f"histories[{number}] has {len(history):,} ids, at most {longest:,} are taken.",
                f"histories[{number}]",
                "Send the last ones: the model reads no more than the last ones anyway.",
            )
    if request.within is not None and len(request.within) > longest:
        raise Problem(
            422,
            "too-many",
            f"within has {len(request.within):,} ids, at most {longest:,} are taken.",
            "within",
            "Use filters for large sets of candidates.",
        )
