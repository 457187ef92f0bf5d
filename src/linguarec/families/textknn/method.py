"""Use of text-kNN: one stage, which computes the mean of the catalogue's text vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from linguarec.data.training_data import TrainingData
from linguarec.families.closed_form import plan_closed_form
from linguarec.families.family import Family, Plan, Request, Task
from linguarec.families.textknn.model import TextKNN, TextKNNConfig
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import VectorScorer
from linguarec.sources.embeddings import EmbeddingSource


@dataclass(frozen=True)
class TextKNNOptions:
    """The item vectors.

    Args:
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


def build(config: TextKNNConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, with a mean of zero."""
    return TextKNN(config, shape)


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

    return plan_closed_form(request, source, VectorScorer, fit, "Nothing is trained")


TEXT_KNN = Family(
    name="textknn",
    summary="items by text vector, the nearest to the history, nothing trained",
    config=TextKNNConfig,
    build=build,
    source=EmbeddingSource,
    finetuning=Task(TextKNNOptions, plan_finetuning),
    encoders={},
    carries=False,
    closed_form=True,
)
