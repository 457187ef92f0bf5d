"""Transfer: compare a pre-trained model with training from scratch on one folder, for growing fractions of the users."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError
from linguarec.files import AnyPath, one_writer
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.evaluation.comparison import ComparedSystem
    from linguarec.evaluation.evaluate import Protocols
    from linguarec.evaluation.report import Table
    from linguarec.families.family import Start
    from linguarec.training.settings import TrainingSettings

Way = Literal["scratch", "frozen", "full", "zero-shot"]
WAYS: tuple[Way, ...] = ("scratch", "frozen", "full", "zero-shot")
log = logging.getLogger(__name__)
KS = (10, 50)
TESTED = ("recall@10", "ndcg@10")
Results = dict[int, dict[str, "list[Protocols]"]]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TransferResult(Result):
    """Figures of a pre-trained model against training from scratch.

    `from_`: folder of the pre-trained model. `inputs`: way -> names of what was read. `systems`: percentage of users -> way
    -> metric -> median, seeds and interval on test. `differences`: the same for the difference to scratch, user by user.
    `excluded`: as `systems`, without the items of the history among the candidates; `learned`: with the repeat term, for the
    ways that train. `verdicts`: percentage -> way -> whether pre-training helps. `report`: the HTML file.
    """

    data: str
    data_fingerprint: str
    from_: str
    weights_sha256: str | None
    model: str
    mode: str | None
    inputs: dict[str, dict[str, str | None]]
    split: str
    seeds: list[int]
    users: int
    systems: dict[int, dict[str, dict[str, Any]]]
    excluded: dict[int, dict[str, dict[str, Any]]]
    learned: dict[int, dict[str, dict[str, Any]]]
    differences: dict[int, dict[str, dict[str, Any]]]
    verdicts: dict[int, dict[str, str]]
    report: str

    def _lines(self) -> list[str]:
        rows = [
            f"{share} % of the users, {way}: ndcg@10 {found['ndcg@10']['median']:.4f}"
            + (f", {verdict}" if (verdict := self.verdicts[share].get(way)) else "")
            for share, of in self.systems.items()
            for way, found in of.items()
        ]
        return [
            f"{self.model} from {self.from_} on {self.data}, {len(self.seeds)} seeds",
            *rows,
            f"report: {self.report}",
        ]


@one_writer
def transfer(
    data: AnyPath,
    from_: AnyPath,
    output: AnyPath,
    ways: list[Way] | None = None,
    shares: list[int] | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    training: "TrainingSettings | None" = None,
    split: str = "leave-one-out",
    **options: Any,
) -> TransferResult:
    """Train from scratch and from a pre-trained model on growing fractions of the users, and show whether pre-training helps.

    Every way is tested on all users, with several seeds, and compared with scratch user by user. Finished runs are kept
    and interrupted ones are resumed, so the command can be repeated, also with more ways, fractions or seeds.

    Args:
        data: prepared folder of the target domain
        from_: pre-training run or converted checkpoint
        output: folder for the runs, transfer.json, the plot and report.html
        ways: scratch, frozen (the sequence encoder stays as pre-trained), full (everything is fine-tuned), zero-shot; by
            default all that the model supports
        shares: percentages of the users who train, whole numbers from 1 to 100; 5, 20, 50 and 100 by default
        seeds: number of runs of each way and percentage
        first_seed: seed of the first run; the others follow
        training: settings of all trainings; the model's own defaults apply to those that are not set. With a fraction of the
            users a step takes the same fraction of targets_per_step, so that an epoch has as many steps as with all users
        split: which interactions train, validate and test
        options: flags of the model, as of `linguarec finetune --from`
    """
    import numpy as np

    from linguarec.commands.finetune import finetune, finetuning_request
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases
    from linguarec.devices import device_for
    from linguarec.evaluation.comparison import by_protocol, compared, differences, median_of
    from linguarec.evaluation.intervals import Interval
    from linguarec.evaluation.plots import plot_by_share
    from linguarec.evaluation.report import Figure, Section, write_report
    from linguarec.evaluation.summary import FIELDS
    from linguarec.families.family import log_own_training
    from linguarec.families.opening import open_start
    from linguarec.families.start import weights_sha256
    from linguarec.files import write_json
    from linguarec.portable import portable_values
    from linguarec.run_items import items_by_text, ranked
    from linguarec.runs.folder import check_report_folder
    from linguarec.runs.settings import read_settings
    from linguarec.runs.tables import plain_console, show_table
    from linguarec.training.settings import TrainingSettings

    data, from_, output = Path(data), Path(from_), Path(output)
    shares = sorted(set(shares or [5, 20, 50, 100]))
    training = training or TrainingSettings()
    _check(shares, seeds, first_seed, training.devices)
    check_report_folder(output)
    start = open_start(from_)
    family = start.family
    training = training.or_else(family.training)
    training.check()
    log_own_training(family)
    dataset = PreparedDataset.open(data)
    cases = evaluation_cases(dataset.sequences, dataset.roles(split), "test")
    flags, ways = _ways_of(start, options, ways)
    encoder = start.description.encoder
    smallest_step = training.accumulate * (1 if encoder is None else 2 * encoder.max_length)
    for trained_way in [way for way in ways if way != "zero-shot"]:  # refuses bad settings of all ways; scratch first
        given = dict(flags[trained_way])
        request = finetuning_request(
            family,
            data,
            output / "runs" / trained_way,
            given.pop("config", None),
            training,
            given.pop("from_", None),
            split,
            1.0,
            first_seed,
            given,
        )
        family.finetuning.plan(request)
    read = None
    inputs: dict[str, dict[str, str | None]] = {}
    if "zero-shot" in ways:
        names = {flag: options.get(flag) for flag in family.source.flags}
        read = items_by_text(start, dataset, names, device_for(None))
        inputs["zero-shot"] = {flag: read.names.get(flag) for flag in family.source.flags}

    def trained(way: Way, share: int, seed: int) -> "Protocols":
        log.info("%s, %d %% of the users, seed %d", way, share, seed)
        per_step = max(smallest_step, round(training.targets_per_step * share / 100))
        run = finetune(
            model=family.name,
            data=data,
            output=output / "runs" / way / f"{share}" / f"seed{seed}",
            training=replace(training, targets_per_step=per_step),
            split=split,
            users=share / 100,
            seed=seed,
            resume=True,
            **flags[way],
        )
        recorded = read_settings(Path(run["run"]))
        inputs[way] = {kind: recorded.get(kind) for kind in family.source.flags}
        return ranked(Path(run["run"]), dataset, cases)

    results: Results = {share: {} for share in shares}
    for way in ways:
        if read is not None and way == "zero-shot":
            untrained = read.rank(cases)
            for share in shares:
                results[share][way] = [untrained] * seeds
            continue
        for share in shares:
            results[share][way] = [trained(way, share, seed) for seed in range(first_seed, first_seed + seeds)]

    split_up = {share: by_protocol(of) for share, of in results.items()}
    systems = {
        protocol: {
            share: {way: compared(found, KS) for way, found in of.get(protocol, {}).items()}
            for share, of in split_up.items()
        }
        for protocol in FIELDS
    }
    tests = {
        share: differences(of["kept"], "scratch", TESTED) if "scratch" in of["kept"] and len(of["kept"]) > 1 else {}
        for share, of in split_up.items()
    }
    table = _table(systems, tests)
    summary: dict[str, Any] = {
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "from": str(from_),
        "weights_sha256": weights_sha256(start),
        "model": family.name,
        "mode": flags["full"].get("mode"),
        "inputs": inputs,
        "split": split,
        "seeds": list(range(first_seed, first_seed + seeds)),
        "users": len(np.unique(cases.users)),
        **{
            FIELDS[protocol]: {share: {way: found.to_dict() for way, found in of.items()} for share, of in by.items()}
            for protocol, by in systems.items()
        },
        "differences": tests,
        "verdicts": {share: {way: verdict(test["ndcg@10"]) for way, test in of.items()} for share, of in tests.items()},
        "report": str(output / "report.html"),
    }
    plot = output / "plots" / "shares.png"
    lines: dict[str, list[tuple[str, Interval]]] = {
        way: [(f"{share} %", of[way].intervals["ndcg@10"]) for share, of in systems["kept"].items()] for way in ways
    }
    plot_by_share(plot, f"{dataset.name}: {family.name} from {from_.name}", "test ndcg@10", lines)
    caption = "Test ndcg@10 by the share of the users who train: mean of the seeds with its 95 % interval over users."
    note = (
        f"Test targets of {summary['users']:,} users, each ranked among all {dataset.num_items:,} items; {median_of(seeds)} "
        "± half the 95 % interval over users. The difference to scratch is user by user; pre-training helps or hurts "
        "where the interval leaves 0 out."
    )
    write_report(
        output / "report.html",
        f"{dataset.name}: {family.name} pre-trained and from scratch",
        [Section("Results", table=table, note=note, figures=[Figure(plot, caption)])],
    )
    write_json(output / "transfer.json", portable_values(summary, output, ("from", "report")))
    console = plain_console()
    show_table(console, table, f"{dataset.name}, {family.name} from {from_}: {median_of(seeds)}")
    console.print(f"report: {output / 'report.html'}")
    return TransferResult.of_dict(summary)


def _ways_of(
    start: "Start", options: Mapping[str, Any], ways: list[Way] | None
) -> tuple[dict[str, dict[str, Any]], list[Way]]:
    """The arguments of `finetune` for each way that the model supports, and the ways to run.

    Raises:
        SettingsError: the model does not support a requested way, its folder lacks what a way needs, or the model does not
            have an option.
    """
    from linguarec.errors import CheckpointMismatchError
    from linguarec.families.flags import refuse

    family = start.family
    if family.ways is None:
        raise SettingsError([f"{family.bound_to_ids}: nothing that it learned carries over to another shop"])
    given = {flag: value for flag, value in options.items() if value is not None}
    found = family.ways(start, given)
    flags = {way: arguments for way, arguments in found.items() if not isinstance(arguments, CheckpointMismatchError)}
    able = [way for way in WAYS if way in (*flags, "zero-shot")]
    problems = []
    for way in ways or found:
        error = found.get(way)
        if isinstance(error, CheckpointMismatchError):
            problems.append(f"--ways {way}: {error} Compare the others: --ways {','.join(able)}")
        elif way not in able:
            problems.append(
                f"--ways {way}: the {family.name} in {start.folder} has no such way; compare the others: "
                f"--ways {','.join(able)}"
            )
    if problems:
        raise SettingsError(problems)
    tried = [way for way in able if way in (ways or WAYS)]
    read = {flag for way in tried for flag in flags.get(way, family.source.flags)} | {"mode"}
    mode = flags["full"].get("mode")
    who = f"{family.name} with --ways {','.join(tried)}" + (f" --mode {mode}" if mode else "")
    refuse(who, {flag: value for flag, value in given.items() if flag not in read})
    return flags, tried


def verdict(difference: Mapping[str, float]) -> str:
    """Verdict on a paired difference to scratch, by its 95 % interval."""
    if difference["low"] > 0:
        return "helps"
    return "hurts" if difference["high"] < 0 else "no difference"


def _check(shares: Sequence[int], seeds: int, first_seed: int, devices: int) -> None:
    from linguarec.checks import seed_problems

    problems = [f"shares holds {share}; each is a percentage, 1 to 100" for share in shares if not 1 <= share <= 100]
    if seeds < 1:
        problems.append(f"seeds is {seeds}; it must be at least 1")
    problems += seed_problems(first_seed, "--first-seed")
    if devices > 1:
        problems.append(f"training.devices is {devices}; transfer trains in one process, one run after the other")
    if problems:
        raise SettingsError(problems)


def _table(
    systems: "Mapping[str, Mapping[int, Mapping[str, ComparedSystem]]]",
    tests: Mapping[int, Mapping[str, Mapping[str, Mapping[str, float]]]],
) -> "Table":
    """One row per fraction of users and way, ndcg@10 under every protocol; the best (kept) of each fraction in bold."""
    from linguarec.evaluation.report import Table

    def cell(protocol: str, share: int, way: str, metric: str) -> str:
        found = systems[protocol][share].get(way)
        return "" if found is None else str(replace(found.intervals[metric], mean=found.median(metric)))

    columns = [("kept", "recall@10"), *((protocol, "ndcg@10") for protocol in systems)]
    rows: list[list[str]] = []
    strong = set()
    for share, of in systems["kept"].items():
        best = max(of, key=lambda way: of[way].median("ndcg@10"))
        for way in of:
            if way == best:
                strong.add(len(rows))
            cells = [cell(protocol, share, way, metric) for protocol, metric in columns]
            difference, says = "", ""
            if way in tests[share]:
                test = tests[share][way]["ndcg@10"]
                difference = f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
                says = verdict(test)
            rows.append([f"{share} %, {way}", *cells, difference, says])
    shown = [f"{metric} {protocol}" for protocol, metric in columns]
    return Table(["users, way", *shown, "ndcg@10 minus scratch", "pre-training"], rows, frozenset(strong))
