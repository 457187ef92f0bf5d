"""How the toy is trained: first the spelling of items, then hidden items; or hidden items over several shops."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.draws import uniform
from linguarec.batching.loader import TrainingBatch, TrainingLoader
from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import MixedLoader, PretrainingBatch
from linguarec.data.training_data import TrainingData
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.family import Family, ModelDescription, Plan, Request, Task
from linguarec.families.start import merge_settings, take_over
from linguarec.families.validation import ranked_means, valid_cases
from linguarec.families.weights import load_weights, save_model, save_weights
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import VectorScorer
from linguarec.sources.joined import JoinedItems
from linguarec.training.module import FineTuning, PreTraining, Stage
from linguarec.training.stages import Fit, PlannedStage, StageResult
from toy_family.model import Toy, ToyConfig
from toy_family.source import LetterSource


@dataclass(frozen=True)
class WarmUpSettings:
    """The stage before: items are found by their spelling.

    Args:
        epochs: of this stage.
        hidden: fraction of the items that the stage after it hides, beside the last one.
    """

    epochs: int = 2
    hidden: float = 0.2


@dataclass(frozen=True)
class ToyOptions:
    """The toy's own flags.

    Args:
        letters: the letters that are counted
        warm_up: settings of the stage before
    """

    letters: str | None = None
    warm_up: WarmUpSettings | None = None


class MaskedLoader(TrainingLoader):
    """Windows with the next item behind them, hidden, and some of the others hidden too."""

    hidden = 0.2

    def _batch(self, index: int) -> TrainingBatch:
        return masked(super()._batch(index), self.seed, self.hidden)


class MaskedPretrainingLoader:
    """The same over several logs, with the items of each step."""

    def __init__(self, steps: MixedLoader, items: JoinedItems) -> None:
        self.steps, self.items = steps, items
        self.shard, self.state_dict, self.load_state_dict = steps.shard, steps.state_dict, steps.load_state_dict

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[PretrainingBatch]:
        for batch in self.steps:
            hidden = masked(batch, self.steps.seed, 0.2)
            read, targets = hidden.sequences.items, hidden.sequences.targets
            numbers, place = np.unique(torch.cat([read, targets]).numpy(), return_inverse=True)
            first = int(numbers[0] < 0)  # -1 stands first where it occurs
            items, targets = torch.from_numpy(place - first).split(len(read))
            sequences = replace(hidden.sequences, items=items, targets=targets)
            yield PretrainingBatch(
                self.items.part(numbers[first:].astype(np.int64)), sequences, None, None, batch.step, batch.step_targets
            )


def masked(batch: TrainingBatch, seed: int, share: float) -> TrainingBatch:
    """Sequences with a hidden place behind each, whose target is the next item, and a share of the others hidden."""
    sequences = batch.sequences
    lengths = np.diff(sequences.offsets.numpy())
    ends = sequences.offsets.numpy()[1:] + np.arange(len(lengths))
    items = np.full(len(sequences.items) + len(lengths), -1)
    targets, kept = items.copy(), np.ones(len(items), dtype=bool)
    kept[ends] = False
    items[kept] = sequences.items.numpy()
    targets[ends] = sequences.targets.numpy()[sequences.last.numpy()]
    places = np.arange(len(items)) - np.repeat(ends - lengths, lengths + 1)
    hide = kept & (uniform(9, seed, batch.step, np.repeat(batch.windows, lengths + 1), places) < share)
    targets[hide], items[hide] = items[hide], -1
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths + 1)]))
    found = replace(
        sequences,
        items=torch.from_numpy(items),
        targets=torch.from_numpy(targets),
        positions=torch.from_numpy(places),
        offsets=offsets,
    )
    return replace(batch, sequences=found)


class Spelling(Stage):
    """`Toy.spelling_loss` over the catalogue, once a step."""

    def __init__(self, model: nn.Module, items: ItemBatch, loader: Any, settings: Any, seed: int) -> None:
        super().__init__(model, loader, settings, seed)
        self.items = items

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        loss: Tensor = self.model.spelling_loss(self.items)  # type: ignore[operator]
        return loss


def plan_finetuning(request: Request) -> Plan:
    """Spelling first, then hidden items."""
    options: ToyOptions = request.options
    warm_up = options.warm_up or WarmUpSettings()
    source = LetterSource.choose(request.dataset, {"letters": options.letters}, request.start_source(LetterSource))
    config, network, taken, description = _begin(request, source)
    read = TrainingData.of(
        request.dataset, request.split, request.users, request.training.valid_users, request.seed, config.longest
    )
    items, sequences = source.catalogue(), read.sequences
    spelled = request.output / "spelling" / "weights.safetensors"

    def loader() -> MaskedLoader:
        made = MaskedLoader(
            sequences.values, sequences.offsets, config.longest, request.targets_per_part, None, request.seed
        )
        made.hidden = warm_up.hidden
        return made

    def validate(model: nn.Module) -> dict[str, float]:
        scorer = VectorScorer(model)
        inputs, keys = scorer.encode(source)
        return rank_cases(scorer, inputs, DenseRanker(keys), read.valid).means()

    def spelling(before: Sequence[StageResult]) -> Fit:
        training = replace(request.training, max_epochs=warm_up.epochs, patience=warm_up.epochs)
        stage = Spelling(network, items, loader(), training, request.seed)
        return Fit(stage, validate, lambda model: save_weights(model, spelled))

    def hidden(before: Sequence[StageResult]) -> Fit:
        stage = FineTuning(network, items, loader(), request.training, request.seed)
        return Fit(stage, validate, lambda model: save_model(model, description, request.output))

    stages = [
        PlannedStage("spelling", "items by their spelling", spelling, lambda _: load_weights(network, spelled)),
        PlannedStage("", "hidden items", hidden),
    ]
    loader()
    chosen = replace(options, letters=source.letters, warm_up=warm_up)
    return Plan(description, network, source, stages, chosen, taken)


def plan_pretraining(request: Request) -> Plan:
    """Hidden items of several shops among those of the step."""
    options: ToyOptions = request.options
    sources = LetterSource.choose_for_all(
        request.datasets, {"letters": options.letters}, request.start_source(LetterSource)
    )
    config, network, taken, description = _begin(request, sources[0].without_items())
    logs = TrainingLogs(
        [TrainingLog.of(dataset, request.split, request.users, request.seed) for dataset in request.datasets]
    )
    steps = MixedLoader(logs, config.longest, request.targets_per_part, None, request.mixing, request.seed)
    read = {dataset.path: source for dataset, source in zip(request.datasets, sources, strict=True)}
    parts = [(read[dataset.path], cases) for dataset, cases in valid_cases(request, config.longest)]

    def validate(model: nn.Module) -> dict[str, float]:
        scorer = VectorScorer(model)
        return ranked_means(scorer, ((*scorer.encode(source), cases) for source, cases in parts))

    def stage(before: Sequence[StageResult]) -> Fit:
        loader = MaskedPretrainingLoader(steps, JoinedItems(sources))
        return Fit(
            PreTraining(network, loader, request.training, request.seed),
            validate,
            lambda model: save_model(model, description, request.output),
        )

    return Plan(
        description,
        network,
        sources[0],
        [PlannedStage("", "", stage)],
        replace(options, letters=sources[0].letters),
        taken,
        {"targets": [log.num_targets for log in logs.logs]},
        lambda: sources[0].save(request.output),
    )


def _begin(request: Request, source: LetterSource) -> tuple[ToyConfig, Toy, Mapping[str, Any] | None, ModelDescription]:
    """Config, network, what was taken over, and the description."""
    config, taken = request.config or ToyConfig(), None
    if request.start is not None:
        config, _ = merge_settings(request.start, request.start.description.config, request.config, "model")
    torch.manual_seed(request.seed)
    network = Toy(config, source.shape)
    if request.start is not None:
        taken = take_over(request.start, network)
    return config, network, taken, ModelDescription(TOY, config, None, source.shape)


TOY = Family(
    name="toy",
    summary="items by the letters of their text, hidden items guessed from both sides",
    config=ToyConfig,
    build=lambda config, encoder, shape: Toy(config, shape),
    source=LetterSource,
    finetuning=Task(ToyOptions, plan_finetuning),
    pretraining=Task(ToyOptions, plan_pretraining),
    encoders={},
    training={"learning_rate": 0.01, "targets_per_step": 100, "max_epochs": 4},
    ways=lambda start, asked: {
        "scratch": {"config": start.description.config, **asked},
        "full": {"from_": start.folder, **asked},
    },
)
