"""The report of a comparison: costs of its runs, plots, HTML, tables on the screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linguarec.errors import CheckpointMismatchError
from linguarec.evaluation.comparison import (
    Comparison,
    Costs,
    best_parts_table,
    differences_table,
    median_of,
    protocols_table,
)
from linguarec.evaluation.lists import LENGTH, Lists, systems_measures_table
from linguarec.evaluation.plots import MOST_LINES, plot_by_slice, plot_learning_curves, plot_systems
from linguarec.evaluation.published import PublishedValue
from linguarec.evaluation.report import Figure, Section, Table, write_report
from linguarec.evaluation.summary import slice_series, slices_table
from linguarec.families.opening import read_description
from linguarec.portable import portable
from linguarec.runs.results import METRICS_FILE, learning_curve, peak_memory_of
from linguarec.runs.settings import CONFIG_FILE, read_settings
from linguarec.runs.tables import plain_console, show_table
from linguarec.stored import AGAIN, read_json

SHOWN = ("recall@10", "ndcg@10")
METRIC = SHOWN[-1]
Published = Mapping[str, Sequence[PublishedValue]]


@dataclass(frozen=True)
class Compared:
    """The comparison on one split.

    `lists`: measures of the lists of recommendations. `runs`: system -> run folders, one for each seed; `seeds`: number of the
    trained models'.
    """

    split: str
    comparison: Comparison
    lists: Lists
    costs: Costs
    runs: Mapping[str, Sequence[Path]]
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            **self.comparison.to_dict(),
            **self.lists.to_dict(),
            "minutes": dict(self.costs.minutes),
            "memory": dict(self.costs.memory),
            "runs": {name: [str(run) for run in runs] for name, runs in self.runs.items()},
        }


def costs_of(runs: Mapping[str, Sequence[Path]]) -> Costs:
    """Median minutes and largest memory of the runs that were trained on one folder of their own, or blended."""
    minutes, memory = {}, {}
    for name, of_seeds in runs.items():
        if not all("data_fingerprint" in read_settings(run) and (run / METRICS_FILE).exists() for run in of_seeds):
            continue
        metrics = [_metrics(run) for run in of_seeds]
        minutes[name] = float(np.median([each["seconds"] for each in metrics])) / 60
        peaks = [
            each.get("peak_memory_gib") or peak_memory_of(run) for each, run in zip(metrics, of_seeds, strict=True)
        ]
        if known := [peak for peak in peaks if peak is not None]:
            memory[name] = max(known)
    return Costs(minutes, memory)


def is_blend_of(folder: Path, parts: Sequence[Path]) -> bool:
    """Whether a folder holds the finished blend of these runs: of their models, with their figures on test."""
    if not (folder / METRICS_FILE).exists():
        return False
    metrics = _metrics(folder)
    made_of = metrics["parts"]
    if len(made_of) != len(parts) or "test_differences" not in metrics:  # made by an earlier version
        return False
    for part, run in zip(made_of, parts, strict=True):
        now = _metrics(run)
        if part["model"] != now["model"] or not np.isclose(part["test"][METRIC], now["test"][METRIC], atol=1e-6):
            return False
    return True


def write_comparison(
    output: Path,
    summary: Mapping[str, Any],
    compared: Sequence[Compared],
    published: Published,
    windows: Section | None = None,
    warning: str = "",
) -> None:
    """Draw the plots, write report.html into `output`, and show its tables.

    Args:
        output: folder of the comparison.
        summary: content of comparison.json.
        compared: the comparison, and that of new items if there is one.
        published: values to show beside the first one.
        windows: the systems in several windows of time, of which the first comparison is the newest; has a table.
        warning: on interactions that are later than the test targets.
    """
    first, *more = compared
    of_new = summary.get("new_items", {})
    table = protocols_table(first.comparison.systems, published, first.costs, SHOWN)
    sections = [
        Section(
            "Results",
            table=table,
            note=f"Test targets of {summary['users']:,} users, each ranked among all {summary['items']:,} items. {_EXPLAINED} "
            f"{_figures_are(first)} Training: its median time. Peak GiB: largest resident memory of the process, "
            "its libraries included.",
            figures=[_systems_plot(output / "plots" / "systems.png", summary["data"], first, published)],
        ),
        *_difference_sections(first, "Differences"),
        _lists_section(first, "Beyond accuracy"),
    ]
    if warning:
        sections.insert(0, Section("Trained on the future", f"{warning}."))
    console_tables = [(table, f"{summary['data']}, {first.split}, test: {_interval_of(first)}"), *_tests_of(first)]
    if windows is not None and windows.table is not None:
        sections.insert(0, windows)
        console_tables.insert(
            0, (windows.table, f"{summary['data']}, windows of time: trained before each, tested in it")
        )
    console_tables.append(_lists_on_screen(first))
    for each in more:
        new = protocols_table(each.comparison.systems, {}, each.costs, SHOWN)
        note = (
            f"Test targets of {of_new['users']:,} users that are held-out items: they occur in no training sequence, and are "
            f"ranked among all items. Models that know items by ID only are not shown. {_figures_are(each)}"
        )
        figure = _systems_plot(output / "plots" / "new-items.png", summary["data"], each, {})
        sections.append(Section("New items", table=new, note=note, figures=[figure]))
        sections += _difference_sections(each, "New items, differences")
        sections.append(_lists_section(each, "New items, beyond accuracy"))
        console_tables += [(new, f"{summary['data']}, {each.split}, test: {_interval_of(each)}"), *_tests_of(each)]
        console_tables.append(_lists_on_screen(each))
    sections += [*_slice_sections(output, summary), _training_section(output, summary)]
    if summary["left_out"]:
        reasons = Table(["left out", "because"], [[name, why] for name, why in summary["left_out"].items()])
        sections.append(Section("Models that do not take part", table=reasons))
        console_tables.append((reasons, "left out"))
    sections.append(_origin(output, summary))
    systems = [name for name in summary["systems"] if name not in ("chance", "popularity")]
    of = ", ".join(systems) if len(systems) <= _NAMED_IN_TITLE else f"{len(systems)} systems"
    write_report(output / "report.html", f"{summary['data']}: {of}", sections)
    console = plain_console()
    for shown, title in console_tables:
        show_table(console, shown, title)
    console.print(f"report: {output / 'report.html'}")


_NAMED_IN_TITLE = 6
_EXPLAINED = (
    "Items of the history are candidates (kept), are none (excluded), or are candidates with the learned repeat term added to "
    "their scores (learned)."
)


def _interval_of(compared: Compared) -> str:
    return f"{median_of(compared.seeds)} ± half the 95 % interval over users"


def _figures_are(compared: Compared) -> str:
    return f"{median_of(compared.seeds).capitalize()} ± half the width of the 95 % bootstrap interval over users."


def _tests_of(compared: Compared) -> list[tuple[Table, str]]:
    """The paired tests under each protocol, and titles."""
    found = compared.comparison
    tables = [
        (
            differences_table(of, found.baseline),
            f"{compared.split}, {protocol}: paired differences, mean of the seeds ± half the 95 % interval, p by Holm",
        )
        for protocol, of in found.differences.items()
        if of
    ]
    if found.best_parts:
        tables.append((best_parts_table(found.best_parts), f"{compared.split}: {_BESIDE_BEST}"))
    return tables


_BESIDE_BEST = "the blend minus its best part on these targets, user by user, mean of the seeds, with 95 % intervals"


def _difference_sections(compared: Compared, title: str) -> list[Section]:
    found = compared.comparison
    sections = [
        Section(
            f"{title}, {protocol}",
            f"User by user, mean of the seeds, against {found.baseline} ± half the 95 % bootstrap interval; p by the "
            "bootstrap, corrected by Holm's method for the number of systems.",
            differences_table(of, found.baseline),
        )
        for protocol, of in found.differences.items()
        if of
    ]
    if found.best_parts:
        note = f"{_BESIDE_BEST.capitalize()}."
        sections.append(Section(f"{title}, blend and its best part", note, best_parts_table(found.best_parts)))
    return sections


def _lists_section(compared: Compared, title: str) -> Section:
    by = f"by the text vectors {compared.lists.vectors}" if compared.lists.vectors else "not measured"
    return Section(
        title,
        f"Of the {LENGTH} best items of each history, {median_of(compared.seeds)}. coverage: fraction of the catalogue that is "
        "in a list. novelty: mean of -log2 of the item's share of the training interactions. diversity: 1 - mean cosine of the "
        f"pairs of a list, {by}. popularity: mean popularity percentile, 0.5 = a random item. gini: inequality of how often "
        "each item is in a list, 0 = equal.",
        systems_measures_table(compared.lists.medians),
        note=f"No diversity: {compared.lists.lacking}." if compared.lists.lacking else "",
    )


def _lists_on_screen(compared: Compared) -> tuple[Table, str]:
    by = f"diversity by the text vectors {compared.lists.vectors}"
    lacking = f"no diversity: {compared.lists.lacking}"
    title = f"{compared.split}, beyond accuracy: lists of {LENGTH}, {by if compared.lists.vectors else lacking}"
    return systems_measures_table(compared.lists.medians), title


def _systems_plot(place: Path, data: str, compared: Compared, published: Published) -> Figure:
    intervals = {
        protocol: {name: found.intervals[METRIC] for name, found in of.items() if name != "chance"}
        for protocol, of in compared.comparison.systems.items()
    }
    # The first of several published values of a model is the one without pre-training.
    values = {
        name: next(value.value for value in found if value.metric == METRIC)
        for name, found in published.items()
        if any(value.metric == METRIC for value in found)
    }
    plot_systems(place, f"{data}, {compared.split}, test", METRIC, intervals, values)
    return Figure(place, f"{METRIC} of each system: mean of the seeds with its 95 % interval over users.")


def _slice_sections(output: Path, summary: Mapping[str, Any]) -> list[Section]:
    """The best systems by parts of the targets: a plot for each group, a table for each protocol."""
    figures = []
    for group, name in (("history length", "history-length"), ("popularity of the target", "popularity")):
        series = slice_series(summary, group, METRIC, MOST_LINES)
        if len(next(iter(series["kept"].values()))) > 1:
            place = output / "plots" / f"{name}.png"
            plot_by_slice(place, f"{summary['data']}, test: {METRIC} by {group}", group, METRIC, series)
            figures.append(Figure(place, f"{METRIC} by {group}, with 95 % intervals over users."))
    note = f"The best {MOST_LINES} systems; comparison.json has all of them."
    return [
        Section("Where the systems differ", note=note, figures=figures),
        *(
            Section(f"Where the systems differ, {protocol}", table=slices_table(summary, METRIC, protocol, MOST_LINES))
            for protocol in series
        ),
    ]


def _training_section(output: Path, summary: Mapping[str, Any]) -> Section:
    curves = {name: learning_curve(Path(runs[0])) for name, runs in summary["runs"].items()}
    trained = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if not trained:
        return Section("Training", "No system was trained for more than one epoch.")
    place = output / "plots" / "learning-curves.png"
    title = f"{summary['data']}: valid {METRIC}, first seed"
    plot_learning_curves(place, title, f"valid {METRIC}", trained)
    return Section(
        "Training", figures=[Figure(place, f"Valid {METRIC} after each epoch; the mark is the epoch that was kept.")]
    )


def _origin(output: Path, summary: Mapping[str, Any]) -> Section:
    """Data, seeds, versions, and the command of each system's first run."""
    settings = {name: read_settings(Path(runs[0])) for name, runs in summary["runs"].items()}
    first = next(iter(settings.values()), {})
    versions = ", ".join(f"{name} {version}" for name, version in first.get("versions", {}).items())
    commands, notes = [], []
    for name, found in settings.items():
        run = Path(summary["runs"][name][0])
        start = (found.get("from") or {}).get("folder")
        if found.get("command") == "finetune":
            config = portable(run / CONFIG_FILE, output)
            commands.append(
                f"linguarec finetune {found['model']} {portable(found['data'], output)} --config {config} -o RUN"
            )
        model = read_description(run).name
        if model != name:
            came = f", trained from {portable(start, output)}" if start else ""
            own = found.get("data_fingerprint") == summary["data_fingerprint"]
            notes.append(f"{name}: {model}{came}{'' if own else ', not trained on these data'}")
    return Section(
        "How this was made",
        f"Data {summary['data_fingerprint'][:16]} (fingerprint), split {summary['split']}, seeds "
        f"{', '.join(map(str, summary['seeds']))}; {versions}. All settings are in settings.json of each run. "
        "The commands run in the folder of this report.",
        note="; ".join(notes),
        commands=commands,
    )


def _metrics(run: Path) -> dict[str, Any]:
    return read_json(run / METRICS_FILE, CheckpointMismatchError, AGAIN)
