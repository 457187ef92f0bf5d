"""Tune: search the settings of a model on one folder, judged by the valid part."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError
from linguarec.files import AnyPath
from linguarec.result import Result, metrics_line

if TYPE_CHECKING:
    from linguarec.families.family import Plan, Request
    from linguarec.runs.search_space import SearchSpace
    from linguarec.runs.study import Attempt, TuningStudy
    from linguarec.training.settings import TrainingSettings
    from linguarec.training.stages import PlannedStage

log = logging.getLogger(__name__)
METRIC = "ndcg@10"
STUDY_FILE, RESULT_FILE, BEST_FILE, REPORT_FILE = "study.json", "tuning.json", "best.yaml", "report.html"
KEPT = ("metrics.csv", "run.yaml", "settings.json")  # of a trial that is not the best
_PATIENCE = 600.0  # seconds that a process waits for another one that writes the report


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TuneResult(Result):
    """Figures of a study.

    `trials`: all that are not failed, each with its number, state, settings by flag, valid ndcg@10, epochs and seconds.
    `running`: trials that other processes still train. `searched`: setting -> its range and its default. `default`: valid
    ndcg@10 with the defaults. `best`: the best trial. `importance`: setting -> fraction of the differences that it explains.
    `run`: folder of the best run; None if another folder holds it. `valid`, `test`: its metrics under `protocol`. `config`:
    its settings as YAML, for `linguarec finetune --config`.
    """

    model: str
    data: str
    seed: int
    searched: dict[str, dict[str, Any]]
    trials: list[dict[str, Any]]
    running: int
    default: float | None = None
    best: dict[str, Any]
    importance: dict[str, float]
    run: str | None = None
    valid: dict[str, float] | None = None
    test: dict[str, float] | None = None
    protocol: str = "kept"
    config: str
    report: str

    def _lines(self) -> list[str]:
        from linguarec.runs.tuning_report import protocol_text, setting_text

        protocol = protocol_text(self.protocol)
        default = "" if self.default is None else f", {self.default:.4f} with the defaults"
        pruned = sum(each["state"] == "pruned" for each in self.trials)
        return [
            f"{self.model} on {self.data}: {len(self.trials)} trials, {pruned} of them pruned",
            f"valid{protocol}: {METRIC} {self.best['value']:.4f} (trial {self.best['number']}){default}",
            *(f"  {flag}: {setting_text(value)}" for flag, value in self.best["settings"].items()),
            *([f"test{protocol}: {metrics_line(self.test)}"] if self.test else []),
            f"settings: {self.config}",
            f"report: {self.report}",
        ]


def tune(
    model: str,
    data: AnyPath,
    output: AnyPath,
    trials: int = 20,
    study: str | None = None,
    config: Any = None,
    training: "TrainingSettings | None" = None,
    from_: AnyPath | None = None,
    split: str = "leave-one-out",
    users: float = 1.0,
    seed: int = 0,
    only: list[str] | None = None,
    ranges: list[str] | None = None,
    pruning: Literal["median", "none"] = "median",
    **options: Any,
) -> TuneResult:
    """Search the settings of a model that are best on the valid part of a prepared folder.

    Each trial trains the model with other settings, the first one with the defaults. Settings that are set by a flag stay as
    they are; the others are drawn from the ranges that the model declares, at random at first, then near the good ones (TPE).
    The same command again goes on after a kill, or with more trials; started several times at once, the processes share the
    trials. The best trial is kept as a run folder, its settings as best.yaml for `linguarec finetune --config`.

    Args:
        model: name of the model
        data: prepared dataset folder
        output: folder for the study, the best run and the report
        trials: number of trials of the whole study, over all processes
        study: database of the study, postgresql://USER@HOST/DATABASE or sqlite:///FILE, for processes on several machines; by
            default study.sqlite in the output folder
        config: settings of the model that are not searched
        training: settings of the training that are not searched
        from_: start from the model in this folder
        split: which interactions train, validate and test (leave-one-out, temporal or held-out-items)
        users: fraction of the users who train and validate, drawn by the seed
        seed: of the draws, and of each training
        only: settings to search, such as model.temperature; by default all that have a range and are not set
        ranges: ranges in place of the declared ones, or of other settings: NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A|B|C
        pruning: median = a trial ends when it is worse than the median of the others after as many epochs
        options: the model's own flags
    """
    from linguarec.commands.finetune import finetuning_request
    from linguarec.families.opening import family_named, open_start
    from linguarec.given import note_given
    from linguarec.progress import progress_bar
    from linguarec.runs.folder import check_report_folder
    from linguarec.runs.search_space import SearchSpace, TrainingArguments
    from linguarec.training.settings import TrainingSettings

    data, output = Path(data), Path(output)
    family = family_named(model)
    if training is None:
        training = TrainingSettings(**family.training)
        note_given(training, [])
    _check(trials, training)
    check_report_folder(output)
    start = None if from_ is None else open_start(Path(from_))
    base = TrainingArguments(config, training, options)
    space = SearchSpace.of(family, base, start, only or [], ranges or [])

    def request_of(arguments: TrainingArguments, place: Path) -> "Request":
        start_folder = None if from_ is None else Path(from_)
        own = dict(arguments.options)
        return finetuning_request(
            family, data, place, arguments.config, arguments.training, start_folder, split, users, seed, own
        )

    request = request_of(base, output / "trial")
    plan = family.finetuning.plan(request)  # refuses what no trial could train, before the study is made
    opened = _open_study(output, study, request, plan, space, pruning)
    _tell(opened, trials)
    began, own, shown = time.perf_counter(), 0, 0
    with progress_bar("trials", trials, "trials") as advance:
        while True:
            done = len(opened.trials) - opened.running()  # also of other processes
            advance(done - shown)
            shown = done
            with opened.attempt(trials) as attempt:
                if attempt is None:
                    break
                _train(opened, attempt, lambda place: request_of(space.arguments(attempt.values), place))
            # Not while this process holds a trial: another one may wait for it, and this one for the other.
            _strip(opened)
            own += 1
            _tell_trial(opened, attempt.trial.number, trials, (time.perf_counter() - began) / own)
    return _finished(opened, request)


def _check(trials: int, training: "TrainingSettings") -> None:
    import importlib.util

    problems = []
    if lacking := [name for name in ("optuna", "sqlalchemy") if importlib.util.find_spec(name) is None]:
        problems.append(f"tune needs {' and '.join(lacking)}, not installed here: pip install 'linguarec[tune]'")
    if not 1 <= trials <= 100_000:
        problems.append(f"trials is {trials}; it must be at least 1, and at most 100,000")
    if training.devices > 1:
        problems.append(
            f"training.devices is {training.devices}; tune trains each trial in one process: start the command several times "
            "instead, they share the trials"
        )
    if problems:
        raise SettingsError(problems)


def _open_study(
    output: Path, url: str | None, request: "Request", plan: "Plan", space: "SearchSpace", pruning: str
) -> "TuningStudy":
    """The study of these settings; its folder is made, or checked to be of the same study.

    Raises:
        SettingsError: the folder is of a study with other settings; each is named with both values.
    """
    from linguarec.errors import DataFormatError
    from linguarec.files import owned, write_json
    from linguarec.runs.settings import RunSettings
    from linguarec.runs.study import DATABASE, TuningStudy, address_of, database_of
    from linguarec.stored import read_json

    database = database_of(output, url)
    address = address_of(database, output)
    ranges = {f"range of {each.flag}": str(each.range) for each in space.searched}
    common = {**RunSettings.of("finetune", request, plan).compared(), **ranges, "pruning": pruning}
    settings = {**common, "study in": address}
    file = output / STUDY_FILE
    with owned(output / "study", _PATIENCE):
        if file.exists():
            stored = read_json(file, DataFormatError, "Choose another output folder, or put the file back.")
            differing = [
                f"{name}: the study has {stored.get(name)!r}, now {settings.get(name)!r}"
                for name in {**settings, **stored}
                if stored.get(name) != settings.get(name)
            ]
            if differing:
                title = f"{output} holds a study with other settings; give those of it, or another output folder:"
                raise SettingsError([title, *differing])
        elif output.exists() and (
            not output.is_dir() or any(not each.name.startswith(".") for each in output.iterdir())
        ):
            raise SettingsError(
                [f"--output {output} exists already and holds no {STUDY_FILE} of a study; choose another folder"]
            )
        if not file.exists():
            write_json(file, settings)  # first, so that a folder with a database always tells of what study it is
        # They name the study in its database: without the address, which other machines may write in another way.
        common |= {"study in": DATABASE if address == DATABASE else "a database"}
        return TuningStudy(output, database, common, space, request.seed, pruning == "median")


def _train(study: "TuningStudy", attempt: "Attempt", request_of: Callable[[Path], "Request"]) -> None:
    """Train a trial in its folder and tell the study its value; of the best one so far the folder becomes a complete run."""
    import optuna
    from optuna.trial import TrialState

    from linguarec.commands.finetune import complete_run
    from linguarec.runs.folder import training_folder
    from linguarec.runs.results import FinetuneResult
    from linguarec.runs.settings import RunSettings
    from linguarec.runs.study import merit
    from linguarec.training.stages import run_stages

    shutil.rmtree(attempt.folder, ignore_errors=True)  # of a process that was killed
    try:
        request = request_of(attempt.folder)
        plan = request.family.finetuning.plan(request)
    except (ValueError, SettingsError) as error:
        # Each is possible, but not together. Failed, the trial would be drawn again, and the study never go on.
        log.warning("trial %d is left out, %s: %s", attempt.trial.number, dict(attempt.values), error)
        study.study.tell(attempt.trial, state=TrialState.PRUNED)
        return
    settings = RunSettings.of("finetune", request, plan)
    attempt.trial.set_user_attr("flags", settings.to_flags())
    began, epochs = time.perf_counter(), _Epochs(attempt.trial)
    with training_folder(attempt.folder, settings, False, False, FinetuneResult), _quiet():
        try:
            plan.begin()
            results = run_stages([epochs.watched(stage) for stage in plan.stages], attempt.folder, False)
            pruned = False
        except optuna.TrialPruned:
            results, pruned = [], True
        value = max((each.valid[METRIC] for each in results if each.valid), default=0.0)
        best, number = study.best, attempt.trial.number
        is_best = best is None or merit(value, number) > merit(best.value, best.number)
        if not pruned and value > 0 and is_best:
            complete_run(request, plan, results, attempt.folder, show=False)
        attempt.trial.set_user_attr("seconds", round(time.perf_counter() - began, 2))
        attempt.trial.set_user_attr("epochs", sum(each.epochs for each in results) or epochs.count)
    if pruned:
        study.study.tell(attempt.trial, state=TrialState.PRUNED)
    else:
        study.study.tell(attempt.trial, value)


class _Epochs:
    """Tells a trial the valid metric after each epoch of all stages, and ends the training where the study prunes it."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial
        self.count = 0

    def watched(self, stage: "PlannedStage") -> "PlannedStage":
        """The stage, whose validations are told."""
        from linguarec.training.stages import Fit

        def begin(before: Any) -> Any:
            made = stage.begin(before)
            if not isinstance(made, Fit) or made.validate is None:
                return made
            return replace(made, validate=self._telling(made.validate))

        return replace(stage, begin=begin)

    def _telling(self, validate: Callable[[Any], dict[str, float]]) -> Callable[[Any], dict[str, float]]:
        import optuna

        def told(network: Any) -> dict[str, float]:
            metrics = validate(network)
            self.trial.report(metrics[METRIC], self.count)
            self.count += 1
            if self.trial.should_prune():
                raise optuna.TrialPruned
            return metrics

        return told


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No messages of each epoch: a study has hundreds of them. They are in the trials' metrics.csv."""
    loggers = [logging.getLogger(f"linguarec.{room}") for room in ("training", "families", "commands.finetune")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR if each.name.endswith("finetune") else logging.WARNING)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _strip(study: "TuningStudy") -> None:
    """Keep of the finished trials, but the best, only settings and learning curve: weights would fill the disk."""
    from linguarec.files import owned
    from linguarec.runs.study import best_of, finished

    trials = study.trials
    best = best_of(trials)  # of the same list: a trial that has become the best since then is not in it
    for trial in trials:
        folder = study.folder_of(trial.number)
        if not finished(trial) or (best is not None and trial.number == best.number) or not folder.is_dir():
            continue
        with owned(folder, _PATIENCE):
            for each in folder.iterdir():
                if each.is_dir():
                    shutil.rmtree(each, ignore_errors=True)
                elif each.name not in KEPT:
                    each.unlink(missing_ok=True)


def _tell(study: "TuningStudy", trials: int) -> None:
    """Log what is searched, and how far the study is."""
    for each in study.space.searched:
        log.info("%s in %s, by default %s", each.flag, each.range, each.default)
    log.info("%d trials of %d are done", len(study.trials) - study.running(), trials)


def _tell_trial(study: "TuningStudy", number: int, trials: int, seconds: float) -> None:
    """Log a finished trial, the rate, and the time that is left for this process alone."""
    from linguarec.durations import duration_text
    from linguarec.runs.study import state_of

    trial = next(each for each in study.trials if each.number == number)
    best, left = study.best, trials - len(study.trials)
    log.info(
        "trial %d, %d of %d done: %s%s; best %s; %.1f trials/min, %s left",
        number,
        len(study.trials) - study.running(),
        trials,
        state_of(trial) if trial.value is None else f"{METRIC} {trial.value:.4f}",
        f" after {epochs} epochs" if (epochs := trial.user_attrs.get("epochs", 1)) > 1 else "",
        "none yet" if best is None else f"{best.value:.4f} (trial {best.number})",
        60 / max(seconds, 1e-3),
        duration_text(left * seconds),
    )


def _finished(study: "TuningStudy", request: "Request") -> TuneResult:
    """Put the best run in its place, and write best.yaml, tuning.json and the report."""
    import yaml

    from linguarec.errors import DataFormatError
    from linguarec.files import owned, put_in_place, write_json, writing_file
    from linguarec.portable import FLAG_PATHS, portable_values
    from linguarec.runs.results import METRICS_FILE
    from linguarec.runs.study import state_of
    from linguarec.runs.tuning_report import write_tuning_report
    from linguarec.stored import read_json

    output, run, protocol = study.folder, study.folder / "best", request.training.stop_by
    _strip(study)  # also of processes that were killed before they could
    with owned(output / "report", _PATIENCE), owned(run, _PATIENCE):
        best = study.best  # now: another process may have written the report of a better one while this one waited
        if best is None:
            raise SettingsError([_why_none(study)])
        folder = study.folder_of(best.number)
        with owned(folder, _PATIENCE):
            if study.is_here(best) and (folder / METRICS_FILE).exists():
                put_in_place(folder, run)
        here = study.is_here(best) and (run / METRICS_FILE).exists()
        metrics = read_json(run / METRICS_FILE, DataFormatError, "Begin the study anew.") if here else {}
        with writing_file(output / BEST_FILE) as temporary:
            flags = portable_values(best.user_attrs["flags"], output, FLAG_PATHS)
            temporary.write_text(yaml.safe_dump(flags, sort_keys=False, allow_unicode=True), encoding="utf-8")
        rows = [
            {
                "number": each.number,
                "state": state_of(each),
                "value": each.value if state_of(each) == "done" else None,
                "settings": dict(each.params),
                "epochs": each.user_attrs.get("epochs"),
                "seconds": each.user_attrs.get("seconds"),
            }
            for each in study.trials
        ]
        found: dict[str, Any] = {
            "model": request.family.name,
            "data": request.dataset.name,
            "seed": request.seed,
            "searched": {
                each.flag: {"range": str(each.range), "default": each.default} for each in study.space.searched
            },
            "trials": rows,
            "running": study.running(),
            "default": _value_of_defaults(rows, study.space),
            "best": next(row for row in rows if row["number"] == best.number),
            "importance": study.importance(),
            "run": str(run) if here else None,
            "valid": metrics.get("valid"),
            "test": metrics.get("test" if protocol == "kept" else f"test_{protocol}"),
            "protocol": protocol,
            "config": str(output / BEST_FILE),
            "report": str(output / REPORT_FILE),
        }
        write_tuning_report(output / REPORT_FILE, found, study.space.searched)
        write_json(output / RESULT_FILE, portable_values(found, output, ("run", "config", "report")))
    result = TuneResult.of_dict(found)
    _show(result)
    return result


def _why_none(study: "TuningStudy") -> str:
    """Why no trial is the best one."""
    if running := study.running():
        return f"{study.folder}: no trial has ended yet ({running} run in other processes); begin again when one has"
    return (
        f"{study.folder}: the settings of all {len(study.trials)} trials exclude each other; take other ranges, and another "
        "output folder"
    )


def _value_of_defaults(rows: list[dict[str, Any]], space: "SearchSpace") -> float | None:
    """The value of the trial with the defaults, if there is one."""
    defaults = {each.flag: each.default for each in space.searched}
    return next((row["value"] for row in rows if row["settings"] == defaults), None)


def _show(result: TuneResult) -> None:
    from linguarec.runs.tables import plain_console

    console = plain_console()
    for line in result._lines():
        console.print(line)
