"""How the decayed mean is trained, and the `Family` object by which linguarec uses it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from model import DecayConfig, DecayedMean

from linguarec.data.training_data import TrainingData
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.next_item import NextItemData
from linguarec.families.weights import save_model
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.training.stages import Fit, PlannedStage, StageResult


@dataclass(frozen=True)
class DecayOptions:
    """The item vectors. Each field is a flag of `finetune`.

    Args:
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage: cross-entropy of the next item. The best epoch on the valid part is kept."""
    training, seed = request.training, request.seed
    config = request.config or DecayConfig()
    source = EmbeddingSource.choose(request.dataset, {"features": request.options.features}, None)
    read = TrainingData.of(request.dataset, request.split, request.users, training.valid_users, seed, config.longest)
    data = NextItemData(source, read, config.longest)
    description = ModelDescription(DECAY, config, None, source.shape)
    torch.manual_seed(seed)
    network = description.build()
    steps = data.loader(training, seed)

    def begin(before: Sequence[StageResult]) -> Fit:
        return Fit(
            data.stage(network, steps, training, seed),
            data.validate,
            lambda trained: save_model(trained, description, request.output),
        )

    options = replace(request.options, features=source.name)
    return Plan(description, network, source, [PlannedStage("", "", begin)], options, facts=source.settings())


DECAY = Family(
    name="decay",
    summary="items by text vector, histories by a decayed mean",
    config=DecayConfig,
    build=lambda config, encoder, shape: DecayedMean(config, shape),
    source=EmbeddingSource,
    finetuning=Task(DecayOptions, plan_finetuning),
    encoders={},  # it has no sequence encoder
    training={"learning_rate": 3e-3, "targets_per_step": 256, "max_epochs": 8},
    carries=False,  # no other training starts from it
)
