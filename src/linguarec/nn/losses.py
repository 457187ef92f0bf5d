"""Losses as pure functions on tensors, with an explicit mask: a target of -1 takes no part."""

from typing import Any

import torch
from torch import Tensor

# Probabilities that stand at one time: rows of the softmax are worked off in chunks of at most so many, so that memory does
# not grow with batch x catalogue. 32 million are 64 MiB in bfloat16.
_LARGEST_CHUNK = 1 << 25


def catalogue_cross_entropy(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the target among all keys, over the positions that have one.

    Under autocast the products are computed, and the probabilities kept, in its data type; sums are float32.

    Args:
        queries: [T, D] one a position.
        keys: [N, D] one an item, temperature inside.
        targets: [T] int64 index into the keys, -1 = no loss.

    Returns:
        A scalar; 0 if no position has a target.
    """
    has_target = targets >= 0
    if not bool(has_target.all()):
        queries, targets = queries[has_target], targets[has_target]
    if len(targets) == 0:
        return queries.sum() * 0
    device = queries.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else queries.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _CatalogueCrossEntropy.apply(queries, keys, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Logits, softmax and both gradients of a chunk of rows, one after the other; logits are never kept.

    torch's own `linear_cross_entropy` goes through float32 logits, log-probabilities, their gradient and a one-hot fill, all
    [T, N]: on a CPU that took as long as the matrix products (bench/README.md).
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        rows = max(1, _LARGEST_CHUNK // len(keys))
        low_keys = keys.to(dtype)
        loss = queries.new_zeros((), dtype=torch.float32)
        query_grad, key_grad = torch.empty_like(queries), torch.zeros_like(keys)
        for chunk in range(0, len(queries), rows):
            low_queries, target = queries[chunk : chunk + rows].to(dtype), targets[chunk : chunk + rows]
            probabilities = (low_queries @ low_keys.T).softmax(-1)
            row = torch.arange(len(target), device=target.device)
            of_target = probabilities[row, target]
            loss -= of_target.float().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
            probabilities[row, target] = of_target - 1  # now the gradient of the logits
            query_grad[chunk : chunk + rows] = probabilities @ low_keys
            key_grad += probabilities.T @ low_queries
        ctx.save_for_backward(query_grad, key_grad)
        return loss / len(targets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query_grad, key_grad = ctx.saved_tensors
        scale = gradients[0] / len(query_grad)
        return query_grad * scale, key_grad * scale, None, None
