"""Training of Recformer: contrast and masked-language modelling over several domains, then two stages on one domain.

The word embeddings are frozen in pre-training, as published.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import Mixing
from linguarec.data.ragged import Ragged
from linguarec.data.splits import evaluation_cases
from linguarec.data.training_data import TrainingData
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.evaluation.evaluate import rank_cases
from linguarec.families.family import Family, ModelDescription, Plan, Request, Start, Task
from linguarec.families.flags import refuse
from linguarec.families.recformer.beginning import as_it_began, starting_model
from linguarec.families.recformer.loaders import HistoryLoader, JoinedTokens, TokenPairsLoader
from linguarec.families.recformer.masking import WordMasking
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.recformer.released import RELEASED
from linguarec.families.recformer.scorer import SentenceScorer, encode_tokens, open_scorer
from linguarec.families.validation import ranked_means, valid_cases
from linguarec.families.weights import save_model
from linguarec.nn.shape import CatalogueShape
from linguarec.processes import is_main_process
from linguarec.ranges import Between
from linguarec.ranking.dense import DenseRanker
from linguarec.ranking.scorer import LeftOut, left_out, log_left_out
from linguarec.sources.inputs import TokenInputs
from linguarec.sources.tokens import TokenSource, fitting_tokens, warn_of_other_sentences
from linguarec.text.attributes import AttributeTokenizer, SentenceForm
from linguarec.text.references import lasting_name
from linguarec.training.stages import Fit, PlannedStage, StageResult

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecformerOptions:
    """The tokens, and the initial weights.

    Args:
        backbone: start from this language model, a name (built in or in the hub cache) or a folder; without it and without
            --from the weights are random
        tokens: name of the item tokens; not needed if the folders have one kind; from a --valid folder without that name the
            tokens that fit are read
    """

    backbone: str | None = None
    tokens: str | None = None


def plan_finetuning(request: Request) -> Plan:
    """Two stages: item vectors are re-encoded after every epoch, then fixed."""
    from linguarec.families.recformer.stages import RunParts, two_stages

    training, seed, dataset = request.training, request.seed, request.dataset
    request = _checked(request)
    options: RecformerOptions = request.options
    start = request.start_source(TokenSource)
    source = TokenSource.choose(dataset, {"tokens": options.tokens, "backbone": options.backbone}, start)
    network, taken = starting_model(request, source.known_form(), language_head=False)
    config = network.config
    description = ModelDescription(request.family, config, None, source.shape)
    longest = config.max_items + 1  # one item more than the model reads, to count the histories that it cuts
    read = TrainingData.of(dataset, request.split, request.users, training.valid_users, seed, longest)
    logs = TrainingLogs([TrainingLog(dataset.name, read.sequences, dataset.num_items)])
    # The softmax is over the items that occur in training: see `linguarec.families.next_item`.
    classes = torch.from_numpy(np.unique(read.sequences.values).astype(np.int64))

    def loader() -> HistoryLoader:
        tokens = JoinedTokens([source.tokens])
        return HistoryLoader(
            logs, tokens, config.max_items, config.max_tokens, request.targets_per_part, Mixing(), False, seed
        )

    def rank(current: nn.Module, keys: Tensor) -> dict[str, float]:
        scorer, ranker, without = SentenceScorer(current), DenseRanker(keys), training.exclude_history
        return rank_cases(scorer, TokenInputs(source), ranker, read.valid, exclude_history=without).means()

    def encode(current: nn.Module) -> Tensor:
        return encode_tokens(current, source.tokens, next(current.parameters()).device)

    def counted() -> LeftOut | None:
        test = evaluation_cases(dataset.sequences, dataset.roles(request.split), "test", longest)
        histories = {
            "train": read.sequences.without_last(),
            "valid": read.valid.histories,
            "test": test.histories,
        }
        return left_out(SentenceScorer(network), TokenInputs(source), histories)

    loader().shard(0, training.devices)  # refuses impossible settings
    run = RunParts(request.output, encode, rank, lambda current: save_model(current, description, request.output))

    def begin() -> None:
        if is_main_process():
            warn_of_other_sentences(_forms(request, [source]))
            log_left_out(counted())

    facts = {"backbone": options.backbone, **source.settings()}
    stages = two_stages(network, classes, loader, training, seed, run)
    return Plan(description, network, source, stages, options, taken, facts, begin, counted)


def plan_pretraining(request: Request) -> Plan:
    """One stage: contrast of histories with their next items among those of the step, and masked-language modelling."""
    training, seed, datasets = request.training, request.seed, request.datasets
    request = _checked(request)
    options: RecformerOptions = request.options
    start = request.start_source(TokenSource)
    asked = {"tokens": options.tokens, "backbone": options.backbone}
    sources = TokenSource.choose_for_all(datasets, asked, start)
    form = sources[0].known_form()
    logs = TrainingLogs([TrainingLog.of(dataset, request.split, request.users, seed) for dataset in datasets])
    network, taken = starting_model(request, form, language_head=True)
    network.word.requires_grad_(False)
    config = network.config
    if config.mlm_weight and form.mask is None:
        raise SettingsError(
            [
                f"the tokenizer of {form.backbone} has no mask token; masked words need one (--model.mlm_weight 0: without)"
            ]
        )
    read = {dataset.path: source for dataset, source in zip(datasets, sources, strict=True)}
    of_valid: dict[Path, TokenSource] = {}
    if request.valid is not None:
        name = options.tokens if options.tokens in request.valid.token_names else None
        of_valid = {request.valid.path: fitting_tokens(form, request.valid, name)}
    # One item more than the model reads, to count the histories that it cuts.
    parts = [
        ((of_valid or read)[dataset.path], cases)
        for dataset, cases in valid_cases(request, config.max_items + 1, training.valid_users)
    ]
    description = ModelDescription(request.family, config, None, CatalogueShape(0))
    masking = None
    if config.mlm_weight:
        assert form.mask is not None
        tokenizer = AttributeTokenizer.of(form, sources[0].tokenizer)
        masking = WordMasking(tokenizer.continues_a_word(), form.mask, seed)
    per_step = request.targets_per_part  # negatives come from a part, not from the whole step
    tokens = JoinedTokens([source.tokens for source in sources])
    steps = HistoryLoader(logs, tokens, config.max_items, config.max_tokens, per_step, request.mixing, True, seed)
    steps.shard(0, training.devices)  # refuses impossible settings

    def counted() -> LeftOut | None:
        scorer = SentenceScorer(network)
        train = [(source, one.sequences.without_last()) for source, one in zip(sources, logs.logs, strict=True)]
        cut = {"items": _sum([scorer.cut_items(TokenInputs(source)) for source in (*sources, *of_valid.values())])}
        for part, of_part in (("train", train), ("valid", [(source, cases.histories) for source, cases in parts])):
            cut[f"{part}_histories"] = _count_histories(scorer, of_part)
        return cut

    def begin() -> None:
        if not is_main_process():
            return
        sources[0].save(request.output)
        warn_of_other_sentences(_forms(request, [*sources, *of_valid.values()]))
        log_left_out(counted())
        if training.accumulate > 1:
            log.info(
                "contrast: each part of a step is %d pairs, each other's negatives; --training.accumulate 1 contrasts all %d",
                per_step,
                training.targets_per_step,
            )

    def validate(current: nn.Module) -> dict[str, float]:
        scorer = SentenceScorer(current)
        encoded = ((*scorer.encode(source), cases) for source, cases in parts)
        return ranked_means(scorer, encoded, training.exclude_history)

    def stage(before: Sequence[StageResult]) -> Fit:
        from linguarec.families.recformer.stages import TokenPreTraining

        return Fit(
            TokenPreTraining(network, TokenPairsLoader(steps, masking), training, seed),
            validate,
            lambda current: save_model(current, description, request.output),
        )

    facts = {
        "backbone": options.backbone,
        **sources[0].settings(),
        "data_sentences": [source.settings()["sentences"] for source in sources],
        "valid_sentences": next((source.settings()["sentences"] for source in of_valid.values()), None),
        "targets": [int((one.sequences.lengths >= 2).sum()) for one in logs.logs],
    }
    stages = [PlannedStage("", "", stage)]
    return Plan(description, network, sources[0], stages, options, taken, facts, begin, counted)


def ways(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any] | CheckpointMismatchError]:
    """Training from scratch uses the initial weights of the start's own training, if its folder records them. There is no
    frozen way: it would leave nothing to train, like zero-shot."""
    refuse(start.family.name, {flag: value for flag, value in asked.items() if flag != "tokens"})
    full = {"from_": start.folder, **asked}
    try:
        config, backbone = as_it_began(start)
    except CheckpointMismatchError as error:
        return {"scratch": error, "full": full}
    return {"scratch": {"config": config, "backbone": backbone, **asked}, "full": full}


def _checked(request: Request) -> Request:
    """The request with a lasting name of its backbone; refuses settings that this family does not have."""
    refuse(request.family.name, {"training.window_stride": request.training.window_stride or None})
    backbone = request.options.backbone
    if backbone is None:
        return request
    return replace(request, options=replace(request.options, backbone=lasting_name(backbone)))


def _forms(request: Request, sources: Sequence[TokenSource]) -> dict[Path, SentenceForm]:
    """Form of each folder's sentences; the start's comes first."""
    start = request.start_source(TokenSource)
    every = sources if start is None else [start, *sources]
    return {source.folder: source.form for source in every if source.form is not None}


def _count_histories(scorer: SentenceScorer, of_part: Sequence[tuple[TokenSource, Ragged]]) -> dict[str, int]:
    return _sum([scorer.cut_histories(TokenInputs(source), histories) for source, histories in of_part])


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {over: sum(each[over] for each in counts) for over in counts[0]}


RECFORMER = Family(
    name="recformer",
    summary="items and histories as text, read by a language model",
    config=RecformerConfig,
    build=lambda config, encoder, shape: Recformer(config),
    source=TokenSource,
    finetuning=Task(RecformerOptions, plan_finetuning),
    pretraining=Task(RecformerOptions, plan_pretraining),
    encoders={},
    ranges={"learning_rate": Between(1e-5, 2e-4, log=True)},
    training={
        "learning_rate": 5e-5,
        "targets_per_step": 128,
        "accumulate": 8,
        "max_epochs": 128,
        "warmup_steps": 100,
        "schedule": "linear",
    },
    cost="a language model reads every history: an epoch takes 2.5 minutes with 8,442 users on two cores",
    scorer=open_scorer,
    ways=ways,
    released=RELEASED,
)
