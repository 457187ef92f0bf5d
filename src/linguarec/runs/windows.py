"""Several comparisons on successive windows of time, and their mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.moments import moment_text
from linguarec.data.splits import TEST, TRAIN
from linguarec.data.splitting import times_of
from linguarec.evaluation.report import Section, Table
from linguarec.runs.comparison import Compared

Means = dict[str, dict[str, dict[str, float]]]  # protocol -> system -> metric -> value
_EXPLAINED = (
    "Every model is trained on what lies before a window of time, and tested on the targets in it; what is later is left out. "
    "The mean counts each window once. All other figures of this report are of the newest window."
)


@dataclass(frozen=True)
class Window:
    """One window of time. `first`, `last`: times of its test targets; `training`: number of interactions before it.

    `medians`: protocol -> system -> metric -> median over the seeds.
    """

    split: str
    first: str
    last: str
    training: int
    users: int
    medians: Means

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "split": self.split,
            "test_from": self.first,
            "test_until": self.last,
            "training": self.training,
            "users": self.users,
            "systems": self.medians,
        }


@dataclass(frozen=True)
class Windows:
    """Windows of one folder, the oldest first; each model was trained before each of them."""

    windows: list[Window]

    @classmethod
    def of(cls, dataset: PreparedDataset, compared: Sequence[Compared]) -> "Windows":
        """Of the comparison in each window, in any order."""
        times, found = times_of(dataset), []
        for each in compared:
            roles = dataset.roles(each.split)
            tested = times[roles == TEST]
            medians = {
                protocol: {
                    name: {metric: system.median(metric) for metric in system.seeds} for name, system in of.items()
                }
                for protocol, of in each.comparison.systems.items()
            }
            first, last = int(tested.min()), int(tested.max())
            training = int(np.count_nonzero(roles == TRAIN))
            window = Window(each.split, moment_text(first), moment_text(last), training, each.comparison.users, medians)
            found.append((first, window))
        return cls([window for _, window in sorted(found, key=lambda pair: pair[0])])

    @property
    def means(self) -> Means:
        """Mean over the windows, each counting once, of the systems that are in all of them."""
        return {
            protocol: {
                name: {
                    metric: float(np.mean([each.medians[protocol][name][metric] for each in self.windows]))
                    for metric in values
                }
                for name, values in of.items()
                if all(name in each.medians.get(protocol, {}) for each in self.windows)
            }
            for protocol, of in self.windows[-1].medians.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form: `windows` and `mean_of_windows`."""
        return {"windows": [each.to_dict() for each in self.windows], "mean_of_windows": self.means}

    @property
    def systems(self) -> list[str]:
        """Names of all systems."""
        return list(dict.fromkeys(name for each in self.windows for of in each.medians.values() for name in of))

    def section(self, metric: str) -> Section:
        """Of the report: the table, and which windows lack a system."""
        notes = []
        for name in self.systems:
            lacking = [each.first[:10] for each in self.windows if all(name not in of for of in each.medians.values())]
            if lacking:
                notes.append(f"{name} was not trained for the windows from {', '.join(lacking)}, so it has no mean.")
        return Section("Windows of time", _EXPLAINED, self._table(metric), note=" ".join(notes))

    def _table(self, metric: str) -> Table:
        """A row for each protocol and system: the metric in each window, and its mean."""
        means, rows = self.means, []
        for protocol in self.windows[-1].medians:
            for name in self.systems:
                values = [each.medians.get(protocol, {}).get(name, {}).get(metric) for each in self.windows]
                values.append(means[protocol].get(name, {}).get(metric))
                if any(value is not None for value in values):
                    rows.append([f"{name}, {protocol}", *("" if v is None else f"{v:.4f}" for v in values)])
        return Table([metric, *(f"from {each.first[:10]}" for each in self.windows), "mean"], rows)
