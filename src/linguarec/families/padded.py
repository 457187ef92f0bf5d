"""A trained model in the form that is exported: a network for padded histories, and two tables of the items."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from linguarec.nn.padded import PaddedQueries
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import Scorer
from linguarec.sources.inputs import VectorInputs


@dataclass(frozen=True, eq=False)
class PaddedModel:
    """The score of an item after a history is `network(inputs of the history, length) . key of the item`.

    `network`: item inputs [B, L, D], zero behind the end of a history, and lengths [B] int64 -> queries [B, Dk]. `inputs`
    [N, D], `keys` [N, Dk]: of all items. `max_length`: longest history; of a longer one the last items are passed.
    `left_out`: the parts of the model that the score lacks, as facts to show.
    """

    network: nn.Module
    inputs: Tensor
    keys: Tensor
    max_length: int
    left_out: Sequence[Mapping[str, Any]] = ()


# (scorer of a run, what it read of the items, ranker of their keys) -> the same model for export.
# Raises SettingsError where an encoder has no padded form.
MakePadded: TypeAlias = Callable[[Scorer, Any, ExactRanker[Any, Any]], PaddedModel]


def padded_vectors(scorer: Scorer, inputs: Any, ranker: ExactRanker[Any, Any]) -> PaddedModel:
    """Of a family with item vectors, a sequence encoder and a `VectorScorer`.

    Raises:
        SettingsError: the encoder has no padded form.
    """
    return with_tables(PaddedQueries(scorer.network), inputs, ranker, scorer.max_length)


def with_tables(network: nn.Module, inputs: Any, ranker: ExactRanker[Any, Any], max_length: int) -> PaddedModel:
    """A network for padded histories with the item vectors of a `VectorScorer` and the keys of its ranker."""
    vectors = cast(VectorInputs, inputs)
    every = vectors.rows(torch.arange(len(vectors), device=vectors.base.device))
    return PaddedModel(network.eval(), every.float(), cast(DenseRanker, ranker).keys.float(), max_length)
