"""Training of RecGURU's first stage with Lightning, which is imported for it alone."""

import numpy as np
import torch
from torch import Tensor

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.loader import TrainingBatch
from linguarec.families.recguru.alignment import AlignmentSettings, WholeSequenceLoader
from linguarec.families.recguru.model import AlignedShops
from linguarec.training.module import Stage
from linguarec.training.settings import TrainingSettings


class Alignment(Stage):
    """L_rec, and after the first epochs also the adversary. The classes of a shop are its items that occur in training."""

    def __init__(
        self,
        shops: AlignedShops,
        loader: WholeSequenceLoader,
        alignment: AlignmentSettings,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        super().__init__(shops, loader, settings, seed)
        self.alignment = alignment
        first = np.cumsum([0, *(log.num_items for log in loader.logs.logs)])
        self.first_item = torch.from_numpy(first)
        self.known = torch.from_numpy(np.unique(loader.logs.sequences.values).astype(np.int64))
        self.first_class = torch.searchsorted(self.known, self.first_item)

    def on_fit_start(self) -> None:
        """Move the classes to the device once."""
        self.known = self.known.to(self.device)

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        """L_rec and the weighted L_dis, scaled to this process's share of the step."""
        assert isinstance(self.model, AlignedShops)
        rebuilt, guessed = self.model.losses(*self.of_shops(batch.sequences))
        first = batch.step < self.alignment.reconstruction_epochs * len(self.loader)
        return rebuilt * batch.loss_scale + (0.0 if first else self.alignment.adversary) * guessed

    def of_shops(self, batch: SequenceBatch) -> tuple[list[SequenceBatch], list[Tensor]]:
        """The sequences of each shop with its own rows and classes, and the rows of its classes."""
        lengths = batch.offsets.diff()
        owner = batch.domain.repeat_interleave(lengths)
        parts, classes = [], []
        for shop, (first, start, stop) in enumerate(
            zip(self.first_item.tolist(), self.first_class.tolist(), self.first_class[1:].tolist(), strict=False)
        ):
            own, tokens = batch.domain == shop, owner == shop
            targets = batch.targets[tokens]
            of_class = torch.searchsorted(self.known, targets) - start
            parts.append(
                SequenceBatch(
                    items=batch.items[tokens] - first,
                    offsets=torch.cat([lengths.new_zeros(1), lengths[own].cumsum(0)]),
                    positions=batch.positions[tokens],
                    targets=torch.where(targets < 0, -1, of_class),
                    users=batch.users[own],
                    domain=batch.domain[own],
                )
            )
            classes.append(self.known[start:stop] - first)
        return parts, classes
