"""The first stage of S3-Rec's fine-tuning: four self-supervised tasks on the same shop.

`run/self-supervision/` gets `metrics.csv`, checkpoints until the stage is done, then `weights.safetensors` of the model and
`metrics.json`. The stage is not validated, because its tasks read a sequence another way than the model in use; its last
weights are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from linguarec.batching.self_supervised import PrefixLoader, SelfSupervisedLoader
from linguarec.checks import above_zero, at_least, probabilities
from linguarec.data.ragged import Ragged
from linguarec.errors import SettingsError
from linguarec.families.family import Request
from linguarec.families.next_item import FirstStage, NextItemData
from linguarec.families.s3rec.model import S3Rec, S3RecLearner, TaskWeights
from linguarec.families.weights import load_weights, save_weights
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.training.stages import Fit, PlannedStage, StageResult

FOLDER, WEIGHTS = "self-supervision", "weights.safetensors"


@dataclass(frozen=True)
class SelfSupervisionSettings:
    """The first stage of S3-Rec's fine-tuning.

    Args:
        epochs: of this stage; each reads every user's sequence once, up to a random end.
        learning_rate: of Adam in this stage.
        targets_per_step: hidden places of a step; the segments of its other users are the negatives of a segment.
        mask_share: fraction of the places that are hidden, beside the last one.
        item: weight of finding a hidden item.
        masked_attribute: weight of finding the text of a hidden item.
        attribute: weight of finding the text of a shown item; the paper has 0.2 for a sum of losses, here they are means.
        segment: weight of finding the segment that belongs to the rest of a sequence.
    """

    epochs: int = 100
    learning_rate: float = 1e-3
    targets_per_step: int = 512
    mask_share: float = 0.2
    item: float = 1.0
    masked_attribute: float = 1.0
    attribute: float = 1.0
    segment: float = 0.5

    def check(self) -> None:
        """Raise one error that names every invalid setting."""
        weights = ("item", "masked_attribute", "attribute", "segment")
        problems = at_least(self, epochs=1, targets_per_step=1, **dict.fromkeys(weights, 0))
        problems += above_zero(self, "learning_rate") + probabilities(self, "mask_share")
        if not any(getattr(self, name) for name in weights):
            problems.append(f"{', '.join(weights)} are all 0; at least one must be above 0")
        if problems:
            raise SettingsError([f"self_supervision.{problem}" for problem in problems])


def self_supervision_stage(request: Request, vectors: EmbeddingSource, settings: SelfSupervisionSettings) -> FirstStage:
    """The stage that trains the network by the four tasks.

    Args:
        request: of the whole fine-tuning; its training settings apply, except those that `settings` overrides.
        vectors: text vectors of the catalogue.
        settings: of this stage.

    Returns:
        A function that makes the stage from the network and the data.

    Raises:
        SettingsError: by that function, if the size of a step is impossible.
    """

    def stage(network: nn.Module, data: NextItemData) -> PlannedStage:
        assert isinstance(network, S3Rec)
        file = request.output / FOLDER / WEIGHTS
        read = data.read.sequences
        rows = np.searchsorted(data.known, read.values).astype(np.int32)
        steps = PrefixLoader(
            Ragged(rows, read.offsets),
            data.max_length,
            settings.targets_per_step // request.training.accumulate,
            settings.mask_share,
            request.seed,
        )

        def begin(before: Sequence[StageResult]) -> Fit:
            from linguarec.families.s3rec.module import SelfSupervision

            torch.manual_seed(request.seed)
            weights = TaskWeights(
                settings.item, settings.masked_attribute, settings.attribute, settings.segment
            )  # fmt: skip
            learner = S3RecLearner(network, vectors.shape.needs_features(), weights)
            schedule = replace(
                request.training,
                learning_rate=settings.learning_rate,
                weight_decay=0.0,
                averaging=0.0,
                max_epochs=settings.epochs,
            )
            items = vectors.part(data.known.astype(np.int64))
            trained = SelfSupervision(learner, items, SelfSupervisedLoader(steps), schedule, request.seed)
            return Fit(trained, None, lambda current: save_weights(_model_of(current), file))

        def take_over(folder: Path) -> None:
            # The file was written before the last checkpoint, at which all processes synchronise.
            load_weights(network, folder / WEIGHTS)

        return PlannedStage(FOLDER, "self-supervision on the same shop", begin, take_over)

    return stage


def _model_of(learner: nn.Module) -> nn.Module:
    assert isinstance(learner, S3RecLearner)
    return learner.model
