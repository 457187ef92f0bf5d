"""Training of EASE with text: one stage, which solves a closed form. Its weights cannot be used for another catalogue."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from linguarec.data.training_data import TrainingData
from linguarec.families.closed_form import plan_closed_form
from linguarec.families.ease.method import EASEScorer, check_resources
from linguarec.families.ease_text.model import EASEText, EASETextConfig
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.memory import available_memory
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.scorer import Scorer
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.source import ItemSource


@dataclass(frozen=True)
class EASETextOptions:
    """The item vectors.

    Args:
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


def build(config: EASETextConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, without keys."""
    return EASEText(config, shape)


def open_scorer(network: nn.Module, description: ModelDescription, source: ItemSource, folder: Path | None) -> Scorer:
    """The scorer of a network."""
    return EASEScorer(network)


def plan_finetuning(request: Request) -> Plan:
    """One stage, which solves for the weights between all items of the folder.

    Raises:
        SettingsError: the folder has no vectors, or several and none is named; or the matrices do not fit into the memory
            that is available.
        DataFormatError: there are no training targets, or no valid cases.
    """
    source = EmbeddingSource.choose(request.dataset, {"features": request.options.features})
    needs = check_resources(len(source), available_memory())

    def fit(network: Any, data: TrainingData) -> None:
        network.fit(data.sequences, np.asarray(source.vectors, dtype=np.float32))

    return plan_closed_form(request, source, EASEScorer, fit, needs)


EASE_TEXT = Family(
    name="ease-text",
    summary="items by ID and text vector, item-item weights in closed form",
    config=EASETextConfig,
    build=build,
    source=EmbeddingSource,
    finetuning=Task(EASETextOptions, plan_finetuning),
    encoders={},
    per_item=("keys", "readout"),
    carries=False,
    closed_form=True,
    scorer=open_scorer,
)
