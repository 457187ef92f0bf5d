"""Over which items the loss of a step runs, for every family that is trained by next items."""

from dataclasses import dataclass
from typing import Literal

from linguarec.batching.negatives import NegativeSampling
from linguarec.errors import SettingsError
from linguarec.given import given


@dataclass(frozen=True)
class SoftmaxSettings:
    """The classes of a step's loss.

    Args:
        kind: full = all items of the training; sampled = those of the step and a random draw, with the logQ correction; gbce
            = binary cross-entropy over a random draw (gSASRec's loss). The latter two cost what the step costs,
            however many items there are.
        negatives: items that a step draws of all, without repetition.
        calibration: gbce: 0 = plain binary cross-entropy, which scores too high; 1 = fully corrected for the draw.
    """

    kind: Literal["full", "sampled", "gbce"] = "full"
    negatives: int = 1024
    calibration: float = 0.75

    def check(self) -> None:
        """Raise one error that names every invalid setting."""
        problems = []
        if self.negatives < 1:
            problems.append(f"softmax.negatives is {self.negatives}; it must be at least 1")
        if not 0 <= self.calibration <= 1:
            problems.append(f"softmax.calibration is {self.calibration}; it must be in [0, 1]")
        asked = given(self)
        if self.kind == "full" and "negatives" in asked:
            problems.append("softmax.negatives is for --softmax.kind sampled or gbce; the full softmax draws none")
        if self.kind != "gbce" and "calibration" in asked:
            problems.append("softmax.calibration is for --softmax.kind gbce")
        if problems:
            raise SettingsError(problems)

    def sampling(self, num_classes: int, seed: int) -> NegativeSampling | None:
        """How the classes of a step are sampled; None = all of them are its classes.

        A sampled softmax that would draw all classes is the full one.
        """
        if self.kind == "full" or (self.kind == "sampled" and self.negatives >= num_classes):
            return None
        return NegativeSampling(self.negatives, seed, self.calibration if self.kind == "gbce" else None)
