"""Sampled softmax for large catalogues: the classes of a step are its targets and a uniform sample of all items."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_PURPOSE = 1  # keeps these draws apart from the loader's, which are seeded with seed and epoch


@dataclass(frozen=True)
class StepClasses:
    """K of C classes, a sample that represents all classes in the softmax of one step.

    `classes` [K] int64, ascending, distinct. `log_weights` [K] float32: the logarithm of how many classes each represents,
    to be added to its logit.

    A target of the step is always in the sample, so it represents only itself; any other class is in the sample with
    probability drawn / C and represents C / drawn classes. So the weighted sum over the K classes has the sum over all C as its
    expectation, whatever the targets are, and equals it if all classes are drawn.
    """

    classes: npt.NDArray[np.int64]
    log_weights: npt.NDArray[np.float32]

    @classmethod
    def draw(cls, targets: npt.NDArray[np.int64], num_classes: int, drawn: int, seed: int, step: int) -> "StepClasses":
        """The targets [B] of the whole step, and `drawn` of all classes, sampled uniformly without replacement.

        The sample depends only on seed and step: all processes of a step draw the same one, and so does a resumed run.
        """
        generator = np.random.default_rng([seed, step, _PURPOSE])
        classes = np.union1d(targets, generator.choice(num_classes, drawn, replace=False, shuffle=False))
        log_weights = np.where(np.isin(classes, targets), 0.0, np.log(num_classes / drawn))
        return cls(classes, log_weights.astype(np.float32))

    def place(self, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Index in `classes` of each of the `targets`, which must be targets of the step."""
        return np.searchsorted(self.classes, targets)
