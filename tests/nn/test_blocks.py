"""Layout, adaptor, code embedding and loss against their plain formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.families.unisrec.adaptor import MixtureOfExpertsAdaptor
from linguarec.families.vqrec.code_embedding import CodeEmbedding
from linguarec.nn import losses
from linguarec.nn.losses import catalogue_cross_entropy
from linguarec.nn.ragged import RaggedLayout


def test_layout_gathers_sequences_of_one_length_and_puts_them_back() -> None:
    offsets = torch.tensor([0, 3, 3, 4, 7, 9])  # lengths 3, 0, 1, 3, 2
    layout = RaggedLayout.of(offsets)
    assert layout.blocks == ((1, 1), (1, 2), (2, 3))
    tokens = torch.arange(9)
    assert layout.to_blocks(tokens).tolist() == [3, 7, 8, 0, 1, 2, 4, 5, 6]
    assert torch.equal(layout.from_blocks(layout.to_blocks(tokens)), tokens)


def test_layout_of_sorted_sequences_moves_nothing() -> None:
    layout = RaggedLayout.of(torch.tensor([0, 1, 2, 5]))
    assert layout.order is None
    assert layout.blocks == ((2, 1), (1, 3))


def test_adaptor_is_the_sum_of_gated_whitenings() -> None:
    torch.manual_seed(0)
    adaptor = MixtureOfExpertsAdaptor(12, 5, experts=3, dropout=0.2, deviation=0.1).eval()
    for parameter in adaptor.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(7, 12)
    gates = (features @ adaptor.gate).softmax(-1)
    expected = sum(
        gates[:, e, None] * ((features - adaptor.shift[e]) @ adaptor.weight[e].T) for e in range(adaptor.experts)
    )
    torch.testing.assert_close(adaptor(features), expected, atol=1e-5, rtol=1e-5)


def test_adaptor_noise_is_drawn_while_training_only() -> None:
    torch.manual_seed(0)
    adaptor = MixtureOfExpertsAdaptor(12, 5, experts=3, dropout=0.0, deviation=0.1)
    features = torch.randn(7, 12)
    assert not torch.equal(adaptor(features), adaptor(features))
    adaptor.eval()
    assert torch.equal(adaptor(features), adaptor(features))


def test_code_embedding_is_the_mean_over_sub_spaces() -> None:
    torch.manual_seed(0)
    table = CodeEmbedding(code_books=3, centroids=4, hidden_size=6, deviation=1.0)
    codes = torch.tensor([[0, 3, 1], [2, 2, 2]])
    expected = torch.stack([sum(table.weight[4 * m + code[m]] for m in range(3)) / 3 for code in codes])
    torch.testing.assert_close(table(codes), expected)


def loss_and_gradients(loss_of: Callable[[Tensor, Tensor], Tensor], *inputs: Tensor) -> list[Tensor]:
    leaves = [values.clone().requires_grad_() for values in inputs]
    loss = loss_of(*leaves)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


@pytest.mark.parametrize("largest_chunk", [1 << 25, 25, 1])
def test_loss_is_the_mean_cross_entropy_of_positions_with_a_target(
    largest_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_LARGEST_CHUNK", largest_chunk)
    torch.manual_seed(0)
    queries, keys = torch.randn(6, 8), torch.randn(11, 8)
    targets = torch.tensor([3, -1, 0, 10, -1, 7])
    found = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k, targets), queries, keys)
    expected = loss_and_gradients(lambda q, k: F.cross_entropy(q @ k.T, targets, ignore_index=-1), queries, keys)
    torch.testing.assert_close(found, expected)


def test_keys_may_stand_for_a_larger_catalogue() -> None:
    torch.manual_seed(0)
    queries, keys, targets, stands_for = (
        torch.randn(6, 8),
        torch.randn(4, 8),
        torch.tensor([1, 1, 0, -1, 1, 0]),
        [1, 1, 3, 2],
    )
    log_weights = torch.tensor(stands_for).float().log()
    repeated = torch.arange(4).repeat_interleave(torch.tensor(stands_for))
    found = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k, targets, log_weights), queries, keys)
    expected = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k[repeated], targets), queries, keys)
    torch.testing.assert_close(found, expected)


def test_keys_may_be_fixed() -> None:
    torch.manual_seed(0)
    queries, keys, targets = torch.randn(6, 8), torch.randn(4, 8), torch.tensor([3, 1, 0, -1, 1, 0])
    found = loss_and_gradients(lambda q: catalogue_cross_entropy(q, keys, targets), queries)
    expected = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k, targets), queries, keys)
    torch.testing.assert_close(found, expected[:2])


def test_loss_under_autocast_is_close_to_float32() -> None:
    torch.manual_seed(0)
    queries, keys, targets = torch.randn(500, 64), torch.randn(300, 64) / 4, torch.randint(300, (500,))
    expected = loss_and_gradients(lambda q, k: F.cross_entropy(q @ k.T, targets), queries, keys)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k, targets), queries, keys)
    assert [values.dtype for values in found] == [torch.float32] * 3
    torch.testing.assert_close(found[0], expected[0], atol=2e-3, rtol=0)
    for gradient, exact in zip(found[1:], expected[1:], strict=True):
        assert (gradient - exact).norm() < 0.01 * exact.norm()


def test_loss_of_a_target_without_probability_is_large_and_finite() -> None:
    queries, keys = torch.tensor([[1.0]]), torch.tensor([[500.0], [-500.0]])
    loss, gradient, _ = loss_and_gradients(lambda q, k: catalogue_cross_entropy(q, k, torch.tensor([1])), queries, keys)
    assert 80 < loss < 90
    torch.testing.assert_close(gradient, torch.tensor([[3000.0]]))


def test_loss_without_targets_is_zero_and_has_a_gradient() -> None:
    queries = torch.randn(3, 4, requires_grad=True)
    loss = catalogue_cross_entropy(queries, torch.randn(5, 4), torch.full((3,), -1))
    loss.backward()
    assert loss.item() == 0
    assert queries.grad is not None
    assert torch.equal(queries.grad, torch.zeros(3, 4))
