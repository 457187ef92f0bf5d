"""Use of text-kNN: one stage, which computes the mean of the catalogue's text vectors."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.data.ragged import Ragged
from linguarec.data.training_data import TrainingData
from linguarec.families.climbing import Climb
from linguarec.families.closed_form import DECAY, TRAINING, Recipe, VectorOptions, plan_closed_form
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.textknn.model import TextKNN, TextKNNConfig
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.explaining import Explanation, by_summing
from linguarec.ranking.scorer import Scorer, VectorScorer
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.inputs import VectorInputs
from linguarec.sources.source import ItemSource


class TextKNNScorer(VectorScorer):
    """Scores by sums of cosines, which explain themselves."""

    def explain(
        self, inputs: VectorInputs, ranker: ExactRanker[Any, Any], histories: Ragged, rows: npt.NDArray[np.int64]
    ) -> Explanation:
        """See `Scorer`: exact, every occurrence of an item counts."""
        decay = cast(TextKNN, self.network).config.decay
        return by_summing(
            self, inputs, ranker, histories, rows, lambda steps: float((decay ** steps.astype(float)).sum())
        )


def build(config: TextKNNConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, with a mean of zero."""
    return TextKNN(config, shape)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a network."""
    return TextKNNScorer(network)


def keys_as_new(scorer: Scorer, ranker: ExactRanker[Any, Any], rows: npt.NDArray[np.int64], items: ItemSource) -> Any:
    """The keys of the items: no training sequence is in them."""
    return scorer.encode(items, new=True)[1]


def plan_finetuning(request: Request) -> Plan:
    """One stage, over the vectors of the catalogue.

    Raises:
        SettingsError: the folder has no vectors, or several and none is named.
        DataFormatError: there are no valid cases.
    """
    source = EmbeddingSource.choose(request.dataset, {"features": request.options.features})

    def fit(network: Any, data: TrainingData) -> None:
        total = torch.zeros(len(network.mean), dtype=torch.float64)
        for chunk in source.chunks():
            assert chunk.features is not None
            total += chunk.features.double().sum(dim=0)
        network.mean.copy_((total / max(1, len(source))).float())

    recipe = Recipe(fit, TextKNNScorer, [Climb(DECAY, 0.1)], lambda: "Nothing is trained")
    return plan_closed_form(request, source, recipe)


TEXT_KNN = Family(
    name="textknn",
    summary="items by text vector, the nearest to the history, nothing trained",
    config=TextKNNConfig,
    build=build,
    source=EmbeddingSource,
    finetuning=Task(VectorOptions, plan_finetuning),
    encoders={},
    carries=False,
    closed_form=True,
    training=TRAINING,
    scorer=open_scorer,
    keys_as_new=keys_as_new,
)
