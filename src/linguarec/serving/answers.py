"""Answers of the service as JSON: what is recommended, and items as they are shown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.catalogue import Catalogue
from linguarec.data.ragged import Ragged
from linguarec.errors import DataFormatError, FilterError, LinguarecError
from linguarec.ranking.explaining import Explanation
from linguarec.ranking.ranker import Best
from linguarec.ranking.ranks import full_precision
from linguarec.recommendations import candidates, explained, recommended
from linguarec.recommender import Recommender
from linguarec.runs.results import METRICS_FILE
from linguarec.serving.indexing import rank_approximately
from linguarec.serving.lookup import described
from linguarec.serving.problems import Problem, unknown_item
from linguarec.serving.schemas import RecommendRequest, SimilarRequest
from linguarec.serving.upserts import check_ranks_new, new_rows
from linguarec.snapshot import Snapshot

Entries = npt.NDArray[np.int64]
_KEPT_ITEMS = 100_000  # items whose JSON is kept
_NOBODY = "a text"  # stands for the id of a text that is no item


class Answer(NamedTuple):
    """JSON, and for how many histories something was ranked."""

    content: bytes
    ranked: int


class ItemJson:
    """Items as members of JSON objects: `"raw_id":"a","title":"..","attributes":{..},"trained":true`.

    Entries of a catalogue never change, so each is written once, and kept as long as they are not too many.
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
            found = described(catalogue, np.array(lacking, dtype=np.int64))
            kept.update((entry, orjson.dumps(item)[1:-1]) for entry, item in zip(lacking, found, strict=True))
        return [kept[entry] for entry in entries]


@dataclass(frozen=True)
class Served:
    """A run as it is served. A reload makes a new one; the recommender exchanges its snapshots itself.

    `own`: entries of the catalogue as the run has it, without live changes. `approximate`: whether an index is searched.
    """

    recommender: Recommender
    folder: Path
    own: int
    approximate: bool = False
    items: ItemJson = field(default_factory=ItemJson)

    @classmethod
    def open(cls, folder: Path, approximate: bool = False) -> Self:
        """Open a run; `approximate`: search an index of its items instead of scoring all of them.

        Raises:
            LinguarecError: it cannot be opened, has no items, or cannot be ranked approximately.
        """
        recommender = Recommender.load(folder)
        if not len(recommender.catalogue):
            raise DataFormatError(f"{folder} has no items to recommend. Serve the run of a fine-tuning.")
        if approximate:
            rank_approximately(recommender, folder)
        return cls(recommender, folder, len(recommender.catalogue), approximate)

    @property
    def run(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of the run by part: valid, test, ...; empty if it has none."""
        try:
            found = json.loads((self.folder / METRICS_FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        parts = {name: part for name, part in found.items() if isinstance(part, dict)}
        return {
            name: {key: float(value) for key, value in part.items() if isinstance(value, float)}
            for name, part in parts.items()
            if any(isinstance(value, float) for value in part.values())
        }

    @property
    def present(self) -> int:
        """How many items can be recommended."""
        catalogue = self.recommender.catalogue
        return len(catalogue) - int(catalogue.removed.sum())


# -- after histories ---------------------------------------------------------------------------------------------------


def answer_requests(
    served: Served,
    sequence: int,
    asked: Sequence[RecommendRequest],
    stored: Mapping[str, Sequence[str]] | LinguarecError,
) -> list[Answer | Exception]:
    """The answer of each request, or the exception that stands for it. Those that are ranked alike are ranked together.

    Args:
        served: the run.
        sequence: of the last change that it knows of.
        asked: the requests.
        stored: histories of the users, or why they cannot be read.
    """
    now = served.recommender.snapshot
    version = written_version(served, sequence)
    answers: list[Answer | Exception] = [Exception()] * len(asked)
    for _, group in groupby(
        sorted(range(len(asked)), key=lambda number: _alike(asked[number])), lambda n: _alike(asked[n])
    ):
        numbers = list(group)
        if isinstance(stored, LinguarecError):
            for number in numbers:
                if asked[number].users is not None:
                    answers[number] = stored
            numbers = [number for number in numbers if asked[number].users is None]
        if not numbers:
            continue
        histories = [_histories(asked[number], stored) for number in numbers]
        try:
            found = _ranked(served, now, [asked[number] for number in numbers], histories)
        except (LinguarecError, Problem) as error:
            for number in numbers:
                answers[number] = error
        else:
            for number, (lists, unknown, ranked) in zip(numbers, found, strict=True):
                answers[number] = Answer(written(lists, unknown, version), ranked)
    return answers


def _alike(request: RecommendRequest) -> tuple[str, str, str, bool]:
    """Requests with the same are ranked together."""
    return str(request.exclude_seen), request.filters or "", repr(request.within or ""), request.explain


def _histories(
    request: RecommendRequest, stored: Mapping[str, Sequence[str]] | LinguarecError
) -> Sequence[Sequence[str]]:
    if request.users is None or isinstance(stored, LinguarecError):
        return request.histories or ()
    return [stored[user] for user in request.users]


def _ranked(
    served: Served,
    now: Snapshot,
    asked: Sequence[RecommendRequest],
    histories: Sequence[Sequence[Sequence[str]]],
) -> list[tuple[list[bytes], list[list[str]], int]]:
    """For each request the recommendations of each of its histories as a JSON list, the unknown ids of each, and how many
    of them have known ones."""
    flat = [history for of_request in histories for history in of_request]
    rows, unknown = known_entries(now.catalogue, flat)
    ranked = np.flatnonzero(rows.lengths)
    lists = [b"[]"] * len(flat)
    first = asked[0]
    term = served.recommender.repeats if first.exclude_seen == "learned" else None
    if first.exclude_seen == "learned" and term is None:
        raise Problem(
            422,
            "no-repeat-term",
            "exclude_seen is 'learned', but the run has no repeat term.",
            "exclude_seen",
            "Fit one with `linguarec evaluate RUN --fit-repeats`, or give true or false.",
        )
    within = allowed(now.catalogue, first.within, first.filters)
    if len(ranked):
        k = max(request.k for request in asked)
        known = rows if len(ranked) == len(rows) else rows.select(ranked)
        best = now.best(served.recommender.scorer, known, k, within, first.exclude_seen is True, term)
        ks = [request.k for request, of_request in zip(asked, histories, strict=True) for _ in of_request]
        reasons = None
        if first.explain:
            name = served.recommender.description.name
            reasons = _written_reasons(now, best, now.explain(served.recommender.scorer, known, best, name, term))
        shown = _written_lists(served.items, now.catalogue, best, [ks[place] for place in ranked.tolist()], reasons)
        for place, text in zip(ranked.tolist(), shown, strict=True):
            lists[place] = text
    found, start = [], 0
    for of_request in histories:
        part = slice(start, start + len(of_request))
        found.append((lists[part], unknown[part], int(np.count_nonzero(rows.lengths[part]))))
        start = part.stop
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
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(known)])[offsets]
    return Ragged(entries[known].astype(np.int32), offsets), unknown


def allowed(catalogue: Catalogue, within: Sequence[str] | None, filters: str | None) -> Any:
    """The only candidates; None = all.

    Raises:
        Problem: 404, none of `within` is in the catalogue; 422, the filter cannot be read.
    """
    if within is None and filters is None:
        return None
    try:
        found, _ = candidates(catalogue, within, filters, 1, True)
        return found
    except FilterError as error:
        raise Problem(
            422,
            "bad-filter",
            str(error),
            "filters",
            'Write it as in: brand == "Acme" and price <= 20; GET /v1/model lists the attributes.',
            more={"position": error.position},
        ) from None
    except LinguarecError:
        raise Problem(
            404,
            "unknown-item",
            f"None of the {len(within or ())} ids is in the catalogue.",
            "within",
            "Correct the ids.",
        ) from None


# -- like items --------------------------------------------------------------------------------------------------------


def similar_to(served: Served, sequence: int, request: SimilarRequest) -> Answer:
    """The nearest items of items or of a text.

    Raises:
        Problem: 404, none of the items is known; 422, the text cannot be read.
        LinguarecError: the model has no vectors of items, or cannot read texts.
    """
    now = served.recommender.snapshot
    within = allowed(now.catalogue, request.within, request.filters)
    unknown: list[str] = []
    if request.items is None:
        keys = _key_of_text(served.recommender, now, request)
        lists = _nearest(served, now, keys, request.k, None, within)
    else:
        entries = now.catalogue.find(request.items)
        unknown = [raw_id for raw_id, entry in zip(request.items, entries.tolist(), strict=True) if entry < 0]
        known = entries[entries >= 0]
        if not len(known):
            raise unknown_item(unknown[0], "items[0]")
        rows = Ragged(known.astype(np.int32), np.arange(len(known) + 1, dtype=np.int64))
        keys = now.dense.keys_of(torch.from_numpy(known))
        found = iter(_nearest(served, now, keys, request.k, rows, within))
        lists = [next(found) if entry >= 0 else b"[]" for entry in entries.tolist()]
    return Answer(written(lists, unknown, written_version(served, sequence)), len(lists))


def _key_of_text(recommender: Recommender, now: Snapshot, request: SimilarRequest) -> Tensor:
    check_ranks_new(recommender)
    columns = {"text": request.text} if isinstance(request.text, str) else dict(request.text or {})
    rows, refused = new_rows(now.catalogue, [{**columns, "raw_id": _NOBODY}])
    if refused:
        raise Problem(422, "bad-text", refused[0], "text", "Give text, or attributes that this catalogue knows.")
    _, keys = recommender.encode_new(now.source.new(rows))
    if not isinstance(keys, Tensor):
        now.dense  # noqa: B018 - says that this model has no vectors
    return keys  # type: ignore[no-any-return]


def _nearest(served: Served, now: Snapshot, keys: Tensor, k: int, exclude: Ragged | None, within: Any) -> list[bytes]:
    """The nearest items of keys [Q, D] by cosine, as JSON lists."""
    with torch.inference_mode(), full_precision(served.recommender.scorer.device):
        cosines = now.by_cosine
        k = min(k, len(now.catalogue))
        best = cosines.ranker.top_k(F.normalize(keys.float(), dim=-1) / cosines.length, k, exclude, within)
    return _written_lists(served.items, now.catalogue, best, [k] * len(best))


# -- JSON --------------------------------------------------------------------------------------------------------------


def _written_lists(
    items: ItemJson,
    catalogue: Catalogue,
    best: Best,
    ks: Sequence[int],
    reasons: Sequence[Sequence[bytes]] | None = None,
) -> list[bytes]:
    """The best entries of each history as a JSON list of its `k` first; `reasons`: further members of each."""
    lists = []
    for number, (entries, scores, k) in enumerate(zip(best.rows.tolist(), best.scores.tolist(), ks, strict=True)):
        count = entries.index(-1) if entries and entries[-1] == -1 else len(entries)
        members = items.of(catalogue, entries[: min(count, k)])
        if reasons is not None:
            members = [b"%b,%b" % both for both in zip(members, reasons[number], strict=False)]
        parts = [
            b'{"rank":%d,"score":%b,%b}' % (rank, repr(score).encode(), member)
            for rank, (score, member) in enumerate(zip(scores, members, strict=False), start=1)
        ]
        lists.append(b"[%b]" % b",".join(parts))
    return lists


def _written_reasons(now: Snapshot, best: Best, why: Explanation) -> list[list[bytes]]:
    """The members `reasons` and `parts` of each of the best entries."""
    found = explained(now.catalogue, best, why, recommended(now.catalogue, best))
    return [
        [orjson.dumps({"reasons": one.reasons, "parts": one.parts})[1:-1] for one in of_history] for of_history in found
    ]


def written(lists: Sequence[bytes], unknown: Sequence[Any], version: bytes) -> bytes:
    """The whole answer."""
    return b'{"recommendations":[%b],"unknown":%b,"model":%b}' % (b",".join(lists), orjson.dumps(unknown), version)


def written_version(served: Served, sequence: int) -> bytes:
    """What answers."""
    return orjson.dumps({"run": served.run, "sequence": sequence})
