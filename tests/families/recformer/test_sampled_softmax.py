"""Fine-tuning over a sample of the catalogue: against the softmax over all of it, and shared by processes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from two_processes import join, leave, made_by_two

from linguarec.batching.logs import TrainingLog, TrainingLogs
from linguarec.batching.negatives import StepClasses
from linguarec.batching.pretraining import Mixing
from linguarec.data.ragged import Ragged
from linguarec.families.recformer.loaders import HistoryLoader, JoinedTokens
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.recformer.scorer import encode_tokens
from linguarec.families.recformer.stages import HistoryTuning
from linguarec.nn.losses import catalogue_cross_entropy
from linguarec.text.attributes import ItemTokens
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(
    vocabulary=90, hidden_size=24, layers=2, heads=3, inner_size=32, window=6, max_tokens=40, max_items=5, positions=40,
    first_position=0, initializer_range=0.2,
)  # fmt: skip
ITEMS, CLASSES = 60, 50  # ten items occur in no training sequence
Step = tuple[Tensor, dict[str, Tensor]]


def step_of(drawn: int, number: int = 0, rank: int = 0, processes: int = 1) -> Step:
    """Loss and gradients of one step, without dropout, of one process or of several."""
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(2, 6, ITEMS))])
    ids, types = generator.integers(5, 90, offsets[-1]), generator.integers(1, 3, offsets[-1]).astype(np.uint8)
    tokens = ItemTokens(ids, types, offsets, 2)
    rows = [generator.integers(0, CLASSES, 4).tolist() for _ in range(40)]
    logs = TrainingLogs([TrainingLog("a", Ragged.from_lists(rows), ITEMS)])
    loader = HistoryLoader(logs, JoinedTokens([tokens]), 5, 40, 10, Mixing(), False, seed=0)
    loader.shard(rank, processes)
    torch.manual_seed(0)
    model = Recformer(replace(CONFIG, sampled_negatives=drawn)).eval()
    keys = encode_tokens(model, tokens, "cpu")
    tuning = HistoryTuning(model, None, torch.arange(CLASSES), loader, TrainingSettings(), seed=3, keys=keys)  # type: ignore[arg-type]
    loss = tuning.step_loss(list(loader)[number])
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if processes > 1:
        for gradient in [loss.data, *gradients.values()]:
            torch.distributed.all_reduce(gradient, torch.distributed.ReduceOp.SUM)
            gradient /= processes
    return loss.detach(), gradients


def assert_same(found: Step, expected: Step) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4, msg=lambda t, n=name: f"{n}: {t}")


def test_all_classes_or_more_are_the_full_softmax() -> None:
    full = step_of(0)
    assert_same(step_of(CLASSES), full)
    assert_same(step_of(10**6), full)


def test_each_step_draws_anew_and_a_resumed_one_the_same() -> None:
    assert_same(step_of(8, number=2), step_of(8, number=2))
    assert abs(float(step_of(8)[0]) - float(step_of(0)[0])) > 1e-3


@pytest.mark.parametrize(("drawn", "bias"), [(100, 0.02), (400, 0.004)])
def test_loss_and_gradient_are_those_of_the_full_softmax_in_expectation(drawn: int, bias: float) -> None:
    """But for what the logarithm of a sum that is right in expectation is off, in proportion to 1 / drawn."""
    torch.manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(1000, 8), dim=-1)
    # Half of the targets are one item: as the others' negative it must not count for more than it is.
    targets = torch.cat([torch.full((8,), 17), torch.randint(1000, (8,))])
    queries = torch.nn.functional.normalize(keys[targets] + 0.3 * torch.randn(16, 8), dim=-1).requires_grad_()
    keys = keys / 0.2
    full = catalogue_cross_entropy(queries, keys, targets)
    (exact,) = torch.autograd.grad(full, queries)

    def mean_over_draws(weighted: bool) -> tuple[float, Tensor]:
        losses, gradients, draws = 0.0, torch.zeros_like(exact), 1500
        for step in range(draws):
            chosen = StepClasses.draw(targets.numpy(), 1000, drawn, seed=0, step=step)
            place, weights = torch.from_numpy(chosen.place(targets.numpy())), torch.from_numpy(chosen.log_weights)
            loss = catalogue_cross_entropy(queries, keys[chosen.classes], place, weights if weighted else None)
            gradients += torch.autograd.grad(loss, queries)[0] / draws
            losses += loss.item() / draws
        return losses, gradients

    loss, gradient = mean_over_draws(weighted=True)
    assert loss == pytest.approx(full.item(), rel=0.01)
    assert (gradient - exact).norm() < bias * exact.norm()
    loss, gradient = mean_over_draws(weighted=False)
    assert loss < 0.9 * full.item()
    assert (gradient - exact).norm() > 4 * bias * exact.norm()


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """The targets of both are classes of both, beside the same draw."""
    made, expected = made_by_two(__file__, tmp_path), step_of(8)
    for found in made:
        assert_same(found, expected)


if __name__ == "__main__":
    folder, process_rank = sys.argv[1], int(sys.argv[2])
    join(folder, process_rank)
    leave(folder, process_rank, step_of(8, rank=process_rank, processes=2))
