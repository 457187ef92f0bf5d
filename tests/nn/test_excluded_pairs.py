"""Pairs that are left out of the catalogue softmax, against a softmax under a dense mask."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.nn import losses
from linguarec.nn.losses import catalogue_cross_entropy

# Two histories of items, 2 5 2 7 | 5 5 3: with repeats, a target that is in its history (5 at 1), a first position, one (6)
# without a target.
TARGETS = torch.tensor([5, 5, 7, 0, 5, 3, -1])
HISTORIES = [[2], [2, 5], [2, 5, 2], [2, 5, 2, 7], [5], [5, 5], [5, 5, 3]]
PAIRS = torch.tensor([(row, item) for row, history in enumerate(HISTORIES) for item in history])


def inputs(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return scale * torch.randn(7, 8), torch.randn(11, 8)


def dense_cross_entropy(queries: Tensor, keys: Tensor, log_weights: float | Tensor = 0.0) -> Tensor:
    """The same mean over whole rows of logits."""
    logits = queries @ keys.T + log_weights
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for row, history in enumerate(HISTORIES):
        for item in history:
            mask[row, item] = item != TARGETS[row]
    return F.cross_entropy(logits.masked_fill(mask, -torch.inf), TARGETS, ignore_index=-1)


def with_gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("largest_chunk", [1 << 25, 25, 1])
def test_loss_and_gradients_equal_a_dense_mask(
    scale: float, largest_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_LARGEST_CHUNK", largest_chunk)
    queries, keys = (values.requires_grad_() for values in inputs(scale))
    found = with_gradients(catalogue_cross_entropy(queries, keys, TARGETS, excluded=PAIRS), queries, keys)
    expected = with_gradients(dense_cross_entropy(queries, keys), queries, keys)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    kept = catalogue_cross_entropy(queries, keys, TARGETS)
    assert found[0] < kept - 0.01


def test_the_order_of_the_pairs_does_not_matter() -> None:
    queries, keys = inputs()
    expected = catalogue_cross_entropy(queries, keys, TARGETS, excluded=PAIRS)
    assert torch.equal(catalogue_cross_entropy(queries, keys, TARGETS, excluded=PAIRS.flip(0)), expected)


def test_no_pairs_change_nothing() -> None:
    queries, keys = inputs()
    expected = catalogue_cross_entropy(queries, keys, TARGETS)
    assert torch.equal(catalogue_cross_entropy(queries, keys, TARGETS, excluded=PAIRS[:0]), expected)


def test_keys_may_stand_for_a_larger_catalogue_too() -> None:
    queries, keys = (values.requires_grad_() for values in inputs())
    log_weights = torch.tensor([1, 2, 4, 1, 5, 1, 2, 1, 9, 1, 1]).float().log()
    loss = catalogue_cross_entropy(queries, keys, TARGETS, log_weights, PAIRS)
    expected = with_gradients(dense_cross_entropy(queries, keys, log_weights), queries, keys)
    torch.testing.assert_close(with_gradients(loss, queries, keys), expected)


def test_a_history_that_holds_nearly_all_the_probability_leaves_the_rest_exact() -> None:
    """The excluded item has a logit of 200, the others 0, 1 and 2: a difference of sums would have no digit left."""
    queries = torch.ones(1, 1, requires_grad=True)
    keys = torch.tensor([[200.0], [0.0], [1.0], [2.0]], requires_grad=True)
    loss = catalogue_cross_entropy(queries, keys, torch.tensor([1]), excluded=torch.tensor([[0, 0]]))
    share = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    torch.testing.assert_close(loss, -share[0].log())
    loss.backward()
    assert keys.grad is not None
    torch.testing.assert_close(keys.grad.flatten(), torch.cat([torch.zeros(1), share - torch.tensor([1.0, 0, 0])]))


def test_a_target_whose_competitors_are_all_in_the_history_is_certain() -> None:
    queries, keys = (values[:3].clone().requires_grad_() for values in inputs())
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    loss, *gradients = with_gradients(
        catalogue_cross_entropy(queries, keys, torch.tensor([0, 1, 2]), excluded=pairs), queries, keys
    )
    assert loss == 0
    assert all(torch.equal(gradient, torch.zeros(3, 8)) for gradient in gradients)


def test_under_autocast_it_is_close_to_float32() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(500, 64, requires_grad=True), (torch.randn(300, 64) / 4).requires_grad_()
    targets, pairs = torch.randint(300, (500,)), torch.stack([torch.arange(4000) % 500, torch.randint(300, (4000,))], 1)
    exact = with_gradients(catalogue_cross_entropy(queries, keys, targets, excluded=pairs), queries, keys)
    with torch.autocast("cpu", torch.bfloat16):
        loss = catalogue_cross_entropy(queries, keys, targets, excluded=pairs)
    found = with_gradients(loss, queries, keys)
    torch.testing.assert_close(found[0], exact[0], atol=2e-3, rtol=0)
    for gradient, expected in zip(found[1:], exact[1:], strict=True):
        assert (gradient - expected).norm() < 0.01 * expected.norm()


def test_without_targets_it_is_zero() -> None:
    queries, keys = inputs()
    none = torch.full((7,), -1)
    assert catalogue_cross_entropy(queries, keys, none, excluded=PAIRS) == 0
