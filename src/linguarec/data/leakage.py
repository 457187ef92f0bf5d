"""Training interactions that are later than the targets that a model is tested on.

In leave-one-out every user has an own test moment, while other users go on: a model is trained on interactions that nobody
could know at that moment (Ji, Sun, Zhang and Li, "A critical study on data leakage in recommender system offline evaluation",
TOIS 2023). A split by one moment for all users has none of it.
"""

from dataclasses import dataclass

import numpy as np

from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import TEST, TRAIN, Roles


@dataclass(frozen=True)
class Leakage:
    """How much of the training is later than the test targets.

    `targets`: number of test targets; `exposed`: those that are older than the last training interaction. `training`: number of
    training interactions; `share`: the fraction of them that is later than a target, mean over the targets.
    """

    targets: int
    exposed: int
    training: int
    share: float

    @classmethod
    def of(cls, dataset: PreparedDataset, roles: Roles) -> "Leakage | None":
        """Of a split; None = times are not known, or nothing is trained or tested."""
        if dataset.timestamps is None:
            return None
        training, targets = np.sort(dataset.timestamps[roles == TRAIN]), dataset.timestamps[roles == TEST]
        if len(training) == 0 or len(targets) == 0:
            return None
        later = len(training) - np.searchsorted(training, targets, side="right")
        share = float(later.mean() / len(training))
        return cls(len(targets), int(np.count_nonzero(later)), len(training), share)

    def told(self, split: str) -> str:
        """As a warning; empty where there is none."""
        if not self.exposed:
            return ""
        return (
            f"{split}: {self.share:.1%} of the training interactions are later than a test target (mean over {self.targets:,} "
            f"targets, {self.exposed:,} of which have such interactions). No model of a shop knows them when it recommends, so "
            "the figures are too good for a forecast; --split temporal trains on the past alone"
        )
