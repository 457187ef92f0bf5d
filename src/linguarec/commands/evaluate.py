"""Evaluate: rank the targets of a split with a trained run, beside popularity and chance."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import DataFormatError, SettingsError
from linguarec.files import AnyPath
from linguarec.result import Result, metrics_line

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import EvaluationCases
    from linguarec.evaluation.evaluate import Protocols
    from linguarec.ranking.scorer import LeftOut

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EvaluateResult(Result):
    """Figures of a trained run.

    `items_`: number of items that targets are ranked among; `items_read_by_text`: number of those that the run did not know.
    `cut`: how many histories and items are longer than the model reads. `systems`: model, popularity and chance -> metric ->
    mean, low and high, with the items of the history among the candidates; `excluded`: without them; `learned`: with the
    repeat terms, if the run has one. `slices`: the same for parts of the targets. `lists`: protocol -> model and popularity ->
    measures of the lists of ten (`linguarec.evaluation.lists`); `list_vectors`: name of the text vectors that diversity is by,
    `no_diversity`: why it is not measured. `leakage`: of a run of these data whose times are known, how much of its training is
    later than the test targets (`linguarec.data.leakage`). `files`: ranks and plots.
    """

    run: str
    model: str
    data: str
    data_fingerprint: str
    trained_on_this_data: bool
    trained_on_split: str | None
    zero_shot: bool
    protocol: str
    split: str
    items_: int
    items_read_by_text: int
    targets: int
    targets_without_history: int
    users: int
    cut: "LeftOut | None" = None
    seconds: float
    systems: dict[str, dict[str, dict[str, float]]]
    excluded: dict[str, dict[str, dict[str, float]]]
    learned: dict[str, dict[str, dict[str, float]]] | None = None
    slices: list[dict[str, Any]]
    lists: dict[str, dict[str, dict[str, float]]]
    list_vectors: str | None = None
    no_diversity: str | None = None
    leakage: dict[str, Any] | None = None
    files: list[str]

    def _lines(self) -> list[str]:
        by_protocol = {"": self.systems, ", excluded": self.excluded, ", learned": self.learned or {}}
        means = {
            f"{name}{protocol}": {metric: found["mean"] for metric, found in of.items()}
            for protocol, systems in by_protocol.items()
            for name, of in systems.items()
        }
        return [
            f"{self.model} on {self.data}, {self.protocol}, {self.split}: {self.targets:,} targets among {self.items_:,} items",
            *(f"{name}: {metrics_line(found)}" for name, found in means.items()),
            *(f"lists of {self.model}, {name}: {metrics_line(of[self.model])}" for name, of in self.lists.items()),
            f"run folder: {self.run}",
        ]


def evaluate(
    run: AnyPath,
    data: AnyPath | None = None,
    split: Literal["test", "valid"] = "test",
    protocol: str | None = None,
    zero_shot: bool = False,
    fit_repeats: bool = False,
    ks: list[int] | None = None,
    plots: bool = True,
    device: str | None = None,
    seed: int = 0,
    **options: Any,
) -> EvaluateResult:
    """Rank each target among the whole catalogue and report recall, ndcg and mrr, beside popularity and chance.

    Beside that accuracy: coverage, novelty, diversity and popularity bias of the ten best items of each history.

    Each is reported with the items of the history as candidates (kept, as published), without them (excluded, as recommend
    works by default), and with the repeat term that the run learned (learned).

    Means are over users, with 95 % bootstrap intervals; with equal scores a metric is the mean over the tied ranks. Also
    reported for new and known targets, by their popularity and by history length. Results and plots go into the run folder.

    With --zero-shot the model need not be trained on the data, for example after pre-training, and all items are encoded by
    their text: with the data's vectors of the model's encoder, codes of its codebook, or tokens of its tokenizer.

    Args:
        run: run folder of a trained model; with --zero-shot also a pre-training run or a converted checkpoint
        data: prepared dataset folder; by default the one that the run was trained on
        split: which targets to rank
        protocol: how the folder was split (leave-one-out, temporal, held-out-items); by default as in the training
        zero_shot: encode items by their text; without this, items that the run does not know are an error
        fit_repeats: fit the repeat term on the valid part first, and store it in the run; finetune does so at its end
        ks: list lengths of recall and ndcg; 10 and 50 by default
        plots: write plots by history length and popularity
        device: cpu or cuda; by default a GPU if there is one
        seed: of the bootstrap
        options: with --zero-shot: names of the vectors, codes or tokens to read; by default those that fit the model
    """
    import time

    import numpy as np

    from linguarec.checks import check_seed
    from linguarec.data.dataset import PATIENCE, PreparedDataset
    from linguarec.data.leakage import Leakage
    from linguarec.data.splits import ROLE_OF_PART, draw_users, evaluation_cases, training_sequences
    from linguarec.devices import device_for
    from linguarec.durations import duration_text
    from linguarec.evaluation import baselines
    from linguarec.evaluation.lists import (
        LENGTH,
        ListedItems,
        diversity_by,
        measured,
        measures_table,
        popular_lists,
    )
    from linguarec.evaluation.slices import slices, training_counts
    from linguarec.evaluation.summary import slices_table, summarise, systems_table
    from linguarec.families.opening import read_description
    from linguarec.files import updating_folder, write_json
    from linguarec.portable import portable_values
    from linguarec.processes import Processes
    from linguarec.ranking.scorer import left_out, log_left_out
    from linguarec.run_items import items_of_run, with_repeats
    from linguarec.runs.settings import read_settings
    from linguarec.runs.tables import plain_console, show_table

    run = Path(run)
    check_seed(seed)
    ks = sorted(ks or [10, 50])
    if ks[0] < 1:
        raise SettingsError([f"ks holds {ks[0]}; each must be at least 1"])
    place = device_for(device)
    settings = read_settings(run)
    model_name = read_description(run).name
    if data is None and "data_fingerprint" not in settings:
        raise SettingsError([f"{run} was trained on no folder of its own; name one: `linguarec evaluate {run} DATA`"])
    dataset = PreparedDataset.open(data or _trained_on(run, settings))
    own_data = dataset.fingerprint == settings.get("data_fingerprint")
    if data is None and not own_data:
        raise DataFormatError(
            f"{dataset.path} was prepared anew, or appended to, since {run} was trained on it: the fingerprint of its content "
            f"is now {dataset.fingerprint[:12]}, the run has {settings['data_fingerprint'][:12]}. After an append, "
            f"`linguarec update {run} {dataset.path} -o NEW` makes the run anew; `linguarec evaluate {run} {dataset.path}` "
            "evaluates it as on any other data, items that it does not know with --zero-shot."
        )
    protocol = protocol or settings.get("split", "leave-one-out")
    roles = dataset.roles(protocol)
    cases = evaluation_cases(dataset.sequences, roles, split)
    if len(cases) == 0:
        raise DataFormatError(
            f"{dataset.path}: split {protocol!r} has no {split} target with a history before it; prepare it with more data, or "
            "name another split with --protocol."
        )
    trained = training_sequences(dataset.sequences, roles)
    if own_data and settings.get("users", 1.0) < 1:  # only the users that the run was trained on
        trained = trained.select(draw_users(dataset.num_users, settings["users"], settings["seed"]))
    counts = training_counts(trained.values, dataset.num_items)
    if own_data and protocol != settings.get("split", protocol):
        log.warning(
            "%s was trained on the split %s of these data: targets of %s may be among what it learned from, and then its "
            "figures are too high",
            run,
            settings["split"],
            protocol,
        )
    processes = Processes.here()
    leakage = Leakage.of(dataset, roles) if own_data and split == "test" else None
    if processes.is_writer and leakage is not None and (warning := leakage.told(protocol)):
        log.warning("%s", warning)
    items = items_of_run(run, dataset, zero_shot, options, place)
    valid = evaluation_cases(dataset.sequences, roles, "valid")
    if fit_repeats:
        repeats = processes.of_writer(lambda: with_repeats(run, items, valid, dataset, own_data).repeats)
        items = replace(items, repeats=repeats)
    cut = left_out(items.scorer, items.inputs, {split: cases.histories})
    log_left_out(cut)
    started = time.perf_counter()
    result = items.rank(cases, processes, LENGTH)
    seconds = time.perf_counter() - started
    if not processes.is_writer:
        return EvaluateResult.of_later_process()
    fitted_on = None if items.repeats is None else valid
    listed = ListedItems.of(dataset, counts)
    systems = {
        model_name: result,
        "popularity": baselines.popularity(cases, counts, fitted_on),
        "chance": baselines.chance(cases, dataset.num_items, fitted_on),
    }
    for name, rows in popular_lists(cases, counts).items():
        systems["popularity"][name] = replace(systems["popularity"][name], best=rows)
    summary = {
        "run": str(run),
        "model": model_name,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "trained_on_this_data": own_data,
        "trained_on_split": settings.get("split") if own_data else None,
        "zero_shot": zero_shot,
        "protocol": protocol,
        "split": split,
        "items": dataset.num_items,
        "items_read_by_text": items.new_items,
        "targets": len(cases),
        "targets_without_history": int((np.asarray(roles) == ROLE_OF_PART[split]).sum()) - len(cases),
        "users": len(np.unique(cases.users)),
        **({} if cut is None else {"cut": cut}),
        "seconds": round(seconds, 3),
        **summarise(systems, slices(cases, counts), ks, seed),
        "lists": measured(systems, listed),
        **diversity_by(listed.name, listed.lacking),
        **({} if leakage is None else {"leakage": asdict(leakage)}),
    }
    folder = run / "evaluation"
    name = _result_name(split, settings, dataset, protocol, own_data, zero_shot)
    with updating_folder(folder, PATIENCE) as whole:
        written = _write(whole, name, summary, result, cases, plots)
        summary["files"] = [str(folder / path.name) for path in written]
        write_json(whole / f"{name}.json", portable_values(summary, folder, ("run", "files")))

    console = plain_console()
    size = f"{len(cases):,} targets among {dataset.num_items:,} items in {duration_text(seconds)}"
    what = f"{model_name} on {dataset.name}, {protocol}, {split}: {size}"
    show_table(console, systems_table(summary, list(summary["systems"][model_name])), what)
    show_table(console, slices_table(summary, f"ndcg@{ks[0]}"), f"ndcg@{ks[0]} by slice")
    by_text = "no diversity" if listed.name is None else f"diversity by the text vectors {listed.name}"
    title = f"beyond accuracy: the {LENGTH} best items of each history, {by_text}"
    show_table(console, measures_table(summary["lists"], list(systems)[:2]), title)
    if listed.lacking:
        console.print(f"diversity is not measured: {listed.lacking}")
    if summary["targets_without_history"]:
        console.print(f"left out: {summary['targets_without_history']:,} targets without a history before them")
    console.print(f"written: {folder / f'{name}.json'}")
    return EvaluateResult.of_dict(summary)


def _trained_on(run: Path, settings: dict[str, Any]) -> Path:
    path = Path(settings["data"])
    if not path.exists():
        raise DataFormatError(
            f"{run} was trained on {path}, which is not there; name the folder: `linguarec evaluate {run} DATA`."
        )
    return path


def _result_name(
    split: str,
    settings: dict[str, Any],
    dataset: "PreparedDataset",
    protocol: str,
    own_data: bool,
    zero_shot: bool,
) -> str:
    parts = [split]
    if not own_data:
        parts.append(dataset.name)
    if not own_data or protocol != settings.get("split", protocol):
        parts.append(protocol)
    if zero_shot:
        parts.append("zero-shot")
    return "-".join(parts)


def _write(
    folder: Path, name: str, summary: dict[str, Any], result: "Protocols", cases: "EvaluationCases", plots: bool
) -> list[Path]:
    """Write the ranks of every case, and the plots; returns the paths."""
    import numpy as np

    from linguarec.evaluation.plots import plot_by_slice
    from linguarec.evaluation.summary import slice_series
    from linguarec.files import writing_file

    ranks = folder / f"{name}.ranks.npz"
    with writing_file(ranks) as temporary, temporary.open("wb") as file:
        counts = {
            (name if protocol == "kept" else f"{protocol}_{name}"): getattr(found.ranks, name)
            for protocol, found in result.items()
            for name in ("greater", "ties")
        }
        np.savez_compressed(file, users=result["kept"].users, targets=cases.targets, **counts)
    written = [ranks]
    metric = next(metric for metric in summary["systems"]["chance"] if metric.startswith("ndcg"))
    for group, file_name in (("history length", "history-length"), ("popularity of the target", "popularity")):
        series = slice_series(summary, group, metric)
        if plots and len(series["kept"]["chance"]) > 1:
            path = folder / f"{name}.{file_name}.png"
            plot_by_slice(path, f"{summary['data']}, {summary['split']}: {metric} by {group}", group, metric, series)
            written.append(path)
    return written
