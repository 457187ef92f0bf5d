"""Pre-train: train one model on several prepared folders at once, for fine-tuning on another."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError
from linguarec.files import AnyPath, paths_of

if TYPE_CHECKING:
    from linguarec.runs.results import PretrainResult
    from linguarec.training.settings import TrainingSettings


def pretrain(
    model: str,
    data: Sequence[AnyPath],
    output: AnyPath,
    config: Any = None,
    training: "TrainingSettings | None" = None,
    valid: AnyPath | None = None,
    from_: AnyPath | None = None,
    mixing: float = 1.0,
    domains_per_step: Literal["all", "one"] = "all",
    split: str = "leave-one-out",
    users: float = 1.0,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> "PretrainResult":
    """Train a model by contrast on the logs of several domains; keep the weights that are best on a domain it never saw.

    The run folder holds weights, settings, metrics by epoch, a plot, and the description of the encoder, the codebook or the
    tokenizer that new items need. It has no catalogue: `linguarec finetune MODEL DATA --from RUN` fine-tunes it on a domain,
    `linguarec evaluate RUN DATA --zero-shot` tests it there without training.

    With --from the training starts from another model's weights and its settings of model and sequence encoder; those that
    do not decide the sizes of weights (dropout, temperature) can be changed.

    Args:
        model: name of the model
        data: prepared folders, one per domain, with vectors of one encoder, codes of one codebook or tokens of one tokenizer,
            whichever the model reads
        output: run folder to write
        config: settings of the model
        training: settings of the training
        valid: prepared folder of another domain, whose valid part selects the best weights without training on it; by
            default the valid parts of the training domains
        from_: start from the model in this folder (another pre-training run, a converted checkpoint or a fine-tuning run),
            whose items were read with the same encoder, codebook or tokenizer
        mixing: a domain with n targets is sampled in proportion to n^mixing; 1 = by size, 0 = all equally
        domains_per_step: all = the targets of a step are of all domains, shuffled; one = each step is of one domain, so that
            the negatives of a target, which are the others of its step, are items of its own domain and hard to tell from it
        split: which interactions train; those held out for valid and test are not seen
        users: fraction of each domain's users who train, drawn by the seed
        seed: of initial weights, shuffling, augmentation and dropout
        resume: continue a run that was interrupted; with --overwrite, a replacement that was interrupted
        overwrite: replace the run folder if it exists; the old run stays until the new one is complete
        options: the model's own flags, for its items, augmentation and sequence encoder
    """
    from linguarec.batching.pretraining import Mixing
    from linguarec.checks import check_seed
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.training_data import check_fraction, log_read
    from linguarec.families import FAMILIES
    from linguarec.families.family import Request
    from linguarec.families.opening import family_named, open_start
    from linguarec.families.start import check_start
    from linguarec.families.weights import seal_model
    from linguarec.runs.folder import check_other_folder, run_training, training_place
    from linguarec.runs.results import PretrainResult, metrics_of, write_results
    from linguarec.runs.settings import RunSettings
    from linguarec.training.settings import TrainingSettings

    family = family_named(model)
    if family.pretraining is None:
        able = ", ".join(name for name, each in FAMILIES.items() if each.pretraining is not None)
        raise SettingsError([f"{model} cannot be pre-trained; there are: {able}"])
    data, output = paths_of(data), Path(output)
    from_, valid = (None if place is None else Path(place) for place in (from_, valid))
    chosen = family.options(family.pretraining, options)
    training = training or TrainingSettings(**family.training)
    training.check()
    _check(data, valid, mixing, domains_per_step)
    check_fraction(users)
    check_seed(seed)
    check_other_folder(from_, output)
    start = None if from_ is None else open_start(Path(from_))
    if start is not None:
        check_start(start, family)
    datasets = [PreparedDataset.open(folder) for folder in data]
    held_out = None if valid is None else PreparedDataset.open(valid)
    log_read(datasets if held_out is None else [*datasets, held_out])
    place = training_place(output, overwrite)
    shares = Mixing(mixing, domains_per_step)
    request = Request(family, datasets, start, config, chosen, training, split, users, seed, place, held_out, shares)
    plan = family.pretraining.plan(request)
    settings = RunSettings.of("pretrain", request, plan)

    def finish(results: list[Any]) -> PretrainResult:
        names = [dataset.name for dataset in datasets]
        domains = dict(zip(names, plan.facts.get("targets", [None] * len(names)), strict=True))
        result = PretrainResult(**metrics_of(request, plan, results, output), domains=domains)
        seal_model(place)
        write_results(place, " + ".join(names), result)
        return result

    return run_training(plan, settings, output, resume, overwrite, PretrainResult, finish)


def _check(data: Sequence[Path], valid: Path | None, mixing: float, domains_per_step: str) -> None:
    from linguarec.checks import twice_problems

    problems = twice_problems(data)
    if not data:
        problems.append("data is empty; name at least one prepared folder")
    if valid is not None and valid.resolve() in [folder.resolve() for folder in data]:
        problems.append(
            f"--valid {valid} is one of the folders that train; name a domain that the model never sees, or leave the flag "
            "out: then the valid parts of all of them choose"
        )
    if not mixing >= 0:
        problems.append(f"mixing is {mixing}; it must be 0 or above")
    if domains_per_step not in ("all", "one"):
        problems.append(f"domains_per_step is {domains_per_step!r}; expected all or one")
    if problems:
        raise SettingsError(problems)
