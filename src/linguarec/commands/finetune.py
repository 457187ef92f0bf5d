"""Fine-tune: train one model on one prepared folder into a self-contained run folder."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import SettingsError
from linguarec.files import AnyPath

if TYPE_CHECKING:
    from linguarec.data.splits import EvaluationCases
    from linguarec.evaluation.case_scores import Part
    from linguarec.families.family import Family, Plan, Request
    from linguarec.runs.results import FinetuneResult
    from linguarec.training.settings import TrainingSettings

log = logging.getLogger(__name__)


def finetune(
    model: str,
    data: AnyPath,
    output: AnyPath,
    config: Any = None,
    training: "TrainingSettings | None" = None,
    from_: AnyPath | None = None,
    split: str = "leave-one-out",
    users: float = 1.0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> "FinetuneResult":
    """Train a model on a prepared folder, keep the weights that are best on the valid part, and test them.

    The run folder holds everything that the model needs to be used: weights, catalogue, keys, codebook, settings, metrics by
    epoch, plots. --resume continues a run that was killed; it ends with the same weights as an uninterrupted one.

    With --from the training starts from another model's weights and its settings of model and sequence encoder; those that
    do not decide the sizes of weights (dropout, temperature) can be changed.

    Args:
        model: name of the model
        data: prepared dataset folder
        output: run folder to write
        config: settings of the model
        training: settings of the training
        from_: start from the model in this folder (pre-training run, converted checkpoint or another run)
        split: which interactions train, validate and test (leave-one-out, temporal or held-out-items)
        users: fraction of the users who train and validate, drawn by the seed; all users are tested
        seed: of initial weights, shuffling and dropout
        resume: continue a run that was interrupted; with --overwrite, a replacement that was interrupted
        overwrite: replace the run folder if it exists; the old run stays until the new one is complete
        options: the model's own flags, for its items, stages and sequence encoder
    """
    from linguarec.families.opening import family_named
    from linguarec.runs.folder import check_other_folder, run_training, training_place
    from linguarec.runs.results import FinetuneResult
    from linguarec.runs.settings import RunSettings

    data, output = Path(data), Path(output)
    from_ = None if from_ is None else Path(from_)
    family = family_named(model)
    check_other_folder(from_, output)
    place = training_place(output, overwrite)
    request = finetuning_request(family, data, place, config, training, from_, split, users, seed, options)
    plan = family.finetuning.plan(request)
    settings = RunSettings.of("finetune", request, plan)

    def finish(results: list[Any]) -> FinetuneResult:
        return complete_run(request, plan, results, output)

    return run_training(plan, settings, output, resume, overwrite, FinetuneResult, finish)


def _below_popularity(
    request: "Request", part: "Part", repeats: Any, valid: "EvaluationCases"
) -> dict[str, Any] | None:
    """Where ranking by popularity alone does better on valid, and which models may serve better; None = nowhere."""
    from linguarec.data.splits import training_sequences
    from linguarec.evaluation.baselines import popularity
    from linguarec.evaluation.slices import training_counts
    from linguarec.families import FAMILIES

    if not len(valid):
        return None
    dataset = request.dataset
    trained = training_sequences(dataset.sequences, dataset.roles(request.split))
    counted = popularity(valid, training_counts(trained.values, dataset.num_items), valid)
    reached = {
        protocol: {"popularity": counted[protocol].mean("ndcg@10"), "model": found.mean("ndcg@10")}
        for protocol, found in part.rank(valid, repeats).items()
        if protocol in counted
    }
    below = {protocol: each for protocol, each in reached.items() if each["popularity"] > each["model"]}
    others = [name for name, family in FAMILIES.items() if family.closed_form and name != request.family.name]
    return {"valid_ndcg@10": below, "try": [*others, "blend"]} if below else None


def finetuning_request(
    family: "Family",
    data: Path,
    output: Path,
    config: Any,
    training: "TrainingSettings | None",
    from_: Path | None,
    split: str,
    users: float,
    seed: int,
    options: dict[str, Any],
) -> "Request":
    """Check the arguments of `finetune` and open its folders.

    Raises:
        SettingsError: an argument is invalid, or the model does not have it.
        CheckpointMismatchError: the folder to start from holds no model, or another one.
    """
    from linguarec.checks import check_seed
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.training_data import check_fraction, log_read
    from linguarec.families.family import Request
    from linguarec.families.opening import open_start
    from linguarec.families.start import check_start
    from linguarec.training.settings import TrainingSettings

    chosen = family.options(family.finetuning, options)
    training = training or TrainingSettings(**family.training)
    training.check()
    if training.strategy == "fsdp":
        raise SettingsError(
            ["training.strategy fsdp is for pretrain; a fine-tuned model is small beside its catalogue: take ddp"]
        )
    check_fraction(users)
    check_seed(seed)
    start = None if from_ is None else open_start(Path(from_))
    if start is not None:
        check_start(start, family)
    dataset = PreparedDataset.open(data)
    log_read([dataset])
    return Request(family, [dataset], start, config, chosen, training, split, users, seed, output)


def complete_run(
    request: "Request", plan: "Plan", results: list[Any], output: Path, show: bool = True
) -> "FinetuneResult":
    """Complete the folder of the training with the best weights, test them, and write and show the metrics of the run."""
    from dataclasses import replace
    from typing import cast

    import numpy as np

    from linguarec.catalogue import Catalogue
    from linguarec.data.splits import draw_users, evaluation_cases
    from linguarec.devices import device_of
    from linguarec.evaluation.case_scores import Part
    from linguarec.evaluation.stacking import fit_repeats
    from linguarec.families.weights import WEIGHTS_FILE, load_weights
    from linguarec.recommender import Recommender
    from linguarec.runs.results import FinetuneResult, metrics_of, write_results
    from linguarec.text.cleaning import TextRules

    dataset, place = request.dataset, request.output
    description = replace(plan.description, config=replace(plan.description.config, **(results[-1].chosen or {})))
    load_weights(plan.network, place / WEIGHTS_FILE)
    scorer = description.family.scorer(plan.network.eval(), description, plan.source, place)
    device = device_of(request.training.accelerator)  # Lightning has moved the network back
    rules = cast(TextRules, dataset.manifest.text_rules)
    manifest = dataset.manifest
    catalogue = Catalogue.of(dataset.items(), manifest.attributes, rules, manifest.numbers)
    recommender = Recommender.of_items(scorer.to(device), description, catalogue, plan.source)
    now, roles = recommender.snapshot, dataset.roles(request.split)
    part = Part.of(scorer, now.inputs, now.exact)
    valid = evaluation_cases(dataset.sequences, roles, "valid")
    if request.users < 1:
        some = draw_users(dataset.num_users, request.users, request.seed)
        valid = valid.select(np.flatnonzero(np.isin(valid.users, some)))
    recommender.repeats = fit_repeats(part, valid, request.seed)
    recommender.save(place)
    test = {
        protocol: found.means()
        for protocol, found in part.rank(
            evaluation_cases(dataset.sequences, roles, "test"), recommender.repeats
        ).items()
    }
    result = FinetuneResult(
        **metrics_of(request, plan, results, output),
        test=test["kept"],
        test_excluded=test["excluded"],
        test_learned=test.get("learned"),
        below_popularity=_below_popularity(request, part, recommender.repeats, valid),
        chosen=results[-1].chosen,
    )
    write_results(place, dataset.name, result, show)
    if show and (warning := result.popularity_line()) is not None:
        log.warning(warning)  # after the tables: it is the last that is read
    return result
