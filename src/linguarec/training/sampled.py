"""Training of next-item models over a sample of the items in each step, for catalogues beyond memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingBatch
from linguarec.batching.negatives import IntArray, NegativeSampling
from linguarec.nn.gathering import Gathering
from linguarec.training.lazy_adam import LazyAdam
from linguarec.training.module import Stage, StepLoader
from linguarec.training.settings import TrainingSettings


class SampledTuning(Stage):
    """`model.finetune_loss` over the items of the step and a draw of all items: no other item is read or encoded.

    Args:
        items: reads the items with some class numbers [K].
        num_classes: C, the number of classes.
        sampling: how many are drawn, and the loss over them.
        tables: names of the model's item tables. Those that are an `nn.Embedding` get sparse gradients, and are updated in
            the rows of the step (`LazyAdam`).
    """

    def __init__(
        self,
        model: nn.Module,
        items: Callable[[IntArray], ItemBatch],
        num_classes: int,
        loader: StepLoader,
        settings: TrainingSettings,
        seed: int,
        sampling: NegativeSampling,
        tables: Sequence[str] = (),
    ) -> None:
        super().__init__(model, loader, settings, seed)
        self.read_items = items
        self.num_classes = num_classes
        self.sampling = sampling
        modules = [model.get_submodule(name.rpartition(".")[0]) for name in tables]
        self.tables = [table for table in modules if isinstance(table, nn.Embedding)]
        for table in self.tables:
            table.sparse = True

    def on_fit_start(self) -> None:
        """On several GPUs the tables' gradients are dense: NCCL cannot sum up sparse ones."""
        if self.trainer.world_size > 1 and self.device.type == "cuda":
            for table in self.tables:
                table.sparse = False

    def step_loss(self, batch: TrainingBatch) -> Tensor:
        """Mean over the targets of this process, times the step's `loss_scale`."""
        sequences = batch.sequences
        own = torch.cat([sequences.items, sequences.targets]).unique()
        own = own[own >= 0]
        of_step = Gathering.of(own).whole(own)
        chosen = self.sampling.draw(of_step.cpu().numpy(), self.num_classes, batch.step)
        items = self.read_items(chosen.classes).to(self.device)
        sampled = chosen.as_items_of(sequences, self.sampling.calibration)
        mean: Tensor = self.model.finetune_loss(sampled, items)  # type: ignore[operator]
        return mean * batch.loss_scale

    def adam(self) -> Callable[..., torch.optim.Optimizer]:
        """Adam that updates item tables in the rows of the step."""
        return LazyAdam

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients together, as Lightning does; torch's own function knows no sparse ones."""
        if not gradient_clip_val:
            return
        values = []
        for parameter in self.model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                values.append(parameter.grad.values())
            elif parameter.grad is not None:
                values.append(parameter.grad)
        norm = torch.nn.utils.get_total_norm(values)
        for value in values:
            value.mul_((gradient_clip_val / (norm + 1e-6)).clamp(max=1.0))
