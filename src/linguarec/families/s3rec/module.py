"""Training of S3-Rec's first stage with Lightning, which is imported for it alone."""

from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.batching.self_supervised import SelfSupervisedBatch, SelfSupervisedLoader
from linguarec.families.s3rec.model import S3RecLearner
from linguarec.training.module import Stage
from linguarec.training.settings import TrainingSettings


class SelfSupervision(Stage):
    """`S3RecLearner.loss` over the trained items."""

    def __init__(
        self,
        learner: S3RecLearner,
        items: ItemBatch,
        loader: SelfSupervisedLoader,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        super().__init__(learner, loader, settings, seed)
        self.items = items

    def on_fit_start(self) -> None:
        """Move the items to the device once."""
        self.items = self.items.to(self.device)

    def step_loss(self, batch: SelfSupervisedBatch) -> Tensor:
        """This process's share."""
        loss: Tensor = self.model.loss(batch, self.items)  # type: ignore[operator]
        return loss
