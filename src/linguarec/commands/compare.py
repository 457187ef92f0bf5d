"""Compare: train several models with several seeds on one folder, and report them in one table."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import LinguarecError, SettingsError
from linguarec.files import AnyPath, one_writer
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import EvaluationCases
    from linguarec.evaluation.evaluate import Protocols
    from linguarec.families.family import Family
    from linguarec.runs.comparison import Compared
    from linguarec.training.settings import TrainingSettings

log = logging.getLogger(__name__)
KS = (10, 50)
TESTED = ("recall@10", "ndcg@10")
ALL = "all"
BLENDED = "blend"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CompareResult(Result):
    """Figures of several systems.

    `items_`: number of items. `systems`: name -> metric -> median, seeds and interval on test, with the items of the history
    among the candidates; `excluded`: without them; `learned`: with the repeat term. `differences`: protocol -> name -> metric
    -> the difference to `baseline`, user by user. `best_parts`: blend -> protocol -> its best part on test, and the paired
    differences to it. `minutes`, `memory`: median training time and largest memory in GiB.
    `runs`: system -> run folders, one for each seed. `left_out`: model -> why it does not take part. `slices`: the systems by
    parts of the targets. `lists`: protocol -> name -> measure of the lists of ten -> median and seeds; `list_vectors`: name of
    the text vectors that diversity is by, `no_diversity`: why it is not measured. `new_items`: the same figures for the
    split of held-out items. `windows`: of several windows of time, the oldest first, what each is and its systems; the other
    fields are of the newest one; `mean_of_windows`: protocol -> name -> metric. `leakage`: how much of the training is
    later than the test targets (`linguarec.data.leakage`); None where times are not known. `report`: the HTML file.
    """

    data: str
    data_fingerprint: str
    split: str
    seeds: list[int]
    users: int
    items_: int
    baseline: str
    systems: dict[str, dict[str, Any]]
    excluded: dict[str, dict[str, Any]]
    learned: dict[str, dict[str, Any]] | None = None
    differences: dict[str, dict[str, dict[str, Any]]]
    minutes: dict[str, float]
    memory: dict[str, float]
    runs: dict[str, list[str]]
    left_out: dict[str, str]
    slices: list[dict[str, Any]]
    lists: dict[str, dict[str, dict[str, Any]]]
    list_vectors: str | None = None
    no_diversity: str | None = None
    best_parts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    new_items: dict[str, Any] | None = None
    windows: list[dict[str, Any]] | None = None
    mean_of_windows: dict[str, dict[str, dict[str, float]]] | None = None
    leakage: dict[str, Any] | None = None
    report: str

    def _lines(self) -> list[str]:
        return [
            f"{self.data}, {self.split}, test: {self.users:,} users, {self.items_:,} items, {len(self.seeds)} seeds",
            *(
                f"{name}{protocol}: ndcg@10 {found['ndcg@10']['median']:.4f} ({found['ndcg@10']['low']:.4f} to "
                f"{found['ndcg@10']['high']:.4f})"
                for protocol, of in (
                    ("", self.systems),
                    (", excluded", self.excluded),
                    (", learned", self.learned or {}),
                    (", new items", (self.new_items or {}).get("systems", {})),
                )
                for name, found in of.items()
            ),
            *(
                f"{name}, {protocol}: ndcg@10 {found['ndcg@10']:.4f}, mean of {len(self.windows or [])} windows"
                for protocol, of in (self.mean_of_windows or {}).items()
                for name, found in of.items()
            ),
            f"report: {self.report}",
        ]


@dataclass(frozen=True)
class _Trainings:
    """What is trained on one split: `families` by name, each with its settings and options, into `folder`/NAME/seedN."""

    dataset: "PreparedDataset"
    split: str
    folder: Path
    families: "dict[str, Family]"
    training: "Mapping[str, TrainingSettings]"
    options: dict[str, dict[str, Any]]
    seeds: Sequence[int]

    def tried(self, name: str, options: Mapping[str, Any]) -> None:
        """Plan a training of a family with these options, which refuses what does not suit it."""
        from linguarec.commands.finetune import finetuning_request

        place, training, seed = self.folder / name, self.training[name], self.seeds[0]
        about = self.dataset.path, place, None, training, None, self.split, 1.0, seed
        family = self.families[name]
        family.finetuning.plan(finetuning_request(family, *about, dict(options)))


@one_writer
def compare(
    data: AnyPath,
    models: Sequence[str],
    output: AnyPath,
    seeds: int = 3,
    first_seed: int = 0,
    baseline: str | None = None,
    training: "TrainingSettings | None" = None,
    split: str = "leave-one-out",
    windows: int | None = None,
    baselines: bool = True,
    blend: bool = False,
    runs: list[AnyPath] | None = None,
    new_items: bool = False,
    published: bool = False,
    **options: Any,
) -> CompareResult:
    """Train models with several seeds and compare their test results: medians, intervals, paired tests, plots, report.

    Finished runs are kept and interrupted ones are resumed, so the command can be repeated, also with more models or seeds.
    The table shows every model with the items of the history as candidates (kept, as published), without them (excluded)
    and with the repeat term that it learned (learned); beside the models, chance, popularity and those that need no training
    by gradients, and published values for the same data. Every model is tested against the best of these baselines.

    Args:
        data: prepared dataset folder
        models: names of the models, separated by commas; all = every model that the data suits, on held-out items, too
        output: folder for the runs, comparison.json, plots and report.html
        seeds: number of runs of each model; models in closed form are the same for every seed and run once
        first_seed: seed of the first run; the others follow
        baseline: system that the others are tested against; by default the baseline that is best on valid
        training: training settings of all models; each model's own defaults apply to those that are not set
        split: which interactions train, validate and test (leave-one-out, temporal, held-out-items)
        windows: with --split temporal: test on so many successive windows of time, and train before each of them
        baselines: also fit the models that need no training by gradients, in closed form
        blend: add a row with the blend of all models of a seed, weights fitted on valid (see `linguarec blend`)
        runs: run folders to add as rows, whatever they were trained from, or folders of such (seed0, seed1 ...) as one row;
            one that was not trained on these data reads their items by text
        new_items: also compare on the split held-out-items: the models that can rank new items are trained on it
        published: also show published values of systems that are not compared
        options: flags of the models, each passed to the models that have it
    """
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.leakage import Leakage
    from linguarec.data.splits import HELD_OUT_ITEMS
    from linguarec.evaluation.published import published_values
    from linguarec.families import FAMILIES
    from linguarec.families.flags import refuse
    from linguarec.files import write_json
    from linguarec.portable import portable_values
    from linguarec.runs.comparison import write_comparison
    from linguarec.runs.folder import check_report_folder
    from linguarec.runs.rows import check_runs, named_runs, trained_on
    from linguarec.runs.windows import Windows
    from linguarec.training.settings import TrainingSettings

    data, output = Path(data), Path(output)
    named = list(dict.fromkeys([models] if isinstance(models, str) else models))
    check_report_folder(output)
    asked = [name for name in named if name != ALL]
    wanted = [*asked, *(name for name, family in FAMILIES.items() if family.trained and ALL in named)]
    wanted += [name for name, family in FAMILIES.items() if family.closed_form and baselines]
    rows = named_runs(runs or [], [*FAMILIES, "chance", "popularity"])
    _check(wanted if ALL in named else asked, seeds, first_seed, training, baseline, [*wanted, *rows, "popularity"])
    families = {name: FAMILIES[name] for name in dict.fromkeys(wanted)}
    dataset = PreparedDataset.open(data)
    own = {name: _options_of(family, options) for name, family in families.items()}
    unread = {flag: value for flag, value in options.items() if not any(flag in each for each in own.values())}
    refuse(", ".join(asked or named), unread)
    settings = {name: (training or TrainingSettings()).or_else(family.training) for name, family in families.items()}
    numbers = range(first_seed, first_seed + seeds)
    left_out: dict[str, str] = {}
    plans = [_Trainings(dataset, split, output / "runs", families, settings, own, numbers)]
    if windows is not None:
        plans = _window_plans(plans[0], windows)
    in_time = len(plans)  # the others are of new items
    if _with_new_items(dataset, split, new_items, ALL in named):
        ranking_new = {name: family for name, family in families.items() if family.ranks_new}
        plans.append(replace(plans[0], split=HELD_OUT_ITEMS, folder=output / "runs-new-items", families=ranking_new))
    check_runs(rows, dataset, [plan.split for plan in plans])
    apart = trained_on(rows, dataset) if in_time > 1 else []
    for name in apart:
        log.warning("%s was trained for one window of time: the others lack it, and so do the mean and the blend", name)
    for plan in plans:  # refuses bad settings of all models before the first one is trained
        _check_plans(plan, asked, left_out)
    _tell(plans)

    leakage = Leakage.of(dataset, dataset.roles(plans[0].split))
    warning = "" if leakage is None else leakage.told(split)
    if warning:
        log.warning("%s", warning)
    compared = [_compared(plan, rows, apart, blend, baseline) for plan in plans]
    of_windows = Windows.of(dataset, compared[:in_time]) if windows is not None else None
    compared = [compared[0], *compared[in_time:]]
    values = published_values(dataset.manifest.counts, split)
    if published and not values:
        log.info("no values are published of %s with this split, so --published adds none", dataset.name)
    elif not published:
        values = {name: found for name, found in values.items() if name in compared[0].comparison.systems["kept"]}
    summary: dict[str, Any] = {
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split": split,
        "seeds": list(numbers),
        "items": dataset.num_items,
        **compared[0].to_dict(),
        "left_out": left_out,
        **({} if of_windows is None else of_windows.to_dict()),
        **({} if leakage is None else {"leakage": asdict(leakage)}),
        "report": str(output / "report.html"),
    }
    if len(compared) > 1:
        summary["new_items"] = {"split": HELD_OUT_ITEMS, **compared[1].to_dict()}
    section = None if of_windows is None else of_windows.section(TESTED[-1])
    write_comparison(output, summary, compared, values, section, warning)
    write_json(output / "comparison.json", portable_values(summary, output, ("runs", "report")))
    return CompareResult.of_dict(summary)


def _window_plans(plan: _Trainings, windows: int) -> list[_Trainings]:
    """A plan for each window of time, the newest one first. The splits are stored in the folder.

    Raises:
        SettingsError: the split is not temporal, or there are too many windows.
        DataFormatError: the folder has no times, or too few.
    """
    import numpy as np

    from linguarec.data.splitting import SplitSettings, add_temporal_split, times_of, window_cuts

    if plan.split != "temporal":
        raise SettingsError([f"--windows is for --split temporal; --split is {plan.split}"])
    found = []
    for cuts in window_cuts(plan.dataset, windows, SplitSettings())[::-1]:
        # Of the newest window: it is no split of its own, so that runs of `temporal` are of it.
        same = np.array_equal(cuts.roles(times_of(plan.dataset)), plan.dataset.roles(plan.split))
        split = plan.split if same else add_temporal_split(plan.dataset, cuts)
        place = plan.folder.with_name(f"runs-{split}")
        found.append(replace(plan, split=split, folder=place, families=dict(plan.families)))
    return found


def _check(
    models: Sequence[str],
    seeds: int,
    first_seed: int,
    training: "TrainingSettings | None",
    baseline: str | None,
    systems: Sequence[str],
) -> None:
    from linguarec.checks import seed_problems
    from linguarec.families.opening import family_problems

    problems = family_problems(models, "models")
    if seeds < 1:
        problems.append(f"seeds is {seeds}; it must be at least 1")
    problems += seed_problems(first_seed, "--first-seed")
    if baseline not in (None, *systems):
        problems.append(f"baseline is {baseline!r}; expected one of the models or popularity")
    if training is not None and training.devices > 1:
        problems.append(f"training.devices is {training.devices}; compare trains in one process, one run after another")
    if problems:
        raise SettingsError(problems)


def _options_of(family: "Family", given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the family has."""
    from linguarec.families.flags import option_types

    known = option_types(family.finetuning.options)
    return {flag: value for flag, value in given.items() if flag in known}


def _with_new_items(dataset: "PreparedDataset", split: str, asked: bool, every_model: bool) -> bool:
    """Whether to compare on held-out items, too: if that is asked for, or with all models if the folder has such targets.

    Raises:
        DataFormatError: it is asked for, and the folder does not have the split.
        SettingsError: it is asked for, and the split has no targets, or is the one that is compared anyway.
    """
    from linguarec.data.splits import HELD_OUT_ITEMS, ROLE_OF_PART

    if asked and split == HELD_OUT_ITEMS:
        raise SettingsError(
            [f"--new-items: --split {HELD_OUT_ITEMS} compares on new items already; leave one of them out"]
        )
    has_split = (dataset.path / "splits" / f"{HELD_OUT_ITEMS}.npy").exists()
    if not asked and (not every_model or split == HELD_OUT_ITEMS or not has_split):
        return False
    found = bool((dataset.roles(HELD_OUT_ITEMS) == ROLE_OF_PART["test"]).any())
    if asked and not found:
        raise SettingsError(
            [f"--new-items: no item of {dataset.path} is held out; prepare it again with --held-out-share 0.1"]
        )
    return found


def _check_plans(plan: _Trainings, asked: Sequence[str], left_out: dict[str, str]) -> None:
    """Plan all trainings; a model that was not asked for by name is left out, with the reason, if the data do not suit it.

    Raises:
        LinguarecError: settings are bad, or the data do not suit a model that was asked for.
    """
    from linguarec.families.flags import read_alone

    flags = {name: set(options) for name, options in plan.options.items()}
    for name in list(plan.families):
        if name in left_out:  # of an earlier split, for the same reason
            del plan.families[name]
            continue
        try:
            others = {flag for other, each in flags.items() if other != name for flag in each}
            plan.options[name] = read_alone(partial(plan.tried, name), plan.options[name], others)
        except LinguarecError as error:
            if name in asked:
                error.args = (f"{name}: {error}",)
                raise
            log.warning("left out: %s, because %s", name, error)
            left_out[name] = str(error)
            del plan.families[name]


def _tell(plans: Sequence[_Trainings]) -> None:
    """Log what is going to be trained, the costly models first of all."""
    from linguarec.families.family import log_own_training

    for plan in plans:
        counts = {name: 1 if each.closed_form else len(plan.seeds) for name, each in plan.families.items()}
        listed = ", ".join(f"{name} x {count}" if count > 1 else name for name, count in counts.items())
        log.info("%s: %d trainings (%s)", plan.split, sum(counts.values()), listed)
    for name, family in plans[0].families.items():
        if family.cost:
            log.info("costly: %s, %s; name the models without it to leave it out", name, family.cost)
        log_own_training(family)


def _compared(
    plan: _Trainings, rows: Mapping[str, Sequence[Path]], apart: Sequence[str], blend: bool, baseline: str | None
) -> "Compared":
    """Train on one split what is not trained yet, rank its test targets, and compare. `apart`: rows that are not blended."""
    from linguarec.data.splits import HELD_OUT_ITEMS, evaluation_cases, training_sequences
    from linguarec.evaluation.baselines import chance, popularity
    from linguarec.evaluation.comparison import Comparison
    from linguarec.evaluation.lists import LENGTH, ListedItems, Lists, popular_lists
    from linguarec.evaluation.slices import slices, training_counts
    from linguarec.run_items import ranked
    from linguarec.runs.comparison import Compared, costs_of
    from linguarec.runs.rows import Rows
    from linguarec.runs.settings import read_settings

    dataset, roles = plan.dataset, plan.dataset.roles(plan.split)
    cases, valid = (evaluation_cases(dataset.sequences, roles, part) for part in ("test", "valid"))
    counts = training_counts(training_sequences(dataset.sequences, roles).values, dataset.num_items)
    found = Rows(ListedItems.of(dataset, counts))
    found.add("chance", chance(cases, dataset.num_items, valid))
    popular, best = popularity(cases, counts, valid), popular_lists(cases, counts)
    found.add("popularity", {name: replace(of, best=best.get(name)) for name, of in popular.items()})
    # By the protocol of the valid metrics of models in closed form, which have one and the same.
    stops = [plan.training[name].stop_by for name, family in plan.families.items() if family.closed_form]
    simple = {"popularity": popularity(valid, counts)[next(iter(stops), "kept")].mean("ndcg@10")}
    for name, family in plan.families.items():
        for seed in plan.seeds[:1] if family.closed_form else plan.seeds:
            run, reached = _trained(plan, name, seed)
            found.add(name, ranked(run, dataset, cases, LENGTH), run)
        if family.closed_form:
            simple[name] = reached
    parts = {name: list(runs) for name, runs in found.runs.items()}
    for name, runs in rows.items():
        settings = read_settings(runs[0])
        own = settings.get("data_fingerprint") == dataset.fingerprint
        if own and settings.get("split", plan.split) != plan.split:
            continue  # it is a row of the other split
        for run in runs:
            found.add(name, ranked(run, dataset, cases, LENGTH) if own else _by_text(run, dataset, cases, valid), run)
        if own and name not in apart:
            parts[name] = list(runs)
    if blend and len(parts) > 1:
        for number in range(max(map(len, parts.values()))):
            place = plan.folder / BLENDED / f"seed{plan.seeds[0] + number}"
            _blended(
                [runs[min(number, len(runs) - 1)] for runs in parts.values()], place, dataset, plan.seeds[0] + number
            )
            found.add(BLENDED, ranked(place, dataset, cases, LENGTH), place)
    if plan.split == HELD_OUT_ITEMS and len(simple) > 1:
        del simple["popularity"]  # valid targets are known items: of new ones it knows nothing
    reference = baseline if baseline in found.results else max(simple, key=lambda name: simple[name])
    sums = {BLENDED: list(parts)} if BLENDED in found.results else {}
    comparison = Comparison.of(found.results, reference, slices(cases, counts), KS, TESTED, sums)
    lists = Lists.of(found.lists, found.listed)
    seeds = max((len(runs) for runs in found.runs.values()), default=1)  # models in closed form run once
    return Compared(plan.split, comparison, lists, costs_of(found.runs), found.runs, seeds)


def _trained(plan: _Trainings, name: str, seed: int) -> tuple[Path, float]:
    """The run of a model with a seed, trained if it is not finished yet, and its valid ndcg@10."""
    from linguarec.commands.finetune import finetune
    from linguarec.memory import reset_peak_memory

    log.info("%s, seed %d, %s", name, seed, plan.split)
    reset_peak_memory()
    run = finetune(
        model=name,
        data=plan.dataset.path,
        output=plan.folder / name / f"seed{seed}",
        split=plan.split,
        seed=seed,
        resume=True,
        training=plan.training[name],
        **plan.options[name],
    )
    return Path(run.run), run.valid["ndcg@10"]


def _by_text(run: Path, dataset: "PreparedDataset", cases: "EvaluationCases", valid: "EvaluationCases") -> "Protocols":
    """The ranks by a model that was not trained on the data, with a repeat term fitted on valid, which is not stored."""
    from linguarec.devices import device_for
    from linguarec.evaluation.case_scores import Part
    from linguarec.evaluation.lists import LENGTH
    from linguarec.evaluation.stacking import fit_repeats
    from linguarec.run_items import items_of_run

    items = items_of_run(run, dataset, True, {}, device_for(None))
    term = fit_repeats(Part.of(items.scorer, items.inputs, items.ranker), valid)
    return replace(items, repeats=term).rank(cases, best=LENGTH)


def _blended(parts: Sequence[Path], folder: Path, dataset: "PreparedDataset", seed: int) -> None:
    """Make the blend of the parts in `folder`, if it is not there yet."""
    from linguarec.commands.blend import blend
    from linguarec.runs.comparison import is_blend_of

    if not is_blend_of(folder, parts):
        blend(parts, folder, dataset.path, seed, overwrite=True)
