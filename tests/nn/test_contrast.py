"""Contrast within a step: against the formula, and shared by processes."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import join, leave, made_by_two

from linguarec.nn.losses import Pairs, contrastive_cross_entropy


def random_pairs(number: int, seed: int = 0) -> tuple[Pairs, Tensor]:
    """Pairs of few users and few items, so that all masks count, and negatives."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys, negatives = (torch.randn(number, 8, generator=generator) for _ in range(3))
    items, users = (torch.randint(number // 2, (number,), generator=generator) for _ in range(2))
    return Pairs(queries, keys, items, users), negatives


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("masked_logit", [-math.inf, 0.0])
def test_is_the_formula(with_negatives: bool, masked_logit: float) -> None:
    pairs, negatives = random_pairs(12)
    expected = []
    for row in range(12):
        logits = pairs.keys @ pairs.queries[row]
        for column in range(12):
            alike = pairs.items[row] == pairs.items[column] or pairs.users[row] == pairs.users[column]
            if alike and column != row:
                logits[column] = masked_logit
        further = (negatives[row] @ pairs.queries[row])[None] if with_negatives else torch.zeros(0)
        expected.append(torch.logsumexp(torch.cat([logits, further]), 0) - logits[row])
    found = contrastive_cross_entropy(pairs, negatives if with_negatives else None, masked_logit)
    torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_formula() -> None:
    pairs, negatives = random_pairs(12)
    tensors = [tensor.requires_grad_() for tensor in (pairs.queries, pairs.keys, negatives)]
    contrastive_cross_entropy(pairs, negatives).backward()
    found = [tensor.grad for tensor in tensors]
    logits = torch.cat([pairs.queries @ pairs.keys.T, (pairs.queries * negatives).sum(1, keepdim=True)], dim=1)
    alike = (pairs.items[:, None] == pairs.items) | (pairs.users[:, None] == pairs.users)
    alike = torch.cat([alike & ~torch.eye(12, dtype=torch.bool), torch.zeros(12, 1, dtype=torch.bool)], dim=1)
    reference = nn.functional.cross_entropy(logits.masked_fill(alike, -math.inf), torch.arange(12))
    for gradient, expected in zip(found, torch.autograd.grad(reference, tensors), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


class Encoder(nn.Module):
    """Stands for a model: queries and keys come from its weights, so that gathered rows must carry gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, pairs: Pairs, negatives: Tensor) -> Tensor:
        read = Pairs(pairs.queries @ self.weight, torch.tanh(pairs.keys @ self.weight), pairs.items, pairs.users)
        return contrastive_cross_entropy(read, torch.tanh(negatives @ self.weight))


def part(pairs: Pairs, negatives: Tensor, rows: slice) -> tuple[Pairs, Tensor]:
    return Pairs(pairs.queries[rows], pairs.keys[rows], pairs.items[rows], pairs.users[rows]), negatives[rows]


def train_one_step(cut: int, folder: str, rank: int) -> None:
    """What one of two processes does with its rows, before or after the cut."""
    join(folder, rank)
    model = DistributedDataParallel(Encoder())
    loss = model(*part(*random_pairs(12), slice(cut, 12) if rank else slice(cut)))
    loss.backward()
    leave(folder, rank, (loss.detach(), model.module.weight.grad))


@pytest.mark.parametrize("cut", [6, 3, 12])  # 12: the second process has no pair at all
def test_processes_together_take_the_step_of_one(cut: int, tmp_path: Path) -> None:
    alone = Encoder()
    expected = alone(*random_pairs(12))
    expected.backward()
    losses, gradients = zip(*made_by_two(__file__, tmp_path, [str(cut)]), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), expected.detach(), atol=1e-6, rtol=1e-5)
    for gradient in gradients:
        torch.testing.assert_close(gradient, alone.weight.grad, atol=1e-6, rtol=1e-5)


if __name__ == "__main__":
    train_one_step(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
