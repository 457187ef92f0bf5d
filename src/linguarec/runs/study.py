"""An Optuna study that outlives its processes: it repeats by its seed, and one or several processes work on it.

A trial whose process died is found by the lock of its folder, marked as failed and drawn anew. Failed trials count for
nothing, so that a study that was killed and goes on ends like one that was not.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from linguarec.errors import DataFormatError, OutputError, SettingsError
from linguarec.files import owned
from linguarec.ranges import Between, Value
from linguarec.runs.search_space import SearchSpace

DATABASE = "study.sqlite"
RANDOM_TRIALS = 10  # before the sampler learns from the others
UNPRUNED_TRIALS, UNPRUNED_EPOCHS = 5, 3
_CLAIM = "claim"
_TURN = "turn"  # attribute of a trial
_PATIENCE = 120.0  # seconds that a process waits for another one that begins a trial
_FORMS = "expected postgresql://USER@HOST/DATABASE or sqlite:///FILE"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """A trial that this process trains: Optuna's handle, the values by flag, and its own folder, which is locked."""

    trial: optuna.Trial
    values: Mapping[str, Value]
    folder: Path


class RepeatableSampler(BaseSampler):
    """TPE whose draws depend on the seed, a trial's turn, and the results before it; the trial of turn 0 has the defaults.

    TPE itself draws from one generator for the whole study, whose state is lost with the process.

    `turn`: of the trial that was drawn last.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.seed = seed
        self.turn = 0
        self._of = (-1, TPESampler(seed=seed))

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna: all settings, which are drawn together."""
        return distributions(self.space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna: the defaults first, then TPE's."""
        sampler = self._sampler(study, trial.number)
        if not self.turn:
            return {each.flag: each.default for each in self.space.searched if each.range.holds(each.default)}
        return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See Optuna: of the first, random trials."""
        sampler = self._sampler(study, trial.number)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, study: optuna.Study, number: int) -> TPESampler:
        if self._of[0] != number:
            self.turn = turn_of(study.get_trials(deepcopy=False), number)
            seed = int(np.random.SeedSequence([self.seed, self.turn]).generate_state(1)[0])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed, multivariate=True)
            self._of = (number, sampler)
        return self._of[1]


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The searched settings as Optuna's distributions, by flag."""
    found: dict[str, BaseDistribution] = {}
    for each in space.searched:
        own = each.range
        if not isinstance(own, Between):
            found[each.flag] = CategoricalDistribution(own.values)
        elif own.whole:
            found[each.flag] = IntDistribution(int(own.low), int(own.high), log=own.log)
        else:
            found[each.flag] = FloatDistribution(own.low, own.high, log=own.log)
    return found


class TuningStudy:
    """A study of a search space, and the folder of its trials.

    Args:
        folder: of the trials and, without `url`, of the database.
        database: where the study is; see `database_of`.
        settings: of the study; a database holds one study for each.
        space: what is searched.
        seed: of the draws.
        pruned: whether a trial ends early that is worse than the median of the others after as many epochs.

    Raises:
        SettingsError: the database cannot be reached.
        DataFormatError: the file in the folder is no database of Optuna.
    """

    def __init__(
        self,
        folder: Path,
        database: sqlalchemy.URL,
        settings: Mapping[str, Any],
        space: SearchSpace,
        seed: int,
        pruned: bool,
    ) -> None:
        self.folder = folder
        self.space = space
        own = folder / DATABASE
        self.shared = database.database != str(own)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        pruner: BasePruner = MedianPruner(UNPRUNED_TRIALS, UNPRUNED_EPOCHS) if pruned else NopPruner()
        with owned(folder / _CLAIM, _PATIENCE), _opening(database, None if self.shared else own):
            storage = optuna.storages.RDBStorage(
                database.render_as_string(hide_password=False),
                engine_kwargs={"connect_args": {"timeout": _PATIENCE}} if database.drivername == "sqlite" else {},
            )
            self._sampler = RepeatableSampler(space, seed)
            self.study = optuna.create_study(
                storage=storage,
                sampler=self._sampler,
                pruner=pruner,
                study_name=f"linguarec-{digest[:32]}",
                direction="maximize",
                load_if_exists=True,
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials but the failed ones, in order."""
        return [each for each in self.study.get_trials(deepcopy=False) if each.state != TrialState.FAIL]

    @property
    def best(self) -> FrozenTrial | None:
        """See `best_of`."""
        return best_of(self.trials)

    def folder_of(self, number: int) -> Path:
        """The folder of a trial."""
        return self.folder / f"trial-{number:04}"

    def is_here(self, trial: FrozenTrial) -> bool:
        """Whether a trial was trained into the folder of this study on this machine."""
        return not self.shared or bool(trial.user_attrs.get("place") == self._place)

    @contextlib.contextmanager
    def attempt(self, most: int) -> Iterator[Attempt | None]:
        """Begin a trial, unless there are `most` that are done or running; its folder is locked meanwhile.

        A trial that the block does not tell the end of counts as failed, and its folder is removed.
        """
        with contextlib.ExitStack() as held:
            with owned(self.folder / _CLAIM, _PATIENCE):
                self._fail_the_dead()
                if len(self.trials) >= most:
                    begun = None
                else:
                    trial = self.study.ask(distributions(self.space))
                    trial.set_user_attr(_TURN, self._sampler.turn)
                    trial.set_user_attr("place", self._place)
                    trial.set_user_attr("process", os.getpid())
                    folder = self.folder_of(trial.number)
                    held.enter_context(owned(folder))
                    begun = Attempt(trial, {each.flag: trial.params[each.flag] for each in self.space.searched}, folder)
            try:
                yield begun
            except BaseException:
                if begun is not None:
                    self._fail(begun.trial.number)
                raise

    def running(self) -> int:
        """Number of trials that other processes train."""
        return sum(each.state == TrialState.RUNNING for each in self.trials)

    def importance(self) -> dict[str, float]:
        """Fraction of the differences in value that each searched setting explains, by flag; empty with few trials.

        By PED-ANOVA (arXiv 2304.10255), over completed trials.
        """
        done = [each for each in self.trials if each.state == TrialState.COMPLETE]
        if len(done) < RANDOM_TRIALS or len({each.value for each in done}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def _fail_the_dead(self) -> None:
        """Mark the trials of this folder as failed whose process is no more; the caller holds the claim."""
        for each in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self.is_here(each):
                continue
            try:
                with owned(self.folder_of(each.number)):
                    if self._fail(each.number):
                        log.warning("trial %d: its process is no more; it is drawn and trained again", each.number)
            except OutputError:
                continue  # it is being trained

    def _fail(self, number: int) -> bool:
        """Mark a trial as failed and remove its folder, unless it has ended meanwhile; the caller holds its lock."""
        failed = self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True).state == TrialState.FAIL
        if failed:
            shutil.rmtree(self.folder_of(number), ignore_errors=True)
        return failed

    @property
    def _place(self) -> str:
        return f"{socket.gethostname()}:{self.folder.resolve()}"


def finished(trial: FrozenTrial) -> bool:
    """Whether a trial is done or pruned."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def state_of(trial: FrozenTrial) -> str:
    """The state of a trial as it is shown: done, pruned or running."""
    return {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned"}.get(trial.state, "running")


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial with the most `merit`."""
    done = [each for each in trials if each.state == TrialState.COMPLETE]
    return max(done, key=lambda each: merit(each.value, each.number), default=None)


def merit(value: float | None, number: int) -> tuple[float, int]:
    """What completed trials are compared by: the highest value is the best, and of equal ones the first trial."""
    return value or 0.0, -number


def turn_of(trials: Sequence[FrozenTrial], number: int) -> int:
    """The lowest turn that no trial before that of this number has. Failed trials have none: theirs is taken again.

    In one process it is the number of trials before it. Beside other processes, whose trials have later turns already, the
    trial that takes the place of a failed one draws what that one drew.
    """
    taken: set[int] = set()
    free = itertools.count()
    lowest = next(free)
    for each in trials:
        if each.number < number and each.state != TrialState.FAIL:
            taken.add(each.user_attrs.get(_TURN, lowest))  # none yet: another process is just beginning it
            while lowest in taken:
                lowest = next(free)
    return lowest


def database_of(folder: Path, url: str | None) -> sqlalchemy.URL:
    """Where a study is: the database of the URL, or without one SQLite in its folder.

    Raises:
        SettingsError: the URL is no address of a database that is known here.
    """
    if url is None:
        return sqlalchemy.URL.create("sqlite", database=str(folder / DATABASE))
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise SettingsError([f"--study is no address of a database; {_FORMS}"]) from error
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite" and parsed.database:
        return parsed.set(drivername="sqlite")
    if kind in ("postgresql", "postgres") and parsed.host:
        return parsed.set(drivername="postgresql+psycopg")
    raise SettingsError([f"--study {parsed.render_as_string()}: {_FORMS}"])


def address_of(database: sqlalchemy.URL, folder: Path) -> str:
    """The address of a database, to be stored in the folder of its study: without user and password, which may change.

    That of a file is relative to the folder, so that both can be moved.
    """
    if database.drivername == "sqlite":
        return os.path.relpath(str(database.database), folder)
    place = sqlalchemy.URL.create("postgresql", host=database.host, port=database.port, database=database.database)
    return place.render_as_string()


@contextlib.contextmanager
def _opening(url: sqlalchemy.URL, file: Path | None) -> Iterator[None]:
    """Errors of opening a database as errors that name it, without its password."""
    name = str(file or url.set(drivername=url.get_backend_name()).render_as_string())
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause or error).split("\n")[0]
        if file is not None:
            raise DataFormatError(
                f"{name} cannot be read as a study ({reason}); put it back, or delete it to begin a new one."
            ) from error
        raise SettingsError(
            [f"--study {name} cannot be opened ({reason}); check that it is there and can be reached"]
        ) from error
