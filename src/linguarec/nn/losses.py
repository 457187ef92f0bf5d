"""Losses as pure functions on tensors, with an explicit mask: a target of -1 takes no part."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Above this many logits the catalogue softmax runs in chunks, so that memory does not grow with batch x catalogue. Below it
# the one-pass form is faster (measured: bench/README.md).
_ONE_PASS_LOGITS = 1 << 25


def catalogue_cross_entropy(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the target among all keys, over the positions that have one.

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
    if torch.is_autocast_enabled(queries.device.type):
        dtype = torch.get_autocast_dtype(queries.device.type)
        queries, keys = queries.to(dtype), keys.to(dtype)
    chunked = torch.nn.LinearCrossEntropyOptions() if len(targets) * len(keys) > _ONE_PASS_LOGITS else None
    return F.linear_cross_entropy(queries, keys, targets, options=chunked).float()
