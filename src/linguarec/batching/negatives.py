"""Losses over a sample of the classes, for large catalogues: the items of the step itself, and a uniform draw of all items.

The items of a step are distributed as the items of the log are, and they are encoded in any case; the uniform draw stands for
the rest. Each class of the sample is weighted by the inverse of the probability that it is in it, which for a sample is the
logQ correction of the logits (Bengio and Senécal, 2008; arXiv 1906.07018).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from linguarec.batching.batches import ClassSample, SequenceBatch

IntArray = npt.NDArray[np.int64]
_PURPOSE = 1  # keeps these draws apart from the loader's, which are seeded with seed and epoch


@dataclass(frozen=True)
class StepClasses:
    """K of C classes, a sample that represents all classes in the loss of one step.

    `classes` [K] int64, ascending, distinct. `certain` [K]: classes of the step itself. `drawn` [K]: classes in the uniform
    draw, in which each of the C classes is with the probability `share`. A class may be both.

    A certain class is always in the sample, so it represents only itself; any other class represents 1 / share classes. So the
    weighted sum over the K classes has the sum over all C as its expectation, whatever the certain ones are, and equals it if
    all classes are drawn.
    """

    classes: IntArray
    certain: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_]
    share: float

    @classmethod
    def draw(cls, certain: IntArray, num_classes: int, drawn: int, seed: int, step: int) -> "StepClasses":
        """The `certain` classes of the whole step, and `drawn` of all classes, sampled uniformly without replacement.

        The draw depends only on seed and step: all processes of a step draw the same one, and so does a resumed run.
        """
        generator = np.random.default_rng([seed, step, _PURPOSE])
        some = np.sort(generator.choice(num_classes, drawn, replace=False, shuffle=False))
        certain = np.unique(certain)
        classes = np.union1d(certain, some)
        return cls(classes, _among(classes, certain), _among(classes, some), drawn / num_classes)

    @property
    def log_weights(self) -> npt.NDArray[np.float32]:
        """[K], the logarithm of how many classes each represents, to be added to its logit."""
        return np.where(self.certain, 0.0, -math.log(self.share)).astype(np.float32)

    def place(self, classes: IntArray) -> IntArray:
        """Index in the sample of each of some classes, which must be in it."""
        return np.searchsorted(self.classes, classes)

    def sample(self, calibration: float | None = None) -> ClassSample:
        """What the loss needs to know of the K classes."""
        return ClassSample(torch.from_numpy(self.certain), torch.from_numpy(self.drawn), self.share, calibration)

    def as_items_of(self, batch: SequenceBatch, calibration: float | None = None) -> SequenceBatch:
        """The batch with the K classes as its items: `items`, `targets` and `excluded` are indices into them.

        Args:
            batch: `items` are classes, which are certain here; -1 in `items` and `targets` stays.
            calibration: see `ClassSample`.
        """
        classes = torch.from_numpy(self.classes).to(batch.items.device)

        def place(of: torch.Tensor) -> torch.Tensor:
            return torch.where(of < 0, of, torch.searchsorted(classes, of))

        excluded = batch.excluded
        if excluded is not None:
            excluded = torch.stack([excluded[:, 0], place(excluded[:, 1].contiguous())], dim=1)
        return replace(
            batch,
            items=place(batch.items),
            targets=place(batch.targets),
            excluded=excluded,
            sample=self.sample(calibration).to(classes.device),
        )


@dataclass(frozen=True)
class NegativeSampling:
    """How the classes of a step are sampled: `negatives` of them are drawn. `calibration`: see `ClassSample`."""

    negatives: int
    seed: int
    calibration: float | None = None

    def draw(self, certain: IntArray, num_classes: int, step: int) -> StepClasses:
        """The classes of a step; see `StepClasses.draw`."""
        return StepClasses.draw(certain, num_classes, min(self.negatives, num_classes), self.seed, step)


def _among(classes: IntArray, some: IntArray) -> npt.NDArray[np.bool_]:
    """[K], which of the `classes` are among `some` of them; both ascending and distinct."""
    found = np.zeros(len(classes), dtype=bool)
    found[np.searchsorted(classes, some)] = True
    return found
