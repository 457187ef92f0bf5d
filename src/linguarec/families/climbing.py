"""Chooses settings of a model that is fitted at once: from the defaults uphill by valid metrics, one setting after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linguarec.evaluation.metrics import FloatArray
from linguarec.ranges import Between, ranges_of


@dataclass(frozen=True)
class Climb:
    """One setting that is varied within its declared range (see `linguarec.ranges.tuned`).

    `name`: of the setting. `step`: added to it, or, where the range is by logarithm, multiplied with it.
    """

    name: str
    step: float

    def beside(self, config: Any, upwards: bool) -> Any | None:
        """The settings with the next value of this one; None where the range ends."""
        bounds, value = ranges_of(config)[self.name], getattr(config, self.name)
        assert isinstance(bounds, Between)
        if bounds.log:
            value = value * self.step if upwards else value / self.step
        else:
            value = round(value + (self.step if upwards else -self.step), 9)  # 0.7 + 0.1 is not 0.8
        return replace(config, **{self.name: value}) if bounds.holds(value) else None


def climb(start: Any, climbs: Sequence[Climb], measure: Callable[[Any], FloatArray]) -> Any:
    """The settings that no step from `start` made better, or not clearly.

    A step is taken where the mean over the users grows by more than its standard error, user by user: with few users that is
    seldom, and the defaults stay.

    Args:
        start: settings to begin with.
        climbs: settings to vary, in this order.
        measure: the metric of each user with some settings; called once for each settings.
    """
    best, found = start, {start: measure(start)}

    def better(candidate: Any) -> bool:
        if candidate not in found:
            found[candidate] = measure(candidate)
        gains = found[candidate] - found[best]
        return len(gains) > 1 and bool(gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)))

    for each in climbs:
        for upwards in (True, False):
            before = best
            while (candidate := each.beside(best, upwards)) is not None and better(candidate):
                best = candidate
            if best is not before:  # what is behind was worse
                break
    return best
