"""A trained run in use: model, catalogue and what new items are read by, in one folder that can be moved.

    recommender = linguarec.load_model("runs/scientific")
    recommender.add_items([{"raw_id": "new", "title": "Digital caliper, 150 mm"}])
    recommender.recommend([["B0001", "new"]], k=10)

The text of a new item goes the way the catalogue went: cleaned, then encoded, coded or tokenized, then read by the model.
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.family import ModelDescription
from linguarec.families.opening import open_model
from linguarec.families.weights import save_model
from linguarec.files import writing_file
from linguarec.histories import as_histories, ids_of
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.ranker import Best
from linguarec.ranking.ranks import full_precision
from linguarec.ranking.scorer import KEYS_FILE, Scorer, evaluating, left_out, log_left_out
from linguarec.recommendations import Recommendation, candidates, check_k, recommended, table_of
from linguarec.sources.inputs import mapped_tensor
from linguarec.sources.source import ItemSource
from linguarec.tables import TableLike
from linguarec.text.cleaning import TextRules

CATALOGUE_FILE = "catalogue.parquet"
_KEYS_AT_ONCE = 1 << 16

Vectors = npt.NDArray[np.floating[Any]]
Ids = Sequence[str] | Sequence[int]
Histories = Sequence[Sequence[str]] | Sequence[Sequence[int]]
_HISTORIES = "a history (a list of item ids, oldest first), or a list of histories"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The items at one moment, which never change: the catalogue, what histories read of its entries, and their ranker.

    `source`: by which new items are read, with what a run keeps of the items.
    """

    catalogue: Catalogue
    inputs: Any
    ranker: DenseRanker
    source: ItemSource

    def __post_init__(self) -> None:
        if not len(self.catalogue) == len(self.inputs) == len(self.ranker):
            raise CheckpointMismatchError(
                f"The catalogue has {len(self.catalogue)} items, there are {len(self.inputs)} inputs and "
                f"{len(self.ranker)} keys."
            )

    @cached_property
    def by_cosine(self) -> tuple[DenseRanker, float]:
        """A ranker of keys of one length, and that length: the ranker itself, or one of normalised keys."""
        keys = self.ranker.keys
        lengths = (
            torch.cat([part.norm(dim=-1) for part in keys.split(_KEYS_AT_ONCE)]) if len(keys) else keys.new_ones(1)
        )
        longest, shortest = float(lengths.max()), float(lengths.min())
        if longest - shortest <= 1e-4 * longest:
            return self.ranker, longest
        normalised = DenseRanker(F.normalize(keys.float(), dim=-1))
        return normalised.with_removed(self.ranker.removed), 1.0


class Recommender:
    """Recommends items for histories of raw ids. Made by `of_items` or `load`.

    Adding and removing items makes a new `snapshot`; whoever reads at that time goes on with the old one. Calls may come
    from several threads.
    """

    def __init__(self, scorer: Scorer, description: ModelDescription, snapshot: Snapshot) -> None:
        self.scorer = scorer
        self.description = description
        self.snapshot = snapshot
        self._writing = threading.RLock()
        scorer.network.eval()

    def __repr__(self) -> str:
        return f"Recommender({self.description.name}, {self.catalogue})"

    @property
    def catalogue(self) -> Catalogue:
        """The items as they are now."""
        return self.snapshot.catalogue

    @property
    def model(self) -> nn.Module:
        """The network that reads histories."""
        return self.scorer.network

    @classmethod
    def of_items(
        cls,
        scorer: Scorer,
        description: ModelDescription,
        catalogue: Catalogue,
        source: ItemSource,
        keys: Tensor | None = None,
    ) -> "Recommender":
        """The recommender of a catalogue whose entries are the items of `source`, which the model reads now.

        Args:
            scorer: of the trained network.
            description: of the model.
            catalogue: raw ids, attributes, texts.
            source: what the model reads of them.
            keys: [N, Dk] of the items, where they are not to be made by the scorer.
        """
        inputs, found = _encode(scorer, source)
        ranker = DenseRanker(found if keys is None else keys)
        return cls(scorer, description, Snapshot(catalogue, inputs, ranker, source.kept_by_run()))

    # -- the folder ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write everything that `load` needs into `folder`, each file atomically; other files there are left alone."""
        folder, now = Path(folder), self.snapshot
        save_model(self.model, self.description, folder)
        now.catalogue.save(folder / CATALOGUE_FILE)
        with writing_file(folder / KEYS_FILE) as temporary, temporary.open("wb") as file:
            np.save(file, now.ranker.keys.float().cpu().numpy())
        now.inputs.save(folder, now.catalogue.raw_ids)
        now.source.save(folder)
        self.scorer.save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """Open a run folder, or that of a model without a catalogue (pre-trained or converted), to which items are added.

        Keys and inputs are memory-mapped.

        Raises:
            CheckpointMismatchError: a part is missing, or the parts do not fit together.
        """
        folder = Path(folder)
        network, description = open_model(folder)
        family, shape = description.family, description.shape
        if shape.num_items == 0 and not (folder / CATALOGUE_FILE).exists():
            source = family.source.load(folder, shape)
            scorer = family.scorer(network, description, source, folder)
            rules = cast(TextRules, source.text_rules or "default")
            names = ("raw_id", *source.attributes, "text")
            nothing = pa.table({name: pa.array([], pa.string()) for name in names})
            return cls.of_items(scorer, description, Catalogue.of(nothing, source.attributes, rules), source)
        for name in (CATALOGUE_FILE, KEYS_FILE):
            if not (folder / name).exists():
                raise CheckpointMismatchError(
                    f"{folder} has no {name}: its training is not finished; go on with it by "
                    "`linguarec finetune ... --resume`."
                )
        catalogue = Catalogue.load(folder / CATALOGUE_FILE)
        source = family.source.load(folder, shape, catalogue.raw_ids)
        scorer = family.scorer(network, description, source, folder)
        inputs = scorer.load_inputs(folder, source)
        ranker = DenseRanker(mapped_tensor(folder / KEYS_FILE)).with_removed(np.flatnonzero(catalogue.removed))
        return cls(scorer, description, Snapshot(catalogue, inputs, ranker, source))

    # -- recommending --------------------------------------------------------------------------------------------------

    @overload  # a string is a sequence of strings, so that the type of one history is also that of several
    def recommend(  # type: ignore[overload-overlap]
        self,
        histories: Ids,
        k: int = ...,
        exclude_seen: bool = ...,
        within: Any = ...,
        skip_unknown: bool = ...,
        as_table: Literal[False] = ...,
    ) -> list[Recommendation]: ...
    @overload
    def recommend(
        self,
        histories: Histories,
        k: int = ...,
        exclude_seen: bool = ...,
        within: Any = ...,
        skip_unknown: bool = ...,
        as_table: Literal[False] = ...,
    ) -> list[list[Recommendation]]: ...
    @overload
    def recommend(
        self,
        histories: Iterable[Any],
        k: int = ...,
        exclude_seen: bool = ...,
        within: Any = ...,
        skip_unknown: bool = ...,
        as_table: bool = ...,
    ) -> Any: ...
    def recommend(
        self,
        histories: Iterable[Any],
        k: int = 10,
        exclude_seen: bool = True,
        within: Any = None,
        skip_unknown: bool = False,
        as_table: bool = False,
    ) -> Any:
        """The `k` best items for each history, best first; fewer where fewer are left. Equal scores: catalogue order.

        Ids are text or whole numbers, in lists, NumPy arrays, Series of pandas or polars, or Arrow arrays.

        Args:
            histories: raw ids of one history, oldest first, or a list of histories. The model reads the last `max_length` ids.
            k: how many items for each.
            exclude_seen: items of the history are not recommended.
            within: raw ids of the only items that may be recommended: one list for all histories, or one for each.
            skip_unknown: leave unknown ids out of histories and `within`, and log how many; else they are an error.
            as_table: return an Arrow table.

        Returns:
            The items of the one history, or for a list of histories a list of the items of each. As a table: a row for each
            item, with `history`, its place from 0, `rank` from 1, `raw_id`, `score` and `title`.

        Raises:
            UnknownItemError: an id is not in the catalogue, or a history has no known one left.
            SettingsError: a history is empty or no list of ids, or k is below 1.
        """
        check_k(k)
        now = self.snapshot
        listed, single = as_histories(histories, "histories", _HISTORIES)
        rows, unknown = now.catalogue.rows(listed, skip_unknown)
        allowed, unlisted = candidates(now.catalogue, within, len(rows), skip_unknown)
        unknown = [*unknown, *unlisted]
        if unknown:
            log.warning("left out %d unknown item ids, for instance %r", len(unknown), unknown[0])
        blank = self.scorer.cut_histories(now.inputs, rows).get("without_text", 0)
        if blank:
            log.warning("%d histories have items without any text alone, and get what any such history would", blank)
        found = recommended(now.catalogue, self._best(now, rows, k, exclude_seen, allowed))
        if as_table:
            return table_of(found)
        return found[0] if single else found

    def best_entries(self, histories: Ragged, k: int, exclude_seen: bool = True) -> tuple[Catalogue, Best]:
        """The best `k` entries for each history of entries, and the catalogue that they are of: for many histories at once.

        Args:
            histories: entries of the catalogue as it is now (see `Catalogue.rows`), oldest first; none empty.
            k: how many for each.
            exclude_seen: items of the history are not recommended.
        """
        now = self.snapshot
        return now.catalogue, self._best(now, histories, k, exclude_seen, None)

    def similar_items(self, ids: Iterable[Any], k: int = 10) -> list[list[Recommendation]]:
        """The `k` items whose keys are nearest to those of each item by cosine, best first, without the item itself.

        Raises:
            UnknownItemError: an id is not in the catalogue.
            SettingsError: k is below 1, or `ids` is no list of ids.
        """
        check_k(k)
        now = self.snapshot
        rows, _ = now.catalogue.rows([[raw_id] for raw_id in ids_of(ids, "ids")])
        with torch.inference_mode(), full_precision(self.scorer.device):
            ranker, length = now.by_cosine
            found = now.ranker.keys_of(torch.from_numpy(rows.values.astype(np.int64)))
            best = ranker.top_k(F.normalize(found.float(), dim=-1) / length, k, exclude=rows)
        return recommended(now.catalogue, best)

    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The keys [N, Dk] of all entries of the catalogue, in its order: the score of an item is its product with a query."""
        return self.snapshot.ranker.keys.float().cpu().numpy()

    def history_vectors(self, histories: Iterable[Any], skip_unknown: bool = False) -> npt.NDArray[np.float32]:
        """The query [Q, Dk] of each history, or [Dk] of a single one.

        Raises:
            UnknownItemError, SettingsError: as of `recommend`.
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
        exclude_seen: bool,
        within: npt.NDArray[np.int64] | Ragged | None,
    ) -> Best:
        """The best `k` candidates for each history."""
        entries = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        with torch.inference_mode(), full_precision(self.scorer.device):
            for index, queries in self.scorer.queries(now.inputs, histories):
                seen = histories.select(index) if exclude_seen else None
                allowed = within.select(index) if isinstance(within, Ragged) else within
                best = now.ranker.top_k(queries.float(), k, exclude=seen, within=allowed)
                entries[index], scores[index] = best.rows, best.scores
        return Best(entries, scores)

    # -- the catalogue -------------------------------------------------------------------------------------------------

    def add_items(self, items: TableLike, vectors: Vectors | None = None) -> int:
        """Add items that the model never saw, known by their text: as if they had been there from the start.

        Args:
            items: a table (pandas, polars, Arrow, list of mappings) of `raw_id` and the catalogue's attribute columns (missing
                ones are empty), or `text`, which where there are both is what is read by models of text vectors.
            vectors: [n, F] text vectors of the run's encoder, in the order of `items`; None = encode the texts.

        Returns:
            The number of items added.

        Raises:
            DataFormatError: an id is missing, there twice or in the catalogue already; a column is missing or unknown.
            SettingsError: the model knows items by ID only, or its encoder is not at hand.
        """
        with self._writing:
            now = self.snapshot
            entries = now.catalogue.new_entries(items)
            if not len(entries):
                return 0
            if not self.description.family.ranks_new:
                raise SettingsError(
                    [
                        f"{self.description.name} knows items by ID only and cannot read new ones; train a model that reads "
                        "text"
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
        """Never recommend these items again; they stay readable in histories.

        Raises:
            UnknownItemError: an id is not in the catalogue.
            SettingsError: `raw_ids` is no list of ids.
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

    def encode_new(self, source: ItemSource) -> tuple[Any, Tensor]:
        """What histories read of items that the model was not trained on, and their keys [n, Dk], float32."""
        return _encode(self.scorer, source, new=True)


def _encode(scorer: Scorer, source: ItemSource, new: bool = False) -> tuple[Any, Tensor]:
    with full_precision(scorer.device):
        inputs, keys = scorer.encode(source, new)
    return inputs, keys.float()
