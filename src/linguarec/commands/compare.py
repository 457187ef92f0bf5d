"""Compare: train several models with several seeds on one folder, and report them in one table."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import SettingsError
from linguarec.files import AnyPath, one_writer
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.evaluation.evaluate import Protocols
    from linguarec.evaluation.report import Figure, Section
    from linguarec.families.family import Family
    from linguarec.runs.results import FinetuneResult
    from linguarec.training.settings import TrainingSettings

log = logging.getLogger(__name__)
KS = (10, 50)
TESTED = ("recall@10", "ndcg@10")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CompareResult(Result):
    """Figures of several systems.

    `items_`: number of items. `systems`: name -> metric -> median, seeds and interval on test, with the items of the history
    among the candidates; `excluded`: without them; `learned`: with the repeat term. `differences`: protocol -> name -> metric
    -> the difference to `baseline`, user by user. `minutes`: median training time. `runs`: model -> run folders, one for each
    seed. `slices`: the systems by parts of the targets. `report`: the HTML file.
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
    runs: dict[str, list[str]]
    slices: list[dict[str, Any]]
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
                )
                for name, found in of.items()
            ),
            f"report: {self.report}",
        ]


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
    baselines: bool = True,
    blend: bool = False,
    **options: Any,
) -> CompareResult:
    """Train models with several seeds and compare their test results: medians, intervals, paired tests, plots, report.

    Finished runs are kept and interrupted ones are resumed, so the command can be repeated, also with more models or seeds.
    The table shows every model with the items of the history as candidates (kept, as published), without them (excluded)
    and with the repeat term that it learned (learned); beside the models, chance, popularity and those that need no training
    by gradients, and published values for the same data. Every model is tested against the best of these baselines.

    Args:
        data: prepared dataset folder
        models: names of the models, separated by commas
        output: folder for the runs, comparison.json, plots and report.html
        seeds: number of runs of each model
        first_seed: seed of the first run; the others follow
        baseline: system that the others are tested against; by default the baseline that is best on valid
        training: training settings of all models; each model's own defaults apply to those that are not set
        split: which interactions train, validate and test
        baselines: also fit the models that need no training by gradients, in closed form
        blend: add a row with the blend of all models of a seed, weights fitted on valid (see `linguarec blend`)
        options: flags of the models, each passed to the models that have it
    """
    import numpy as np

    from linguarec.commands.finetune import finetune, finetuning_request
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases, training_sequences
    from linguarec.evaluation.baselines import chance, popularity
    from linguarec.evaluation.comparison import (
        by_protocol,
        compared,
        differences,
        differences_table,
        median_of,
        pooled,
        protocols_table,
    )
    from linguarec.evaluation.published import published_values
    from linguarec.evaluation.report import write_report
    from linguarec.evaluation.slices import Slice, slices, training_counts
    from linguarec.evaluation.summary import FIELDS, summarise
    from linguarec.families import FAMILIES
    from linguarec.families.family import log_own_training
    from linguarec.families.flags import refuse
    from linguarec.files import write_json
    from linguarec.portable import portable_values
    from linguarec.run_items import ranked
    from linguarec.runs.folder import check_report_folder
    from linguarec.runs.tables import plain_console, show_table
    from linguarec.training.settings import TrainingSettings

    data, output = Path(data), Path(output)
    models = list(dict.fromkeys([models] if isinstance(models, str) else models))
    check_report_folder(output)
    _check(models, seeds, first_seed, baseline, training)
    asked = list(models)
    if baselines:
        models += [name for name, family in FAMILIES.items() if family.closed_form and name not in models]
    families = {name: FAMILIES[name] for name in models}
    dataset = PreparedDataset.open(data)
    roles = dataset.roles(split)
    cases = evaluation_cases(dataset.sequences, roles, "test")
    counts = training_counts(training_sequences(dataset.sequences, roles).values, dataset.num_items)

    own = {name: _options_of(family, options) for name, family in families.items()}
    refuse(
        ", ".join(asked),
        {flag: value for flag, value in options.items() if not any(flag in each for each in own.values())},
    )
    trained_by = {name: (training or TrainingSettings()).or_else(family.training) for name, family in families.items()}
    for name, family in families.items():  # refuses bad settings of all models before the first one is trained
        plan = finetuning_request(
            family, data, output / "runs" / name, None, trained_by[name], None, split, 1.0, first_seed, own[name]
        )
        try:
            family.finetuning.plan(plan)
        except SettingsError as error:
            if name in asked:
                raise
            log.warning("left out: %s, because %s", name, error)
            models.remove(name)
        log_own_training(family)

    valid = evaluation_cases(dataset.sequences, roles, "valid")
    # What needs no seed has the same result for every seed.
    results: dict[str, list[Protocols]] = {
        "chance": [chance(cases, dataset.num_items, valid)] * seeds,
        "popularity": [popularity(cases, counts, valid)] * seeds,
    }
    runs: dict[str, list[FinetuneResult]] = {}
    for model in models:
        runs[model] = []
        for seed in range(first_seed, first_seed + (1 if families[model].closed_form else seeds)):
            log.info("%s, seed %d", model, seed)
            run = finetune(
                model=model,
                data=data,
                output=output / "runs" / model / f"seed{seed}",
                split=split,
                seed=seed,
                resume=True,
                training=trained_by[model],
                **own[model],
            )
            runs[model].append(run)
        found = [ranked(Path(run["run"]), dataset, cases) for run in runs[model]]
        results[model] = found * seeds if families[model].closed_form else found

    rows = list(models)
    if blend:
        rows.append("blend")
        results["blend"] = [
            ranked(_blended(data, output, runs, number, first_seed + number), dataset, cases) for number in range(seeds)
        ]
    simple = {"popularity": popularity(valid, counts)["kept"].mean("ndcg@10")} | {
        name: runs[name][0].valid["ndcg@10"] for name in models if families[name].closed_form
    }
    reference = baseline or max(simple, key=lambda name: simple[name])
    split_up = by_protocol(results)
    systems = {protocol: {name: compared(seen, KS) for name, seen in of.items()} for protocol, of in split_up.items()}
    tests = {
        protocol: differences({name: of[name] for name in ("popularity", *rows) if name in of}, reference, TESTED)
        for protocol, of in split_up.items()
        if reference in of
    }
    published = published_values(dataset.manifest.counts, split)
    minutes = {model: float(np.median([run["seconds"] for run in seen])) / 60 for model, seen in runs.items()}
    parts = [Slice(part.group, part.name, np.tile(part.mask, seeds)) for part in slices(cases, counts)]
    together = {
        name: {protocol: pooled(of[name]) for protocol, of in split_up.items() if name in of} for name in results
    }
    by_slice = summarise(together, parts, KS)
    table = protocols_table(systems, published, minutes, TESTED)
    tests_tables = {protocol: differences_table(of, reference) for protocol, of in tests.items()}
    users = len(np.unique(cases.users))
    summary: dict[str, Any] = {
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "split": split,
        "seeds": list(range(first_seed, first_seed + seeds)),
        "users": users,
        "items": dataset.num_items,
        "baseline": reference,
        **{FIELDS[name]: {system: of[system].to_dict() for system in of} for name, of in systems.items()},
        "differences": tests,
        "minutes": minutes,
        "runs": {model: [run["run"] for run in found] for model, found in runs.items()},
        "slices": by_slice["slices"],
        "report": str(output / "report.html"),
    }
    figures = _plots(output, summary, by_slice, published)
    write_report(
        output / "report.html",
        f"{dataset.name}: {', '.join(models)}",
        _sections(output, summary, by_slice, table, tests_tables, figures),
    )
    write_json(output / "comparison.json", portable_values(summary, output, ("runs", "report")))

    console = plain_console()
    show_table(console, table, f"{dataset.name}, {split}, test: {median_of(seeds)} ± half the 95 % interval over users")
    for protocol, shown in tests_tables.items():
        what = f"{protocol}: paired differences, mean of the seeds ± half the 95 % interval, p corrected by Holm"
        show_table(console, shown, what)
    console.print(f"report: {output / 'report.html'}")
    return CompareResult.of_dict(summary)


def _blended(data: Path, output: Path, runs: "Mapping[str, Sequence[FinetuneResult]]", number: int, seed: int) -> Path:
    """The folder of the blend of each model's run with a seed, the `number`-th; made if it is not there yet."""
    from linguarec.commands.blend import blend
    from linguarec.runs.settings import read_settings

    folder = output / "runs" / "blend" / f"seed{seed}"
    parts = [Path(found[min(number, len(found) - 1)]["run"]) for found in runs.values()]
    models = list(runs)
    if not (folder / "metrics.json").exists() or read_settings(folder)["parts"] != models:
        blend(parts, folder, data, seed, overwrite=True)
    return folder


def _check(
    models: Sequence[str], seeds: int, first_seed: int, baseline: str | None, training: "TrainingSettings | None"
) -> None:
    from linguarec.checks import seed_problems
    from linguarec.families.opening import family_problems

    problems = family_problems(models, "models")
    if seeds < 1:
        problems.append(f"seeds is {seeds}; it must be at least 1")
    problems += seed_problems(first_seed, "--first-seed")
    if baseline is not None and baseline not in (*models, "popularity"):
        problems.append(f"baseline is {baseline!r}; expected one of the models or popularity")
    if training is not None and training.devices > 1:
        problems.append(
            f"training.devices is {training.devices}; compare trains in one process, one run after the other"
        )
    if problems:
        raise SettingsError(problems)


def _options_of(family: "Family", given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the family has."""
    from linguarec.families.flags import option_types

    known = option_types(family.finetuning.options)
    return {flag: value for flag, value in given.items() if flag in known}


def _plots(
    output: Path, summary: Mapping[str, Any], by_slice: Mapping[str, Any], published: Mapping[str, Any]
) -> "list[Figure]":
    """Plots in this order: overall, learning curves, by slices."""
    from linguarec.evaluation.intervals import Interval
    from linguarec.evaluation.plots import plot_by_slice, plot_learning_curves, plot_systems
    from linguarec.evaluation.report import Figure
    from linguarec.evaluation.summary import slice_series
    from linguarec.runs.results import learning_curve

    folder, metric = output / "plots", "ndcg@10"
    means = {
        name: Interval(**{key: found[metric][key] for key in ("mean", "low", "high", "count")})
        for name, found in summary["systems"].items()
        if name != "chance"
    }
    values = {
        name: value.value
        for name, found in published.items()
        for value in found
        if value.metric == metric and name in means
    }
    overall, curves = folder / "systems.png", folder / "learning-curves.png"
    plot_systems(overall, f"{summary['data']}, test", metric, means, values)
    plot_learning_curves(
        curves,
        f"{summary['data']}: valid {metric}, first seed",
        f"valid {metric}",
        {model: learning_curve(Path(runs[0])) for model, runs in summary["runs"].items()},
    )
    figures = [
        Figure(overall, f"{metric} of each system: mean of the seeds with its 95 % interval over users."),
        Figure(curves, f"Valid {metric} after each epoch; the mark is the epoch that was kept."),
    ]
    for group, name in (("history length", "history-length"), ("popularity of the target", "popularity")):
        series = slice_series(by_slice, group, metric)
        series.pop("chance")
        if len(series["popularity"]) > 1:
            plot_by_slice(
                folder / f"{name}.png", f"{summary['data']}, test: {metric} by {group}", group, metric, series
            )
            figures.append(Figure(folder / f"{name}.png", f"{metric} by {group}, with 95 % intervals over users."))
    return figures


def _sections(
    output: Path,
    summary: Mapping[str, Any],
    by_slice: Mapping[str, Any],
    table: Any,
    tests_tables: Mapping[str, Any],
    figures: "Sequence[Figure]",
) -> "list[Section]":
    from linguarec.evaluation.comparison import median_of
    from linguarec.evaluation.report import Section
    from linguarec.evaluation.summary import slices_table
    from linguarec.portable import portable
    from linguarec.runs.settings import CONFIG_FILE, read_settings

    settings = [read_settings(Path(runs[0])) for runs in summary["runs"].values()]
    versions = ", ".join(f"{name} {version}" for name, version in settings[0].get("versions", {}).items())
    commands = [
        f"linguarec finetune {found['model']} {portable(found['data'], output)} "
        f"--config {portable(Path(runs[0]) / CONFIG_FILE, output)} -o RUN"
        for runs, found in zip(summary["runs"].values(), settings, strict=True)
    ]
    figures_are = median_of(len(summary["seeds"])).capitalize()
    return [
        Section(
            "Results",
            table=table,
            note=f"Test targets of {summary['users']:,} users, each ranked among all {summary['items']:,} items. Items of "
            "the history are candidates (kept), are none (excluded), or are candidates with the learned repeat term added to "
            f"their scores (learned). {figures_are} ± half the width of the 95 % bootstrap interval over users. Minutes: "
            "median training time.",
            figures=figures[:1],
        ),
        *(
            Section(
                f"Differences, {protocol}",
                f"User by user, mean of the seeds, against {summary['baseline']} ± half the 95 % bootstrap interval; "
                "p by the bootstrap, corrected by Holm's method for the number of systems.",
                of_protocol,
            )
            for protocol, of_protocol in tests_tables.items()
        ),
        Section("Where the systems differ", table=slices_table(by_slice, "ndcg@10"), figures=figures[2:]),
        Section("Training", figures=figures[1:2]),
        Section(
            "How this was made",
            f"Data {summary['data_fingerprint'][:16]} (fingerprint), split {summary['split']}, seeds "
            f"{', '.join(map(str, summary['seeds']))}; {versions}. All settings are in settings.json of each run. "
            "The commands run in the folder of this report.",
            commands=commands,
        ),
    ]
