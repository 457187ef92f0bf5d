"""Training of EASE with text: one stage, which solves a closed form. Its weights cannot be used for another catalogue."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linguarec.data.training_data import TrainingData
from linguarec.families.closed_form import TRAINING, VectorOptions, plan_closed_form
from linguarec.families.ease.method import check_memory, open_scorer, recipe_of
from linguarec.families.ease_text.model import EASEText, EASETextConfig
from linguarec.families.family import Family, Plan, Request, Task
from linguarec.memory import available_memory
from linguarec.nn.encoders import EncoderConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.scorer import Scorer
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.sources.source import ItemSource


def build(config: EASETextConfig, encoder: EncoderConfig | None, shape: CatalogueShape) -> nn.Module:
    """The network, without keys."""
    return EASEText(config, shape)


def keys_as_new(
    scorer: Scorer, ranker: ExactRanker[Any, Any], rows: npt.NDArray[np.int64], items: ItemSource
) -> Tensor:
    """Keys [n, N] of the items `rows`, each as it would be if no user had it (see `EASEText.columns_as_new`)."""
    with torch.inference_mode():
        of_text = scorer.encode(items, new=True)[1]
        at = torch.from_numpy(rows).to(of_text.device)
        return EASEText.columns_as_new(of_text, cast(DenseRanker, ranker).keys_of(at), at)


def plan_finetuning(request: Request) -> Plan:
    """One stage, which solves for the weights between all items of the folder.

    Raises:
        SettingsError: the folder has no vectors, or several and none is named; or the matrices do not fit into the memory
            that is available.
        DataFormatError: there are no training targets, or no valid cases.
    """
    source = EmbeddingSource.choose(request.dataset, {"features": request.options.features})
    check_memory(len(source), available_memory())

    def fit(network: Any, data: TrainingData) -> None:
        network.fit(data.sequences, np.asarray(source.vectors, dtype=np.float32))

    return plan_closed_form(request, source, recipe_of(len(source), fit))


EASE_TEXT = Family(
    name="ease-text",
    summary="items by ID and text vector, item-item weights in closed form",
    config=EASETextConfig,
    build=build,
    source=EmbeddingSource,
    finetuning=Task(VectorOptions, plan_finetuning),
    encoders={},
    per_item=("keys", "readout"),
    carries=False,
    closed_form=True,
    training=TRAINING,
    scorer=open_scorer,
    keys_as_new=keys_as_new,
)
