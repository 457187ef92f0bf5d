"""The first stage of RecGURU's fine-tuning: user vectors that rebuild their sequences and are alike in several shops.

`run/alignment/` gets `metrics.csv`, checkpoints until the stage is done, then the weights of its last epoch and `metrics.json`.
Nothing is validated: the decoder does not know yet what it is to predict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.loader import tokens_of
from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.masked import whole_windows
from linguarec.batching.pretraining import MixedLoader, Mixing
from linguarec.batching.windows import Windows
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.family import Request
from linguarec.families.next_item import NextItemData
from linguarec.families.recguru.model import AlignedShops, RecGURU
from linguarec.families.weights import WEIGHTS_FILE, load_weights, save_weights
from linguarec.training.stages import Fit, PlannedStage, StageResult

FOLDER = "alignment"
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AlignmentSettings:
    """The first stage of RecGURU's fine-tuning, over the shop and those of --sources.

    Args:
        epochs: of this stage; 0 = leave it out. Few are better: after 50 the item vectors rank worse (docs/models/recguru.md).
        reconstruction_epochs: how many of them, from the first on, only rebuild sequences.
        adversary: weight of the loss that makes the user vectors of the shops alike; 0 = only rebuild.
        learning_rate: of this stage.
    """

    epochs: int = 2
    reconstruction_epochs: int = 1
    adversary: float = 0.1
    learning_rate: float = 1e-3

    def check(self) -> None:
        """Raise one error that names every invalid setting."""
        problems = []
        if self.epochs < 0:
            problems.append(f"alignment.epochs is {self.epochs}; it must be at least 0")
        if self.reconstruction_epochs < 0:
            problems.append(f"alignment.reconstruction_epochs is {self.reconstruction_epochs}; it must be at least 0")
        if not self.adversary >= 0:
            problems.append(f"alignment.adversary is {self.adversary}; it must be at least 0")
        if not self.learning_rate > 0:
            problems.append(f"alignment.learning_rate is {self.learning_rate}; it must be above 0")
        if problems:
            raise SettingsError(problems)


class SequenceWindows(Windows):
    """Windows of whole sequences, of which all items but the first are asked for."""

    @property
    def num_targets(self) -> IntArray:
        """Targets of each window, [W]."""
        return self.stop - self.start - 1


class WholeSequenceLoader(MixedLoader):
    """Iterates over whole sequences of several logs; the target of a position is the next item of its window.

    A sequence of more than `max_length` items is cut into windows. `domain` of the batches is that of `logs`.
    """

    def _draw(self, generator: np.random.Generator) -> SequenceWindows:
        user, start, stop = whole_windows(self.offsets, self.max_length, self.max_length)
        return SequenceWindows(user, start, stop, start + 1)

    def _sequences(self, part: IntArray, step: int) -> SequenceBatch:
        windows = self._windows
        flat, offsets, positions = tokens_of(windows.start[part], windows.stop[part])
        items = self.items[flat].astype(np.int64)
        targets = np.roll(items, -1)
        targets[offsets[1:] - 1] = -1
        return SequenceBatch(
            items=torch.from_numpy(items),
            offsets=torch.from_numpy(offsets),
            positions=torch.from_numpy(positions),
            targets=torch.from_numpy(targets),
            users=torch.from_numpy(windows.user[part]),
            domain=torch.from_numpy(self.logs.domain_of_sequence[windows.user[part]]),
        )


def alignment_stage(
    request: Request, settings: AlignmentSettings, sources: Sequence[PreparedDataset]
) -> Callable[[nn.Module, NextItemData], PlannedStage]:
    """The stage that makes item vectors, encoder and decoder from several shops; it keeps those of its last epoch.

    Args:
        request: of the whole fine-tuning; its training settings apply, except those that `settings` overrides.
        settings: of this stage.
        sources: the other shops.

    Returns:
        A function that makes the stage from the network and the data of the shop to recommend in.
    """

    def stage(network: nn.Module, data: NextItemData) -> PlannedStage:
        assert isinstance(network, RecGURU)
        file = request.output / FOLDER / WEIGHTS_FILE
        own = TrainingLog(request.dataset.name, data.read.sequences, request.dataset.num_items)
        others = [TrainingLog.of(each, request.split) for each in sources]
        steps = WholeSequenceLoader(
            TrainingLogs([own, *others]), network.max_length, request.targets_per_part, None, Mixing(), request.seed
        )
        training = replace(
            request.training,
            learning_rate=settings.learning_rate,
            weight_decay=0.0,
            averaging=0.0,
            max_epochs=settings.epochs,
        )

        def keep(shops: nn.Module) -> None:
            assert isinstance(shops, AlignedShops)
            save_weights(shops.model, file)

        def begin(before: Sequence[StageResult]) -> Fit:
            from linguarec.families.recguru.module import Alignment

            torch.manual_seed(request.seed)
            shops = AlignedShops(network, [log.num_items for log in others])
            module = Alignment(shops, steps, settings, training, request.seed)
            return Fit(module, None, keep)  # no valid metric measures an alignment

        title = f"user vectors of {', '.join(log.name for log in (own, *others))}"
        # The file was written before the last checkpoint, at which all processes synchronise.
        return PlannedStage(FOLDER, title, begin, lambda folder: load_weights(network, file))

    return stage
