"""A run and its live state in service: answers, changes of the catalogue, interactions, reloads.

A change is written to the state first. Every process then follows the state, its own changes included, by their numbers: so all
processes that share a state come to the same catalogue, and so does one that is started again.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError
from linguarec.serving.answers import Answer, Served, answer_requests, similar_to
from linguarec.serving.changes import Changed, Removal, Upsert, outcome, plan_changes
from linguarec.serving.problems import Problem
from linguarec.serving.schemas import RecommendRequest, SimilarRequest
from linguarec.serving.state import Store
from linguarec.serving.upserts import Applied, apply_changes, fingerprint_of, new_rows

_CHANGES_AT_ONCE = 1_000
_SPARE_ROWS = 10_000  # so many rows of replaced items may be kept before the run is opened anew, without them
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reloaded:
    """What a reload served, and what became of the live changes of the state in it."""

    run: str
    items: int
    same_catalogue: bool
    applied: Applied
    seconds: float


class Live:
    """A run, its live state, and what is served of both. Calls come from worker threads.

    Args:
        served: the run; nobody else changes its recommender.
        store: the state.
    """

    def __init__(self, served: Served, store: Store) -> None:
        self.served = served
        self.store = store
        self.sequence = 0  # of the last change that `served` knows of
        self.left_out: dict[str, str] = {}  # items of the state that cannot be in the catalogue, and why
        self.followed = time.monotonic()  # when the state was last read
        self._writing = threading.Lock()
        self._reloading = threading.Lock()

    @classmethod
    def open(cls, folder: Path, state: str, users: Path | None = None, approximate: bool = False) -> Self:
        """Open a run and its state, and put the live changes into the run.

        Args:
            folder: of the run.
            state: URL of the state.
            users: prepared folder; the histories of its users become those of the service's, once.
            approximate: search an index of the items instead of scoring all of them.

        Raises:
            LinguarecError: the run, the state or the folder cannot be opened.
        """
        served = Served.open(folder, approximate)
        fingerprint = fingerprint_of(folder)
        store = Store.open(state, fingerprint)
        try:
            live = cls(served, store)
            if users is not None:
                log.info("%s: histories of %d users were imported", users, store.import_histories(_histories(users)))
            applied = Applied()
            live.sequence = _catch_up(served, store, 0, applied)
            live._note(applied, served, fingerprint)
        except BaseException:
            store.close()
            raise
        return live

    def close(self) -> None:
        """Close the state."""
        self.store.close()

    def warm(self) -> None:
        """Load what the first new item would wait for: the encoder of texts."""
        source = self.served.recommender.snapshot.source
        if self.served.recommender.description.family.ranks_new and source.encoder_id is not None:
            rows, _ = new_rows(self.served.recommender.catalogue, [{"raw_id": "a", "text": "a"}])
            source.new_vectors(rows)

    # -- answers -------------------------------------------------------------------------------------------------------

    def recommend(self, asked: Sequence[RecommendRequest], history_length: int) -> list[Answer | Exception]:
        """The answer of each request, or the exception that stands for it.

        Args:
            asked: the requests of a batch.
            history_length: how many of the last items of a user's stored history are read.
        """
        sequence, served = self.sequence, self.served
        users = list(dict.fromkeys(user for request in asked for user in request.users or ()))
        stored: Mapping[str, Sequence[str]] | LinguarecError = {}
        if users:
            try:
                stored = self.store.histories(users, history_length)
            except LinguarecError as error:  # the others are answered without the state
                stored = error
        return answer_requests(served, sequence, asked, stored)

    def similar(self, asked: Sequence[SimilarRequest]) -> list[Answer | Exception]:
        """The answer of each request, or the exception that stands for it."""
        sequence, served = self.sequence, self.served
        answers: list[Answer | Exception] = []
        for request in asked:
            try:
                answers.append(similar_to(served, sequence, request))
            except (LinguarecError, Problem) as error:
                answers.append(error)
        return answers

    # -- changes -------------------------------------------------------------------------------------------------------

    def change(self, asked: Sequence[Upsert | Removal]) -> list[Changed | Exception]:
        """Change the catalogue as several requests ask, in one transaction; texts are encoded together.

        Of several changes of one item the last one counts. What is returned is in the state, and in the next answer.
        """
        with self._writing:
            try:
                plan = plan_changes(self.served.recommender, self.served.own, asked)
                sequence = self.store.change_items(plan.changes).sequence if plan.changes else self.sequence
            except LinguarecError as error:
                return [error] * len(asked)
            if plan.changes:
                try:
                    self._follow()
                except LinguarecError as error:  # it is in the state, and will be seen when that can be read again
                    log.warning("the state cannot be read: %s", error)
        self._renew()
        return [
            plan.problems[number] if number in plan.problems else outcome(one, plan.refused[number], sequence)
            for number, one in enumerate(asked)
        ]

    def follow(self) -> None:
        """Take in what others have changed.

        Raises:
            LinguarecError: the state cannot be read.
        """
        with self._writing:
            self._follow()

    def _follow(self) -> None:
        applied = Applied()
        self.sequence = _catch_up(self.served, self.store, self.sequence, applied)
        self.followed = time.monotonic()
        self._keep(applied)

    def _keep(self, applied: Applied) -> None:
        """Keep account of what is left out."""
        for raw_id, reason in applied.left_out.items():
            log.warning("left out: item %r of the state: %s", raw_id, reason)
        for raw_id in (*applied.added, *applied.removed, *applied.unchanged):
            self.left_out.pop(raw_id, None)
        self.left_out |= applied.left_out

    # -- reloading -----------------------------------------------------------------------------------------------------

    def reload(self, folder: Path | None = None) -> Reloaded:
        """Serve another run, or the same one opened anew, with the live changes of the state.

        The run is opened beside the one that is served, which goes on serving if anything fails.

        Raises:
            Problem: 409, a reload is running.
            LinguarecError: the run cannot be opened, or the state not read.
        """
        if not self._reloading.acquire(blocking=False):
            raise Problem(
                409, "reloading", "A reload is running.", mend="Wait until it is done: GET /v1/model says so."
            )
        try:
            started = time.perf_counter()
            before = self.store.run
            fresh = Served.open(self.served.folder if folder is None else folder, self.served.approximate)
            fingerprint = fingerprint_of(fresh.folder)
            applied = Applied()
            sequence = _catch_up(fresh, self.store, 0, applied)
            with self._writing:
                sequence = _catch_up(fresh, self.store, sequence, applied)
                self.left_out = {}
                self.served, self.sequence = fresh, sequence
                self._note(applied, fresh, fingerprint)
            return Reloaded(
                fresh.run,
                fresh.present,
                before == fingerprint,
                applied,
                time.perf_counter() - started,
            )
        finally:
            self._reloading.release()

    def _renew(self) -> None:
        """Open the run anew if most of the rows that were added to its catalogue are of items that were replaced."""
        catalogue = self.served.recommender.catalogue
        spare, added = int(catalogue.removed[self.served.own :].sum()), len(catalogue) - self.served.own
        if spare > _SPARE_ROWS and 2 * spare > added:
            try:
                self.reload()
            except (LinguarecError, Problem) as error:
                log.warning("the catalogue keeps %d rows of replaced items: %s", spare, error)

    def _note(self, applied: Applied, served: Served, fingerprint: str) -> None:
        """Say what became of the live changes in a run that was opened, and note whose changes they are now."""
        same = self.store.run == fingerprint
        self._keep(applied)
        counts = [
            f"{len(ids):,} {what}"
            for what, ids in (
                ("items added or replaced", applied.added),
                ("removed", applied.removed),
                ("already as they are", applied.unchanged),
                ("left out", applied.left_out),
            )
            if ids
        ]
        if counts or not same:
            which = "" if same else "its catalogue is another one than that of the state; "
            log.info("run %s: %slive changes: %s", served.run, which, ", ".join(counts) or "none")
        if not same:
            self.store.set_run(fingerprint)


def _catch_up(served: Served, store: Store, sequence: int, applied: Applied) -> int:
    """Put the changes after `sequence` into a run; return the number of the last one."""
    while changes := store.changes_after(sequence, _CHANGES_AT_ONCE):
        applied.join(apply_changes(served.recommender, changes))
        sequence = changes[-1].sequence
    return sequence


def _histories(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """User and items of each history of a prepared folder."""
    dataset = PreparedDataset.open(folder)
    raw_ids = list(dataset.raw_item_ids)
    for row, user in enumerate(dataset.raw_user_ids):
        history = [raw_ids[item] for item in dataset.sequences[row].tolist()]
        if history:
            yield user, history
