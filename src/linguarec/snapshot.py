"""A state of the items of a run in use. It never changes: who adds or removes items makes a new one."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from linguarec.catalogue import Catalogue
from linguarec.data.ragged import Ragged
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.ranking.adjusted import AdjustedRanker
from linguarec.ranking.approximate import ApproximateRanker
from linguarec.ranking.cosines import Cosines
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation
from linguarec.ranking.ranker import Best, Within
from linguarec.ranking.ranks import full_precision
from linguarec.ranking.repeats import RepeatTerm
from linguarec.ranking.scorer import Scorer
from linguarec.sources.source import ItemSource

REPEATS = "repeats"  # name of the repeat term among the parts of a score


@dataclass(frozen=True)
class Snapshot:
    """An immutable state of the items: the catalogue, the inputs of its entries in histories, and the ranker of their keys.

    `ranker`: exact, or approximate, which has the exact one in it. `source`: encodes new items; holds the part of the items'
    source that a run keeps (`ItemSource.kept_by_run`).
    """

    catalogue: Catalogue
    inputs: Any
    ranker: ExactRanker[Any, Any] | ApproximateRanker
    source: ItemSource

    def __post_init__(self) -> None:
        if not len(self.catalogue) == len(self.inputs) == len(self.ranker):
            raise CheckpointMismatchError(
                f"The catalogue has {len(self.catalogue)} items, there are {len(self.inputs)} inputs and "
                f"{len(self.ranker)} keys."
            )

    def best(
        self,
        scorer: Scorer,
        histories: Ragged,
        k: int,
        within: Within | None = None,
        exclude_seen: bool = True,
        term: RepeatTerm | None = None,
    ) -> Best:
        """The best `k` entries after each of Q histories of entries; at most as many as there are entries.

        Args:
            scorer: makes the queries.
            histories: oldest first; none empty.
            k: at least 1.
            within: the only candidates, as of `Ranker`.
            exclude_seen: the items of a history are no candidates after it; not with a term.
            term: added to the scores of the items of the history; the best are then exact.
        """
        k = max(1, min(k, len(self.catalogue)))
        entries = np.full((len(histories), k), -1, dtype=np.int64)
        scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        with torch.inference_mode(), full_precision(scorer.device):
            for index, queries in scorer.queries(self.inputs, histories):
                of_index = histories.select(index)
                allowed = within.select(index) if isinstance(within, Ragged) else within
                if term is None:
                    best = self.ranker.top_k(queries, k, exclude=of_index if exclude_seen else None, within=allowed)
                else:
                    best = AdjustedRanker(self.exact).top_k((queries, term(of_index)), k, within=allowed)
                entries[index], scores[index] = best.rows, best.scores
        return Best(entries, scores)

    def explain(
        self, scorer: Scorer, histories: Ragged, best: Best, name: str, term: RepeatTerm | None = None
    ) -> Explanation:
        """Why these entries are the best after each history; `parts` always sum to their scores.

        Args:
            scorer, histories, term: that `best` was given.
            best: its result.
            name: of the model, for a model of one part.
        """
        rows = np.maximum(best.rows, 0)
        with torch.inference_mode(), full_precision(scorer.device):
            found = scorer.explain(self.inputs, self.exact, histories, rows)
        parts = dict(found.parts) or {name: found.scores}
        if term is not None:
            parts[REPEATS] = term(histories).at(rows)
        return replace(found, parts=parts)

    @cached_property
    def by_cosine(self) -> Cosines:
        """Ranks the items by the cosine of their keys.

        Raises:
            SettingsError: the items of this model are no vectors.
        """
        return Cosines.of(self.dense)

    def changed(self, **changes: Any) -> "Snapshot":
        """The snapshot with other fields, whose items are these, or these with some added and removed.

        What was computed of the items is carried on for those that stayed, where that is possible.
        """
        made = replace(self, **changes)
        if "by_cosine" in self.__dict__ and (carried := self.by_cosine.after(made.dense)) is not None:
            made.__dict__["by_cosine"] = carried  # where `cached_property` keeps it
        return made

    @property
    def exact(self) -> ExactRanker[Any, Any]:
        """The exact ranker of the same items."""
        return self.ranker.dense if isinstance(self.ranker, ApproximateRanker) else self.ranker

    @property
    def dense(self) -> DenseRanker:
        """The exact ranker, of a model whose items are vectors.

        Raises:
            SettingsError: the items of this model are no vectors.
        """
        exact = self.exact
        if not isinstance(exact, DenseRanker):
            raise SettingsError(["this model knows no vectors of items: it scores them by weights between items"])
        return exact
