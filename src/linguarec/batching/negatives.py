"""The classes of one step where a softmax over the whole catalogue is too dear: the targets of the step, and some drawn."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PURPOSE = 1  # parts these draws from those of the loader, which are named by seed and epoch


@dataclass(frozen=True)
class StepClasses:
    """K of C classes, which stand for all of them in one step.

    `classes` [K] int64, ascending, each once. `log_weights` [K] float32: the logarithm of how many classes each stands for,
    to be added to its logit.

    A target of the step is there in any case, so it stands for itself; any other class is there with probability drawn / C
    and stands for C / drawn. So the weighted sum over the K is that over the C in expectation, whatever the targets are, and
    exactly so where all are drawn.
    """

    classes: npt.NDArray[np.int64]
    log_weights: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, targets: npt.NDArray[np.int64], num_classes: int, drawn: int, seed: int, step: int) -> "StepClasses":
        """The targets [B] of the whole step and `drawn` of all classes, uniformly and without replacement.

        The draw follows from seed and step: processes that share the step make the same one, and so does a resumed run.
        """
        generator = np.random.default_rng([seed, step, _PURPOSE])
        classes = np.union1d(targets, generator.choice(num_classes, drawn, replace=False, shuffle=False))
        log_weights = np.where(np.isin(classes, targets), 0.0, np.log(num_classes / drawn))
        return cls(classes, log_weights.astype(np.float32))

    def place(self, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where in `classes` each of some targets of the step is."""
        return np.searchsorted(self.classes, targets)
