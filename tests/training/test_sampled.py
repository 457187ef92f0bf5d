"""Steps over a sample of the items: what they read, what they change, and that processes share them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from two_processes import join, leave, made_by_two

from linguarec.batching.batches import ItemBatch
from linguarec.batching.loader import TrainingLoader
from linguarec.batching.negatives import IntArray, NegativeSampling
from linguarec.families.sasrec.model import SASRec, SASRecConfig
from linguarec.nn.encoders import TransformerConfig, build_encoder
from linguarec.nn.shape import CatalogueShape
from linguarec.training.lazy_adam import LazyAdam
from linguarec.training.module import FineTuning, Stage
from linguarec.training.sampled import SampledTuning
from linguarec.training.settings import TrainingSettings

CLASSES = 80
ENCODER = TransformerConfig(hidden_size=16, heads=2, layers=1, inner_size=16, dropout=0.0, max_length=6)
SETTINGS = TrainingSettings(learning_rate=1e-2, accelerator="cpu")


def items_of(rows: IntArray) -> ItemBatch:
    return ItemBatch(torch.from_numpy(rows), torch.zeros(len(rows), dtype=torch.int64))


def loader_of(exclude_history: bool = True) -> TrainingLoader:
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(2, 7, 40))])
    items = generator.integers(0, CLASSES, offsets[-1]).astype(np.int32)
    return TrainingLoader(items, offsets, 6, 20, None, 0, exclude_history)


def model_of() -> SASRec:
    torch.manual_seed(0)
    return SASRec(SASRecConfig(0.2), CatalogueShape(CLASSES), build_encoder(replace(ENCODER, initializer_range=0.2)))


def sampled(negatives: int, calibration: float | None = None, tables: tuple[str, ...] = ()) -> SampledTuning:
    sampling = NegativeSampling(negatives, 3, calibration)
    return SampledTuning(model_of(), items_of, CLASSES, loader_of(), SETTINGS, 3, sampling, tables)


def gradients_of(stage: Stage, number: int = 0) -> dict[str, Tensor]:
    """Loss and gradients of a step."""
    loss = stage.step_loss(list(stage.loader)[number])
    loss.backward()
    found = {name: p.grad.to_dense() for name, p in stage.model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("tables", [(), ("item.weight",)], ids=["dense", "sparse"])
def test_all_classes_drawn_are_the_step_over_the_catalogue(tables: tuple[str, ...]) -> None:
    whole = FineTuning(model_of(), items_of(np.arange(CLASSES)), loader_of(), SETTINGS, 3)
    assert_same(gradients_of(sampled(CLASSES, tables=tables)), gradients_of(whole))


@pytest.mark.parametrize("calibration", [None, 0.75], ids=["sampled", "gbce"])
def test_no_other_item_is_read_or_gets_a_gradient(calibration: float | None) -> None:
    stage = sampled(10, calibration, ("item.weight",))
    read: list[IntArray] = []
    stage.read_items = lambda rows: read.append(rows) or items_of(rows)  # type: ignore[func-returns-value]
    batch = next(iter(stage.loader))
    stage.step_loss(batch).backward()
    own = torch.cat([batch.sequences.items, batch.sequences.targets]).unique()
    own = set(own[own >= 0].tolist())
    (rows,) = read
    assert own <= set(rows.tolist())
    assert len(set(rows.tolist()) - own) <= 10
    assert len(rows) < CLASSES
    gradient = stage.model.item.weight.grad
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(rows.tolist())
    stage.adam()(stage.model.parameters(), lr=0.1, weight_decay=0.01).step()
    changed = (stage.model.item.weight != model_of().item.weight).any(1).nonzero().squeeze(1)
    assert set(changed.tolist()) == set(rows.tolist())


def test_gradients_are_clipped_as_dense_ones_are() -> None:
    clipped = {}
    for tables in ((), ("item.weight",)):
        stage = sampled(10, tables=tables)
        gradients_of(stage)
        stage.configure_gradient_clipping(stage.adam()(stage.model.parameters()), 0.1, "norm")
        clipped[tables] = {name: p.grad.to_dense() for name, p in stage.model.named_parameters() if p.grad is not None}
    dense = sampled(10)
    gradients_of(dense)
    torch.nn.utils.clip_grad_norm_(dense.model.parameters(), 0.1)
    expected = {name: p.grad for name, p in dense.model.named_parameters() if p.grad is not None}
    assert_same(clipped[()], expected)
    assert_same(clipped[("item.weight",)], expected)


def test_a_step_draws_anew_and_again_the_same() -> None:
    first, again, other = gradients_of(sampled(10)), gradients_of(sampled(10)), gradients_of(sampled(10), 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["loss"] != other["loss"]


def sparse(rows: Tensor, values: Tensor) -> Tensor:
    """A gradient of a table [6, 4]."""
    return torch.sparse_coo_tensor(rows[None], values, (6, 4), check_invariants=True)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lazy_adam_is_adam_where_every_row_is_in_every_step(weight_decay: float) -> None:
    torch.manual_seed(0)
    start, dense = torch.randn(6, 4), torch.randn(4)
    found, expected = ([nn.Parameter(start.clone()), nn.Parameter(dense.clone())] for _ in range(2))
    lazy = LazyAdam(found, lr=0.1, weight_decay=weight_decay)
    adam = torch.optim.AdamW(expected, lr=0.1, weight_decay=weight_decay)
    for _ in range(4):
        gradient, of_dense = torch.randn(6, 4), torch.randn(4)
        order = torch.randperm(6)
        found[0].grad = sparse(order, gradient[order])
        expected[0].grad, found[1].grad, expected[1].grad = gradient, of_dense, of_dense.clone()
        assert lazy.step(lambda: 3.0) == 3.0
        adam.step()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_lazy_adam_leaves_the_other_rows_alone_and_adds_up_a_row_that_comes_twice() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4), torch.randn(1, 4)
    once, twice = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    once.grad = sparse(torch.tensor([2]), gradient)
    twice.grad = sparse(torch.tensor([2, 2]), torch.cat([gradient, gradient]) / 2)
    for table in (once, twice):
        LazyAdam([table], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(once, twice)
    assert torch.equal(once[[0, 1, 3, 4, 5]], start[[0, 1, 3, 4, 5]])
    torch.testing.assert_close(once[2], start[2] - 0.1 * gradient[0].sign(), atol=1e-4, rtol=0)


def test_lazy_adam_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    start = torch.randn(6, 4)
    steps = [sparse(torch.randperm(6)[:3], torch.randn(3, 4)) for _ in range(4)]

    def run(table: nn.Parameter, gradients: list[Tensor], state: dict[str, object] | None = None) -> LazyAdam:
        optimizer = LazyAdam([table], lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for gradient in gradients:
            table.grad = gradient
            optimizer.step()
        return optimizer

    unbroken, broken = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    run(unbroken, steps)
    run(broken, steps[2:], run(broken, steps[:2]).state_dict())
    assert torch.equal(unbroken, broken)


def step_of_process(rank: int, processes: int) -> dict[str, Tensor]:
    stage = sampled(10)
    stage.loader.shard(rank, processes)
    found = gradients_of(stage)
    if processes > 1:
        for value in found.values():
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.SUM)
            value /= processes
    return found


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """The items of both are classes of both, beside the same draw."""
    made, expected = made_by_two(__file__, tmp_path), step_of_process(0, 1)
    for found in made:
        assert_same(found, expected)


if __name__ == "__main__":
    folder, process_rank = sys.argv[1], int(sys.argv[2])
    join(folder, process_rank)
    leave(folder, process_rank, step_of_process(process_rank, 2))
