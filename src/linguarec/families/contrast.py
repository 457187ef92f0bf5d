"""Contrastive pre-training over several domains in one stage; another domain may select the best weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import MixedLoader, PretrainingLoader
from linguarec.families.family import ModelDescription, Plan, Request
from linguarec.families.options import as_chosen, settings_of
from linguarec.families.start import take_over
from linguarec.families.validation import ranked_means, valid_cases
from linguarec.families.weights import save_model
from linguarec.processes import is_main_process
from linguarec.ranking.scorer import VectorScorer
from linguarec.sources.source import ItemSource
from linguarec.training.stages import Fit, PlannedStage, StageResult


def plan_contrast(
    request: Request,
    sources: Sequence[ItemSource],
    valid: ItemSource | None,
    make_loader: Callable[[MixedLoader], PretrainingLoader],
) -> Plan:
    """The plan of a family whose network has `pretrain_loss`.

    Args:
        request: the requested training; its options are `EncoderOptions`, with the chosen names.
        sources: the items of each folder.
        valid: the items of the validation folder; None = validate on the training folders.
        make_loader: makes the loader of the training from the loader of histories and targets.

    Raises:
        SettingsError, CheckpointMismatchError: settings are impossible, or the start does not fit.
        DataFormatError: there are no training targets, or no targets to select the best weights with.
    """
    training, seed = request.training, request.seed
    config, encoder = settings_of(request)
    logs = TrainingLogs([TrainingLog.of(dataset, request.split, request.users, seed) for dataset in request.datasets])
    read = {dataset.path: source for dataset, source in zip(request.datasets, sources, strict=True)}
    if valid is not None and request.valid is not None:
        read = {request.valid.path: valid}
    parts = [
        (read[dataset.path], cases) for dataset, cases in valid_cases(request, encoder.max_length, training.valid_users)
    ]

    def validate(model: nn.Module) -> dict[str, float]:
        scorer = VectorScorer(model)
        encoded = ((*scorer.encode(source), cases) for source, cases in parts)
        return ranked_means(scorer, encoded, training.exclude_history)

    shape = replace(sources[0].shape, num_items=0)
    description = ModelDescription(request.family, config, encoder, shape)
    torch.manual_seed(seed)
    network = description.build()
    taken = None if request.start is None else take_over(request.start, network) | {"mode": None, "frozen": "none"}
    steps = MixedLoader(
        logs, encoder.max_length, request.targets_per_part, training.window_stride or None, request.mixing, seed
    )
    loader = make_loader(steps)

    def begin(before: Sequence[StageResult]) -> Fit:
        from linguarec.training.module import PreTraining

        return Fit(
            PreTraining(network, loader, training, seed),
            validate,
            lambda current: save_model(current, description, request.output),
        )

    def write_origin() -> None:
        if is_main_process():
            sources[0].without_items().save(request.output)

    options = as_chosen(request.options, encoder)
    facts = {"targets": [log.num_targets for log in logs.logs]} | names_of(sources)
    stages = [PlannedStage("", "", begin)]
    return Plan(description, network, sources[0], stages, options, taken, facts, write_origin)


def names_of(sources: Sequence[ItemSource]) -> dict[str, str | list[str | None] | None]:
    """Names of what is read from each folder, as settings record them: one name, or a list if the folders differ."""
    found: dict[str, str | list[str | None] | None] = {}
    for flag in sources[0].names:
        names = [source.names[flag] for source in sources]
        found[flag] = names if len(set(names)) > 1 else names[0]
    return found
