"""The one stage of families without gradient steps: what they know is computed at once.

Their settings say how far a log is to be trusted and whether its order counts, which differs from shop to shop by more than
models do. So those that the user does not set are chosen on valid, from the defaults on (`linguarec.families.climbing`).
"""

import csv
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from linguarec.data.splits import EvaluationCases
from linguarec.data.training_data import TrainingData
from linguarec.durations import duration_text
from linguarec.evaluation.evaluate import EvaluationResult, rank_cases
from linguarec.evaluation.metrics import FloatArray
from linguarec.families.climbing import Climb, climb
from linguarec.families.family import ModelDescription, Plan, Request
from linguarec.families.weights import save_model
from linguarec.files import writing_file
from linguarec.given import given
from linguarec.memory import peak_memory_gib
from linguarec.processes import is_main_process
from linguarec.ranking.scorer import Scorer
from linguarec.sources.source import ItemSource
from linguarec.training.record import CURVE_FILE, before_valid
from linguarec.training.stages import PlannedStage, StageResult

log = logging.getLogger(__name__)


DECAY = "decay"  # read with the histories alone: another value asks for no other weights
METRIC = "ndcg@10"
DEFAULTS_FLAG = "defaults"
FIXED = "fixed"
SEARCHED = "searched"
TRAINING_READ = ("valid_users", "stop_by", "accelerator")  # the settings of a training that have a meaning here
TRAINING = {"stop_by": "excluded"}  # settings are chosen by the metric of use: nothing was published that would compare
# Settings are chosen on so many cases; and on fewer in a large catalogue, all of whose items are scored for each.
_MOST_CASES, _FEWEST_CASES, _SCORES = 20_000, 2_000, 200_000_000


@dataclass(frozen=True)
class ClosedFormOptions:
    """How settings are chosen.

    Args:
        defaults: searched or fixed; searched chooses the settings of the model that are not set by valid ndcg@10, step by step
            from their defaults; fixed keeps the defaults; searched by default, but where a fit takes minutes the decay alone
    """

    defaults: Literal["searched", "fixed"] | None = None


@dataclass(frozen=True)
class VectorOptions(ClosedFormOptions):
    """The item vectors, and how settings are chosen.

    Args:
        defaults: searched or fixed; searched chooses the settings of the model that are not set by valid ndcg@10, step by step
            from their defaults; fixed keeps the defaults; searched by default, but where a fit takes minutes the decay alone
        features: name of the item text vectors; not needed if the folder has one kind
    """

    features: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What a family does in closed form.

    `fit`: computes what the network knows of the training sequences, by the settings `network.config`. `scorer`: of the
    network. `climbs`: the settings that are chosen, in this order. `needs`: what a fit needs, for the log; called when the
    training begins, so it may measure. `slow`: whether a fit takes minutes, so that nothing is chosen by fits unasked.
    """

    fit: Callable[[Any, TrainingData], None]
    scorer: Callable[[nn.Module], Scorer]
    climbs: Sequence[Climb]
    needs: Callable[[], str]
    slow: bool = False


class _Fitted:
    """A network, and the settings that it was fitted with."""

    def __init__(self, network: Any, recipe: Recipe, data: TrainingData, source: ItemSource, exclude: bool) -> None:
        self.network, self._recipe, self._data, self._source, self.exclude = network, recipe, data, source, exclude
        self.scorer = recipe.scorer(network)
        self._settings: dict[str, Any] | None = None
        self._encoded: tuple[Any, Any] = (None, None)

    def with_settings(self, config: Any) -> None:
        """Fit again, unless only what is read with the histories is different."""
        self.network.config = config
        fitted = {name: value for name, value in asdict(config).items() if name != DECAY}
        if fitted == self._settings:
            return
        started, self._encoded = time.perf_counter(), (None, None)
        self._recipe.fit(self.network, self._data)
        inputs, keys = self.scorer.encode(self._source)
        self._settings, self._encoded = fitted, (inputs, self.scorer.ranker(keys))
        if is_main_process():
            log.info("solved in %s", duration_text(time.perf_counter() - started))

    def ranked(self, config: Any, cases: EvaluationCases) -> EvaluationResult:
        """The ranks of the targets with some settings."""
        self.with_settings(config)
        return rank_cases(self.scorer, *self._encoded, cases, exclude_history=self.exclude)


@dataclass(frozen=True, eq=False)
class Solve:
    """Computes what the model knows, validates it, and keeps it. There is nothing to resume: it starts again.

    `climbs`: the settings to choose. `seed`: of the cases that they are chosen on, where there are very many.
    """

    fitted: _Fitted
    description: ModelDescription
    valid: EvaluationCases
    climbs: Sequence[Climb]
    seed: int

    def run(self, folder: Path, resume: bool) -> StageResult:
        """See `linguarec.training.stages.Runnable`."""
        started = time.perf_counter()
        config = self._chosen()
        self.fitted.with_settings(config)
        solved = time.perf_counter()
        valid = self.fitted.ranked(config, self.valid).means()
        seconds, valid_seconds = solved - started, time.perf_counter() - solved
        chosen = {each.name: getattr(config, each.name) for each in self.climbs}
        if is_main_process():
            row = {
                "epoch": 0,
                "step": 0,
                **{f"valid {name}": value for name, value in valid.items()},
                "seconds": seconds,
                "valid_seconds": valid_seconds,
                "peak_memory_gib": peak_memory_gib(),
            }
            with (
                writing_file(folder / CURVE_FILE) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, fieldnames=list(row))
                writer.writeheader()
                writer.writerow(row)
            save_model(self.fitted.network, replace(self.description, config=config), folder)
            shown = "  ".join(f"{name} {value:.4f}" for name, value in valid.items())
            took, valid_took = duration_text(seconds), duration_text(valid_seconds)
            log.info("%s  %s %s  %s", took, before_valid(self.fitted.exclude), shown, valid_took)
        return StageResult(
            valid, best_epoch=0, epochs=1, steps=0, seconds=seconds + valid_seconds, chosen=chosen or None
        )

    def _chosen(self) -> Any:
        """The settings, those to choose chosen."""
        config = self.description.config
        if not self.climbs:
            return config
        valid = without_repeats(self.valid) if self.fitted.exclude else self.valid
        items = self.description.shape.num_items
        most = max(_FEWEST_CASES, min(_MOST_CASES, _SCORES // max(1, items)))
        drawn = np.sort(np.random.default_rng(self.seed).permutation(len(valid))[:most])
        cases = valid.select(drawn)

        def measure(settings: Any) -> FloatArray:
            found = self.fitted.ranked(settings, cases).per_user([10])[METRIC]
            if is_main_process():
                log.info(
                    "tried %s: %s %s %.4f",
                    self._shown(settings),
                    before_valid(self.fitted.exclude),
                    METRIC,
                    found.mean(),
                )
            return found

        config = climb(config, self.climbs, measure)
        if is_main_process():
            log.info(
                "chosen on %d valid targets: %s; a step counts if it gains more than its standard error",
                len(cases),
                self._shown(config),
            )
        return config

    def _shown(self, config: Any) -> str:
        return ", ".join(f"{name} {getattr(config, name):g}" for name in _unique(self.climbs))


def without_repeats(cases: EvaluationCases) -> EvaluationCases:
    """The cases whose target is not in the history; all, if there are no such cases.

    Where the items of the history are no candidates, a target among them is found by what is best at telling it from items
    that are not: a task that nobody has, and an easy one. On a shop with 5 % repeats it would choose the settings.
    """
    case = np.repeat(np.arange(len(cases)), cases.histories.lengths)
    repeated = np.unique(case[np.asarray(cases.histories.values) == cases.targets[case]])
    return cases.select(np.setdiff1d(np.arange(len(cases)), repeated)) if len(repeated) < len(cases) else cases


def _unique(climbs: Sequence[Climb]) -> list[str]:
    """The names of the settings, each once."""
    return list(dict.fromkeys(each.name for each in climbs))


def plan_closed_form(request: Request, source: ItemSource, recipe: Recipe) -> Plan:
    """The plan of a family whose network is fitted at once.

    Args:
        request: the requested training.
        source: all items of the folder.
        recipe: of the family.

    Raises:
        DataFormatError: there are no training targets, or no valid cases.
    """
    family, training = request.family, request.training
    config = request.config or family.config()
    description = ModelDescription(family, config, None, source.shape)
    network = description.build()
    data = TrainingData.of(
        request.dataset,
        request.split,
        request.users,
        training.valid_users,
        request.seed,
        recipe.scorer(network).max_length,
    )
    asked = request.options.defaults
    open_settings = [each for each in recipe.climbs if asked != FIXED and each.name not in given(config)]
    climbs = [each for each in open_settings if each.name == DECAY or asked == SEARCHED or not recipe.slow]

    def begin() -> None:
        if is_main_process():
            log.info(
                "%s is solved at once: of --training.* only %s are read. %s",
                family.name,
                f"{', '.join(TRAINING_READ[:-1])} and {TRAINING_READ[-1]}",
                recipe.needs(),
            )
            if climbs:
                log.info(
                    "%s: chosen on valid; --%s %s keeps the defaults", ", ".join(_unique(climbs)), DEFAULTS_FLAG, FIXED
                )
            if left := [each for each in open_settings if each not in climbs]:
                log.info(
                    "%s: kept, because each try takes minutes; --%s %s chooses them, too",
                    ", ".join(_unique(left)),
                    DEFAULTS_FLAG,
                    SEARCHED,
                )

    def make(before: Sequence[StageResult]) -> Solve:
        fitted = _Fitted(network, recipe, data, source, training.exclude_history)
        return Solve(fitted, description, data.valid, climbs, request.seed)

    stages = [PlannedStage("", "", make)]
    return Plan(description, network, source, stages, request.options, None, source.settings(), begin)
