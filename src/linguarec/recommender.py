"""A trained run in use: the model, its catalogue and the source that encodes new items, in one relocatable folder.

    recommender = linguarec.load_model("runs/scientific")
    recommender.add_items([{"raw_id": "new", "title": "Digital caliper, 150 mm"}])
    recommender.recommend([["B0001", "new"]], k=10)

A new item is processed like the items of the catalogue: its text is cleaned, then encoded, coded or tokenized, then read by
the model.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.catalogue import Catalogue
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError, LinguarecError, SettingsError
from linguarec.families.family import ModelDescription
from linguarec.families.opening import open_model
from linguarec.families.weights import save_model, seal_model
from linguarec.files import updating_folder
from linguarec.filters import Filter
from linguarec.histories import as_histories, ids_of
from linguarec.ranking.ranker import Best
from linguarec.ranking.ranks import full_precision
from linguarec.ranking.repeats import RepeatTerm
from linguarec.ranking.scorer import Scorer, evaluating, left_out, log_left_out
from linguarec.recommendations import Recommendation, candidates, check_k, explained, recommended, table_of
from linguarec.snapshot import Snapshot
from linguarec.sources.source import ItemSource
from linguarec.stored import AGAIN
from linguarec.tables import TableLike
from linguarec.text.cleaning import TextRules

CATALOGUE_FILE = "catalogue.parquet"

Seen = bool | Literal["learned"]
Vectors = npt.NDArray[np.floating[Any]]
Ids = Sequence[str] | Sequence[int]
Histories = Sequence[Sequence[str]] | Sequence[Sequence[int]]
_HISTORIES = "a history (a list of item ids, oldest first), or a list of histories"
log = logging.getLogger(__name__)


class Recommender:
    """Recommends items for histories of raw ids. Create it with `of_items` or `load`.

    Thread-safe: adding or removing items replaces `snapshot`, and calls in progress finish with the old snapshot.
    """

    def __init__(
        self,
        scorer: Scorer,
        description: ModelDescription,
        snapshot: Snapshot,
        repeats: RepeatTerm | None = None,
    ) -> None:
        self.scorer = scorer
        self.description = description
        self.snapshot = snapshot
        self.repeats = repeats
        self._writing = threading.RLock()
        scorer.network.eval()

    def __repr__(self) -> str:
        return f"Recommender({self.description.name}, {self.catalogue})"

    @property
    def catalogue(self) -> Catalogue:
        """The current catalogue."""
        return self.snapshot.catalogue

    @property
    def model(self) -> nn.Module:
        """The network that encodes histories."""
        return self.scorer.network

    @classmethod
    def of_items(
        cls,
        scorer: Scorer,
        description: ModelDescription,
        catalogue: Catalogue,
        source: ItemSource,
        keys: Any = None,
    ) -> "Recommender":
        """Create a recommender: encode the items of `source`, which are the entries of the catalogue.

        Args:
            scorer: scorer of the trained network.
            description: description of the model.
            catalogue: raw ids, attributes and texts of the items.
            source: the items in the form that the model reads, in catalogue order.
            keys: keys of the items, such as [N, Dk]; None = the scorer computes them.
        """
        inputs, found = _encode(scorer, source)
        ranker = scorer.ranker(found if keys is None else keys)
        return cls(scorer, description, Snapshot(catalogue, inputs, ranker, source.kept_by_run()))

    # -- the folder ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write all files that `load` needs into `folder`, all at once: it is exchanged as a whole. Other files in it stay.

        Raises:
            OutputError: another process writes the folder, it is not writable, or the disk is full.
        """
        now = self.snapshot
        with updating_folder(Path(folder)) as whole:
            save_model(self.model, self.description, whole)
            now.catalogue.save(whole / CATALOGUE_FILE)
            self.scorer.save_keys(now.exact, whole)
            now.inputs.save(whole, now.catalogue.raw_ids)
            now.source.save(whole)
            self.scorer.save(whole)
            if self.repeats is not None:
                self.repeats.save(whole)
            seal_model(whole)

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """Open a run folder, or the folder of a model without items (pre-trained or converted), which gets an empty catalogue.

        Keys and inputs are memory-mapped.

        Raises:
            CheckpointMismatchError: a file is missing, or the files do not belong together.
        """
        folder = Path(folder)
        try:
            found = cls._open(folder)
            found._try_out()
        except LinguarecError as error:
            if str(folder) in str(error):
                raise
            raise CheckpointMismatchError(f"{folder} cannot be used: {error} {AGAIN}") from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # torch and numpy: sizes that do not fit
            raise CheckpointMismatchError(
                f"{folder} cannot be used: its files do not fit together ({error}). {AGAIN}"
            ) from error
        return found

    def _try_out(self) -> None:
        """Recommend one item after one, so that files that do not fit together are found when a run is opened.

        Raises:
            CheckpointMismatchError: the scores are not finite.
        """
        if len(self.catalogue):
            history = Ragged(np.zeros(1, np.int64), np.array([0, 1], np.int64))
            best = self._best(self.snapshot, history, 1, False, None)
            if best.rows[0, 0] >= 0 and not np.isfinite(best.scores[0, 0]):
                raise CheckpointMismatchError("its weights and vectors give scores that are not finite.")

    @classmethod
    def _open(cls, folder: Path) -> "Recommender":
        network, description = open_model(folder)
        family, shape = description.family, description.shape
        if shape.num_items == 0 and not (folder / CATALOGUE_FILE).exists():
            source = family.source.load(folder, shape)
            scorer = family.scorer(network, description, source, folder)
            rules = cast(TextRules, source.text_rules or "default")
            names = ("raw_id", *source.attributes, "text")
            nothing = pa.table({name: pa.array([], pa.string()) for name in names})
            return cls.of_items(scorer, description, Catalogue.of(nothing, source.attributes, rules), source)
        if not (folder / CATALOGUE_FILE).exists():
            raise CheckpointMismatchError(
                f"{folder} has no {CATALOGUE_FILE}: its training is not finished; resume it with "
                "`linguarec finetune ... --resume`."
            )
        catalogue = Catalogue.load(folder / CATALOGUE_FILE)
        source = family.source.load(folder, shape, catalogue.raw_ids)
        scorer = family.scorer(network, description, source, folder)
        inputs = scorer.load_inputs(folder, source)
        ranker = scorer.load_ranker(folder).with_removed(np.flatnonzero(catalogue.removed))
        return cls(scorer, description, Snapshot(catalogue, inputs, ranker, source), RepeatTerm.load(folder))

    # -- recommending --------------------------------------------------------------------------------------------------

    @overload  # a string is a sequence of strings, so that the type of one history is also that of several
    def recommend(  # type: ignore[overload-overlap]
        self,
        histories: Ids,
        k: int = ...,
        exclude_seen: Seen = ...,
        within: Any = ...,
        filters: str | Filter | None = ...,
        skip_unknown: bool = ...,
        as_table: Literal[False] = ...,
        explain: bool = ...,
    ) -> list[Recommendation]: ...
    @overload
    def recommend(
        self,
        histories: Histories,
        k: int = ...,
        exclude_seen: Seen = ...,
        within: Any = ...,
        filters: str | Filter | None = ...,
        skip_unknown: bool = ...,
        as_table: Literal[False] = ...,
        explain: bool = ...,
    ) -> list[list[Recommendation]]: ...
    @overload
    def recommend(
        self,
        histories: Iterable[Any],
        k: int = ...,
        exclude_seen: Seen = ...,
        within: Any = ...,
        filters: str | Filter | None = ...,
        skip_unknown: bool = ...,
        as_table: bool = ...,
        explain: bool = ...,
    ) -> Any: ...
    def recommend(
        self,
        histories: Iterable[Any],
        k: int = 10,
        exclude_seen: Seen = True,
        within: Any = None,
        filters: str | Filter | None = None,
        skip_unknown: bool = False,
        as_table: bool = False,
        explain: bool = False,
    ) -> Any:
        """The top `k` items for each history, best first; fewer if there are fewer candidates. Ties are in catalogue order.

        Ids are strings or integers, in lists, NumPy arrays, pandas or polars Series, or Arrow arrays.

        Args:
            histories: raw ids of one history, oldest first, or a list of histories. The model reads the last `max_length` ids.
            k: number of items for each history.
            exclude_seen: True = items of the history are not recommended; False = they are candidates like the others;
                "learned" = they are, and the run's repeat term is added to their scores.
            within: raw ids of the candidate items: one list for all histories, or a list for each history. None = all items.
            filters: only items with these attributes, such as 'brand == "Acme" and price <= 20' (`linguarec.filters`).
            skip_unknown: ignore unknown ids in histories and `within`, and log their number; False = raise an error.
            as_table: return an Arrow table.
            explain: also give the reasons: the share of each item of the history in the score, and the parts of the score.

        Returns:
            For one history a list of recommendations, for a list of histories a list of such lists. As a table: a row for each
            recommendation, with `history` (index from 0), `rank` (from 1), `raw_id`, `score`, `title`, and if
            asked `reasons` and `parts`.

        Raises:
            UnknownItemError: an id is not in the catalogue, or a history has no known id.
            FilterError: the filter cannot be read, or does not fit the attributes.
            SettingsError: a history is empty or is not a list of ids, k is less than 1, or exclude_seen is "learned" and the
                run has no repeat term.
        """
        check_k(k)
        now = self.snapshot
        listed, single = as_histories(histories, "histories", _HISTORIES)
        rows, unknown = now.catalogue.rows(listed, skip_unknown)
        allowed, unlisted = candidates(now.catalogue, within, filters, len(rows), skip_unknown)
        unknown = [*unknown, *unlisted]
        if unknown:
            log.warning("left out %d unknown item ids, for instance %r", len(unknown), unknown[0])
        blank = self.scorer.cut_histories(now.inputs, rows).get("without_text", 0)
        if blank:
            log.warning("%d histories consist only of items without text and are all encoded alike", blank)
        best = self._best(now, rows, k, exclude_seen, allowed)
        if as_table and not explain:
            return table_of(now.catalogue, best)
        found = recommended(now.catalogue, best)
        if explain:
            why = now.explain(self.scorer, rows, best, self.description.name, self._term(exclude_seen))
            found = explained(now.catalogue, best, why, found)
        if as_table:
            return table_of(now.catalogue, best, found)
        return found[0] if single else found

    def best_entries(
        self, histories: Ragged, k: int, exclude_seen: Seen = True, filters: str | Filter | None = None
    ) -> tuple[Catalogue, Best]:
        """The top `k` entries for each history of entries, and the catalogue they belong to. For large batches of histories.

        Args:
            histories: entries of the current catalogue (see `Catalogue.rows`), oldest first; none is empty.
            k: number of entries for each history.
            exclude_seen: as in `recommend`.
            filters: as in `recommend`.

        Raises:
            SettingsError: "learned", and the run has no repeat term.
            FilterError: as in `recommend`.
        """
        now = self.snapshot
        allowed, _ = candidates(now.catalogue, None, filters, len(histories), False)
        return now.catalogue, self._best(now, histories, k, exclude_seen, allowed)

    def similar_items(
        self, ids: Iterable[Any], k: int = 10, within: Any = None, filters: str | Filter | None = None
    ) -> list[list[Recommendation]]:
        """The `k` nearest items of each item by cosine similarity of their keys, best first, without the item itself.

        `within`, `filters`: as in `recommend`.

        Raises:
            UnknownItemError: an id is not in the catalogue.
            FilterError: the filter cannot be read, or does not fit the attributes.
            SettingsError: k is less than 1, or `ids` is not a list of ids.
        """
        check_k(k)
        now = self.snapshot
        rows, _ = now.catalogue.rows([[raw_id] for raw_id in ids_of(ids, "ids")])
        allowed, _ = candidates(now.catalogue, within, filters, len(rows), False)
        with torch.inference_mode(), full_precision(self.scorer.device):
            ranker, length = now.by_cosine
            found = now.dense.keys_of(torch.from_numpy(rows.values.astype(np.int64)))
            best = ranker.top_k(F.normalize(found.float(), dim=-1) / length, k, rows, allowed)
        return recommended(now.catalogue, best)

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The keys [N, Dk] of all catalogue entries, in catalogue order. A score is the dot product of a key and a query."""
        return self.snapshot.dense.keys.float().cpu().numpy()

    def history_vectors(self, histories: Iterable[Any], skip_unknown: bool = False) -> npt.NDArray[np.float32]:
        """The queries [Q, Dk] of a list of histories, or the query [Dk] of one history.

        Raises:
            UnknownItemError, SettingsError: as in `recommend`.
        """
        now = self.snapshot
        listed, single = as_histories(histories, "histories", _HISTORIES)
        rows, _ = now.catalogue.rows(listed, skip_unknown)
        found: npt.NDArray[np.float32] | None = None
        with evaluating(self.model), torch.inference_mode(), full_precision(self.scorer.device):
            for index, queries in self.scorer.queries(now.inputs, rows):
                values = queries.float().cpu().numpy()
                if found is None:
                    found = np.empty((len(rows), values.shape[1]), dtype=np.float32)
                found[index] = values
        if found is None:
            return np.zeros((0, 0), np.float32)
        return found[0] if single else found

    def _best(
        self,
        now: Snapshot,
        histories: Ragged,
        k: int,
        exclude_seen: Seen,
        within: npt.NDArray[np.int64] | Ragged | None,
    ) -> Best:
        """The top `k` candidates for each history."""
        term = self._term(exclude_seen)
        return now.best(self.scorer, histories, k, within, exclude_seen is True, term)

    def _term(self, exclude_seen: Seen) -> RepeatTerm | None:
        """The repeat term, if it is asked for."""
        if isinstance(exclude_seen, bool):
            return None
        if exclude_seen != "learned":
            raise SettingsError([f"exclude_seen is {exclude_seen!r}; expected True, False or 'learned'"])
        if self.repeats is None:
            raise SettingsError(
                [
                    "exclude_seen is 'learned', but the run has no repeat term; fit one with "
                    "`linguarec evaluate RUN --fit-repeats`"
                ]
            )
        return self.repeats

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def add_items(self, items: TableLike, vectors: Vectors | None = None) -> int:
        """Add items that the model was not trained on; they are encoded from their text.

        Args:
            items: a table (pandas, polars, Arrow, list of mappings) with `raw_id` and the catalogue's attribute columns
                (missing ones are empty) or `text`. With both, models that read text vectors use `text`.
            vectors: [n, F] text embeddings by the run's encoder, in the order of `items`; None = encode the texts.

        Returns:
            The number of items added.

        Raises:
            DataFormatError: an id is missing, duplicated or already in the catalogue; a column is missing or unknown.
            SettingsError: the model ranks items by ID only, or its text encoder is not available.
        """
        with self._writing:
            now = self.snapshot
            entries = now.catalogue.new_entries(items)
            if not len(entries):
                return 0
            if not self.description.family.ranks_new:
                raise SettingsError(
                    [
                        f"{self.description.family.bound_to_ids} and cannot rank new ones; train a model that ranks by text"
                    ]
                )
            added = now.source.new(entries, vectors)
            inputs, keys = self.encode_new(added)
            log_left_out(left_out(self.scorer, inputs, {}))
            self.snapshot = Snapshot(
                now.catalogue.with_added(entries),
                now.inputs.joined(inputs),
                now.ranker.with_added(keys),
                now.source.joined(added),
            )
            return len(entries)

    def remove_items(self, raw_ids: Iterable[Any]) -> None:
        """Remove items from the candidates; they may still occur in histories.

        Raises:
            UnknownItemError: an id is not in the catalogue.
            SettingsError: `raw_ids` is not a list of ids.
        """
        ids = ids_of(raw_ids, "raw_ids")
        if not ids:
            return
        with self._writing:
            now = self.snapshot
            rows, _ = now.catalogue.rows([ids])
            self.snapshot = Snapshot(
                now.catalogue.with_removed(ids), now.inputs, now.ranker.with_removed(rows.values), now.source
            )

    def encode_new(self, source: ItemSource) -> tuple[Any, Any]:
        """History inputs and keys, such as [n, Dk] float32, of items that the model was not trained on."""
        inputs, keys = _encode(self.scorer, source, new=True)
        if isinstance(keys, Tensor) and not keys.isfinite().all():
            raise CheckpointMismatchError(
                f"{source.folder}: the weights there give new items vectors that are not finite. {AGAIN}"
            )
        return inputs, keys


def _encode(scorer: Scorer, source: ItemSource, new: bool = False) -> tuple[Any, Any]:
    with full_precision(scorer.device):
        inputs, keys = scorer.encode(source, new)
    return inputs, keys.float() if isinstance(keys, Tensor) else keys
