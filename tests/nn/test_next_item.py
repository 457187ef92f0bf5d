"""The loss of next-item models over a sample of the items: by hand, in the limit, and in expectation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.batching.batches import SequenceBatch
from linguarec.batching.negatives import StepClasses
from linguarec.batching.windows import history_pairs
from linguarec.nn import losses
from linguarec.nn.losses import calibrated_binary_cross_entropy
from linguarec.nn.next_item import next_item_loss

CLASSES = 300


def batch_of(items: Tensor, targets: Tensor, excluded: Tensor | None = None) -> SequenceBatch:
    """One sequence."""
    zeros = torch.zeros(1, dtype=torch.int64)
    offsets, positions = torch.tensor([0, len(items)]), torch.arange(len(items))
    return SequenceBatch(items, offsets, positions, targets, zeros, zeros, excluded=excluded)


@pytest.fixture
def case() -> tuple[Tensor, Tensor, SequenceBatch]:
    """Queries near their targets' keys; a target that is asked for often and one of the history; pairs left out."""
    torch.manual_seed(0)
    keys = F.normalize(torch.randn(CLASSES, 8), dim=-1)
    items = torch.randint(CLASSES, (16,))
    targets = torch.cat([torch.full((6,), 17), items[:1], torch.tensor([-1]), torch.randint(CLASSES, (8,))])
    pairs = torch.from_numpy(history_pairs(items.numpy(), np.arange(16), targets.numpy()))
    queries = F.normalize(keys[targets.clamp(min=0)] + 0.4 * torch.randn(16, 8), dim=-1)
    return queries.requires_grad_(), (keys / 0.2).requires_grad_(), batch_of(items, targets, pairs)


def drawn(case: tuple[Tensor, Tensor, SequenceBatch], number: int, step: int, t: float | None = None) -> Tensor:
    """The loss with so many negatives."""
    queries, keys, batch = case
    certain = torch.cat([batch.items, batch.targets[batch.targets >= 0]]).numpy()
    chosen = StepClasses.draw(certain, CLASSES, number, seed=3, step=step)
    return next_item_loss(queries, keys[torch.from_numpy(chosen.classes)], chosen.as_items_of(batch, t))


def gradients(loss: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))


@pytest.mark.parametrize("excluded", [False, True])
def test_all_classes_drawn_are_the_full_softmax(excluded: bool, case: tuple[Tensor, Tensor, SequenceBatch]) -> None:
    queries, keys, batch = case
    batch = batch if excluded else replace(batch, excluded=None)
    full, sampled = next_item_loss(queries, keys, batch), drawn((queries, keys, batch), CLASSES, 0)
    assert torch.equal(sampled, full)
    for found, expected in zip(gradients(sampled, queries, keys), gradients(full, queries, keys), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("number", "bias"), [(40, 0.02), (150, 0.004)])
def test_value_and_gradients_are_the_full_ones_in_expectation(
    number: int, bias: float, case: tuple[Tensor, Tensor, SequenceBatch]
) -> None:
    """But for what the logarithm of a sum that is right in expectation is off; without the weights they are far off."""
    queries, keys, _ = case
    full = next_item_loss(*case)
    exact = gradients(full, queries, keys)
    sums, value, draws = [torch.zeros_like(each) for each in exact], 0.0, 2000
    for step in range(draws):
        loss = drawn(case, number, step)
        value += loss.item() / draws
        for total, each in zip(sums, gradients(loss, queries, keys), strict=True):
            total += each / draws
    assert value == pytest.approx(full.item(), rel=bias)
    for found, expected in zip(sums, exact, strict=True):
        assert (found - expected).norm() < 2 * bias * expected.norm()


def test_without_the_correction_the_expectation_is_another(case: tuple[Tensor, Tensor, SequenceBatch]) -> None:
    queries, keys, batch = case
    full, value = next_item_loss(*case), 0.0
    for step in range(200):
        certain = torch.cat([batch.items, batch.targets[batch.targets >= 0]]).numpy()
        chosen = StepClasses.draw(certain, CLASSES, 40, seed=3, step=step)
        numbered = replace(chosen.as_items_of(batch), sample=None)
        value += next_item_loss(queries, keys[torch.from_numpy(chosen.classes)], numbered).item() / 200
    assert value < 0.9 * full.item()


def test_gbce_by_hand() -> None:
    """Two positions; the target of the second was drawn, the first leaves an item of its history out.

    Scores are the products and log(beta / K), here with beta = 0.4 and K = 3.
    """
    queries = torch.tensor([[1.0], [2.0], [5.0]], requires_grad=True)
    keys = torch.tensor([[0.5], [-1.0], [0.25], [1.0]], requires_grad=True)
    negatives, targets = torch.tensor([False, True, True, True]), torch.tensor([0, 2, -1])
    excluded, beta = torch.tensor([[0, 3], [0, 0], [1, 0], [2, 1]]), 0.4

    def log_sigmoid(value: float) -> float:
        return -math.log1p(math.exp(-value))

    start = math.log(0.4 / 3)
    first = beta * log_sigmoid(0.5 + start) + log_sigmoid(1.0 - start) + log_sigmoid(-0.25 - start)
    second = beta * log_sigmoid(0.5 + start) + log_sigmoid(2.0 - start) + log_sigmoid(-2.0 - start)
    found = calibrated_binary_cross_entropy(queries, keys, targets, negatives, beta, excluded)
    assert found.item() == pytest.approx(-(first + second) / 2 / 4, rel=1e-6)

    logits = queries[:2] @ keys.T + start
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 1]])
    positive = F.logsigmoid(logits[[0, 1], [0, 2]])
    expected = -(beta * positive + (F.logsigmoid(-logits) * mask).sum(1)).mean() / 4
    for one, other in zip(gradients(found, queries, keys), gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_gbce_starts_where_targets_and_negatives_balance(beta: float) -> None:
    """All classes the target once, all drawn but the target: at products of 0 no class is pushed, up or down."""
    classes = 50
    queries = torch.ones(classes, 1)
    keys = torch.zeros(classes, 1, requires_grad=True)
    drawn_all = torch.ones(classes, dtype=torch.bool)
    loss = calibrated_binary_cross_entropy(queries, keys, torch.arange(classes), drawn_all, beta)
    (pushed,) = torch.autograd.grad(loss, keys)
    alone = beta / classes / (classes + 1)  # the pull of one target at a probability near 0
    assert pushed.abs().max() < 0.1 * alone


@pytest.mark.parametrize(("t", "beta"), [(0.0, 1.0), (0.75, 1 - 0.75 * (1 - 0.2)), (1.0, 0.2)])
def test_the_power_of_gbce_follows_from_the_share_and_the_calibration(
    t: float, beta: float, case: tuple[Tensor, Tensor, SequenceBatch]
) -> None:
    """beta = a (t (1 - 1/a) + 1/a) with the sampling rate a, here 60 of 300; negatives are the drawn items alone."""
    queries, keys, batch = case
    chosen = StepClasses.draw(torch.cat([batch.items, batch.targets[batch.targets >= 0]]).numpy(), CLASSES, 60, 3, 0)
    negatives = torch.zeros(CLASSES, dtype=torch.bool)
    negatives[torch.from_numpy(chosen.classes[chosen.drawn])] = True
    assert int(negatives.sum()) == 60
    assert beta == pytest.approx(0.2 * (t * (1 - 1 / 0.2) + 1 / 0.2))
    expected = calibrated_binary_cross_entropy(queries, keys, batch.targets, negatives, beta, batch.excluded)
    torch.testing.assert_close(drawn(case, 60, 0, t), expected)


def test_gbce_in_chunks_and_without_targets(
    case: tuple[Tensor, Tensor, SequenceBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, keys, batch = case
    whole = drawn(case, 60, 0, 0.75)
    monkeypatch.setattr(losses, "_LARGEST_CHUNK", 130)
    torch.testing.assert_close(drawn(case, 60, 0, 0.75), whole)
    none = drawn((queries, keys, replace(batch, targets=torch.full((16,), -1), excluded=None)), 60, 0, 0.75)
    assert none == 0
    assert all(not each.any() for each in gradients(none, queries, keys))
