"""What every model with a pre-training loss must do, with either sequence encoder."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prepared import HeldItems
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import join, leave, made_by_two

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.pretraining import (
    MixedLoader,
    Mixing,
    NegativeSettings,
    PretrainingBatch,
    PretrainingLoader,
    ViewSettings,
)
from linguarec.data.ragged import Ragged
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import EncoderConfig, GRUConfig, PoolingConfig, TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.joined import JoinedItems

WIDTH, CODE_BOOKS, CENTROIDS = 8, 4, 16
# A family without a sequence encoder brings a suite of its own, as test_token_models.py.
PRETRAINABLE = [name for name, family in FAMILIES.items() if family.pretraining is not None and family.encoders]
ENCODERS: dict[str, EncoderConfig] = {
    "transformer": TransformerConfig(hidden_size=16, inner_size=16, dropout=0.2, max_length=8),
    "gru": GRUConfig(hidden_size=16, inner_size=16, dropout=0.2, max_length=8),
    "pooling": PoolingConfig(hidden_size=16, inner_size=16, dropout=0.2, max_length=8),
}


def make_model(name: str, encoder: str) -> nn.Module:
    torch.manual_seed(0)
    shape = CatalogueShape(0, WIDTH, CODE_BOOKS, CENTROIDS)
    return ModelDescription(FAMILIES[name], FAMILIES[name].config(), ENCODERS[encoder], shape).build()


def make_loader(name: str) -> PretrainingLoader:
    """Two small domains; few items, so that steps hold the same target several times."""
    generator = np.random.default_rng(0)
    logs, items = [], []
    for number in range(2):
        rows = [generator.integers(12, size=length).tolist() for length in generator.integers(2, 7, size=20)]
        vectors = generator.standard_normal((2, 12, WIDTH)).astype(np.float32)
        codes = generator.integers(CENTROIDS, size=(12, CODE_BOOKS)).astype(np.uint8)
        logs.append(TrainingLog(f"d{number}", Ragged.from_lists(rows), 12))
        items.append(HeldItems(12, vectors[0], codes, [vectors[1]]))
    steps, joined = MixedLoader(TrainingLogs(logs), 8, 40, None, Mixing(), seed=0), JoinedItems(items)  # type: ignore[arg-type]
    return PretrainingLoader(steps, joined, ViewSettings(), NegativeSettings(), CENTROIDS)


def step_gradients(name: str, rank: int, processes: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the first step, without dropout and gate noise, of one process or of several under DDP."""
    model = make_model(name, "transformer").eval()
    loader = make_loader(name)
    loader.shard(rank, processes)
    trained: nn.Module = PretrainingLoss(model)
    if processes > 1:
        # The gate noise of UniSRec's adaptor is not used in evaluation mode.
        trained = DistributedDataParallel(trained, find_unused_parameters=True)
    loss = trained(next(iter(loader)))
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.detach(), gradients


class PretrainingLoss(nn.Module):
    """DDP wraps what `forward` computes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PretrainingBatch) -> Tensor:
        loss: Tensor = self.model.pretrain_loss(batch)  # type: ignore[operator]
        return loss


def test_the_published_systems_are_there() -> None:
    assert {"unisrec", "vqrec", "zesrec"} <= set(PRETRAINABLE)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", PRETRAINABLE)
def test_every_parameter_gets_a_gradient(name: str, encoder: str) -> None:
    model = make_model(name, encoder).train()
    for batch in make_loader(name):
        model.pretrain_loss(batch).backward()
    parameters = {
        key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    assert parameters == set()


@pytest.mark.parametrize("name", PRETRAINABLE)
@torch.no_grad()
def test_one_pass_a_user_equals_one_row_a_prefix(name: str) -> None:
    """The released protocol has a row for every prefix of a sequence; all positions of one pass are the same pairs."""
    model = make_model(name, "transformer").eval()
    batch = replace(next(iter(make_loader(name))), augmented=None)
    rows = batch.sequences
    prefixes = [
        (int(start), int(end), number)
        for number, (start, stop) in enumerate(zip(rows.offsets[:-1], rows.offsets[1:], strict=True))
        for end in range(int(start) + 1, int(stop) + 1)
    ]
    lengths = torch.tensor([end - start for start, end, _ in prefixes])
    index = torch.cat([torch.arange(start, end) for start, end, _ in prefixes])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    targets = torch.full((len(index),), -1)
    targets[offsets[1:] - 1] = rows.targets[[end - 1 for _, end, _ in prefixes]]
    owners = torch.tensor([number for _, _, number in prefixes])
    one_each = SequenceBatch(
        rows.items[index], offsets, rows.positions[index], targets, rows.users[owners], rows.domain[owners]
    )
    expected = model.pretrain_loss(replace(batch, sequences=one_each))
    torch.testing.assert_close(model.pretrain_loss(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PRETRAINABLE)
def test_two_processes_take_the_step_of_one(name: str, tmp_path: Path) -> None:
    loss, gradients = step_gradients(name, 0, 1)
    losses, of_each = zip(*made_by_two(__file__, tmp_path, [name], timeout=120), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss, atol=1e-5, rtol=1e-5)
    for found in of_each:
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                found[key], gradient, atol=1e-5, rtol=1e-5, msg=lambda text, k=key: f"{k}: {text}"
            )


if __name__ == "__main__":
    model_name, folder, process_rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    join(folder, process_rank)
    leave(folder, process_rank, step_gradients(model_name, process_rank, 2))
