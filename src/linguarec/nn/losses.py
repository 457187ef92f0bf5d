"""Losses as pure functions on tensors, with an explicit mask: a target of -1 is ignored."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from linguarec.nn.gathering import Gathering

# Most probabilities in memory at a time: rows of the softmax are computed in chunks of at most this size, so that memory does
# not grow with batch x catalogue. 32 million are 64 MiB in bfloat16.
_LARGEST_CHUNK = 1 << 25


def catalogue_cross_entropy(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor,
    log_weights: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of the target among all keys, over the positions that have a target.

    Under autocast the products are computed, and the probabilities kept, in its data type; sums are float32.

    Args:
        queries: [T, D], one per position.
        keys: [N, D], one per item, divided by the temperature.
        targets: [T] int64 index into the keys, -1 = no loss.
        log_weights: [N] added to the logits if the keys are a sample of the catalogue: the logarithm of how many items each
            key represents. A target must represent itself alone (0). None = all zero.
        excluded: [P, 2] int64, pairs (index into the queries, index into the keys) that are left out of the softmax. A pair may
            occur several times; a query's own target is never left out. None = no pairs.

    Returns:
        A scalar; 0 if no position has a target.
    """
    has_target = targets >= 0
    if excluded is not None:
        excluded = _without_targets(excluded, targets, has_target)
    if not bool(has_target.all()):
        queries, targets = queries[has_target], targets[has_target]
    if len(targets) == 0:
        return _nothing(queries, keys)

    def change(logits: Tensor, rows: slice) -> None:
        if log_weights is not None:
            logits.add_(log_weights)
        if excluded is not None:
            _leave_out(excluded, logits, rows)

    unchanged = log_weights is None and excluded is None
    return _cross_entropy(queries, keys, targets, None if unchanged else change)


def calibrated_binary_cross_entropy(
    queries: Tensor, keys: Tensor, targets: Tensor, negatives: Tensor, beta: float, excluded: Tensor | None = None
) -> Tensor:
    """gBCE, the generalised binary cross-entropy (Petrov and Macdonald, arXiv 2308.07192, eq. 12), over the positions that
    have a target.

        -(beta log sigmoid(s+) + sum over the negatives of log(1 - sigmoid(s-))) / (K + 1)

    With a the probability of a class to be among the negatives and the calibration t, beta = 1 - t (1 - a): t = 0 is the plain
    binary cross-entropy, and with t = 1 the sigmoid of a score estimates the probability that the full one would.

    A score s is the product of query and key plus log(beta / K), which ranks as the product does. It is where the targets' pull
    and the negatives' push balance if all classes are as likely, so products near 0 start there. Without it the negatives,
    at a probability of one half, push K times as hard at first; Adam's second moments remember that for a thousand steps, in
    which next to nothing is learned (the prior of arXiv 1708.02002, section 4.1, has the same aim).

    Args:
        queries: [T, D], one per position.
        keys: [N, D], one per item, divided by the temperature.
        targets: [T] int64 index into the keys, -1 = no loss.
        negatives: [N] bool, the K keys that are negatives of every position whose target they are not.
        beta: power of the positive's probability.
        excluded: [P, 2] int64, pairs (index into the queries, index into the keys) that are not negatives; None = no pairs.

    Returns:
        A scalar; 0 if no position has a target.
    """
    has_target = targets >= 0
    number = negatives.cumsum(0) - 1
    own = torch.stack([has_target.cumsum(0)[has_target] - 1, targets[has_target]], dim=1)
    pairs = own if excluded is None else torch.cat([own, _without_targets(excluded, targets, has_target)])
    queries, targets = queries[has_target], targets[has_target]
    if len(targets) == 0:
        return _nothing(queries, keys)
    query, key = pairs[negatives[pairs[:, 1]]].unbind(1)
    left_out = torch.stack([query, number[key]], dim=1)
    drawn = int(negatives.sum())
    start = math.log(beta / max(1, drawn))
    positive = F.softplus(-start - (queries.float() * keys[targets].float()).sum(-1)).mean()

    def head(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """-log(1 - sigmoid(score)), summed. The constant is added in float32: bfloat16 logits of that size are coarse."""
        scores = logits.float() + start
        return F.softplus(scores).sum(), scores.sigmoid().to(logits.dtype)

    negative = _of_logits(queries, keys[negatives], head, lambda logits, rows: _leave_out(left_out, logits, rows))
    return (beta * positive + negative) / (drawn + 1)


def _nothing(queries: Tensor, keys: Tensor) -> Tensor:
    """0, still part of the graph, because other processes wait for the gradients."""
    return queries.sum() * 0 + keys.sum() * 0


def _leave_out(pairs: Tensor, logits: Tensor, rows: slice) -> None:
    """Set the logits of the pairs [P, 2] of the queries `rows` to -inf, in place."""
    row, key = pairs[(pairs[:, 0] >= rows.start) & (pairs[:, 0] < rows.stop)].unbind(1)
    logits.view(-1).index_fill_(0, (row - rows.start) * logits.shape[1] + key, -math.inf)


def _without_targets(excluded: Tensor, targets: Tensor, has_target: Tensor) -> Tensor:
    """The pairs [P, 2] of queries that have a target, numbered among these, without those of a query and its own target."""
    query, key = excluded.unbind(1)
    other = has_target[query] & (targets[query] != key)
    return torch.stack([has_target.cumsum(0)[query[other]] - 1, key[other]], dim=1)


@dataclass(frozen=True)
class Pairs:
    """P (query, target) pairs of one step, the input of the contrastive loss.

    `queries` [P, D]; `keys` [P, D] of the targets, divided by the temperature; `items` [P] int64: number of the target item;
    `users` [P] int64: number of the pair's user.
    """

    queries: Tensor
    keys: Tensor
    items: Tensor
    users: Tensor


def contrastive_cross_entropy(pairs: Pairs, negatives: Tensor | None = None, masked_logit: float = -math.inf) -> Tensor:
    """This process's share of the mean cross-entropy of each query's own target among the targets of all processes.

    The mean of the shares over the processes equals the mean over all pairs, in value and gradient. A target that is the same
    item as the query's own, or belongs to another pair of the same user, is not a negative.

    Args:
        pairs: of this process.
        negatives: [P, D] one further negative key for each pair, or None.
        masked_logit: logit of targets that are not negatives. -inf leaves them out; 0 is the released form, in which each adds
            e^0 = 1 to the denominator (there pairs of one user are negatives; each row counts as a user). For parity only.

    Returns:
        A scalar: the mean over this process's pairs, times its fraction of all pairs, times the number of processes.
    """
    together = Gathering.of(pairs.queries)
    items, users = together.whole(pairs.items), together.whole(pairs.users)
    keys = together.whole(pairs.keys)
    if len(pairs.queries) == 0:
        return pairs.queries.sum() * 0 + keys.sum() * 0

    def mask(logits: Tensor, rows: slice) -> None:
        """Overwrite the logits of targets that are not negatives of the queries `rows`, except their own targets."""
        excluded = (pairs.items[rows, None] == items) | (pairs.users[rows, None] == users)
        own = torch.arange(rows.start, rows.stop, device=logits.device)
        excluded[own - rows.start, own + together.start] = False
        logits.masked_fill_(excluded, masked_logit)

    targets = torch.arange(len(pairs.queries), device=keys.device) + together.start
    return _cross_entropy(pairs.queries, keys, targets, mask, negatives) * together.share


Change = Callable[[Tensor, slice], object]  # changes the logits of the rows of a slice, in place
Head = Callable[[Tensor, slice], tuple[Tensor, Tensor]]  # logits of the rows -> summed loss, gradient of the logits


def _cross_entropy(
    queries: Tensor, keys: Tensor, targets: Tensor, change: Change | None = None, negatives: Tensor | None = None
) -> Tensor:
    def head(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        target = targets[rows]
        probabilities = logits.softmax(-1)
        row = torch.arange(len(target), device=target.device)
        of_target = probabilities[row, target]
        loss = -of_target.float().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
        probabilities[row, target] = of_target - 1  # now the gradient of the logits
        return loss, probabilities

    return _of_logits(queries, keys, head, change, negatives)


def _of_logits(
    queries: Tensor, keys: Tensor, head: Head, change: Change | None, negatives: Tensor | None = None
) -> Tensor:
    device = queries.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else queries.dtype
    with torch.autocast(device, enabled=False):
        loss: Tensor = _OfLogits.apply(queries, keys, negatives, dtype, head, change)  # type: ignore[no-untyped-call]
    return loss


class _OfLogits(torch.autograd.Function):
    """Mean over the queries of a loss of logits. Logits and their gradients are computed chunk by chunk of rows, never kept.

    torch's own `linear_cross_entropy` makes float32 logits, log-probabilities, their gradient and a one-hot fill, all
    [T, N]: on a CPU that took as long as the matrix products (bench/README.md).
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        negatives: Tensor | None,
        dtype: torch.dtype,
        head: Head,
        change: Change | None,
    ) -> Tensor:
        rows = max(1, _LARGEST_CHUNK // max(1, len(keys)))
        low_keys = keys.to(dtype)
        loss = queries.new_zeros((), dtype=torch.float32)
        query_grad = torch.empty_like(queries)
        key_grad = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None  # keys may be fixed, as in Recformer
        negative_grad = None if negatives is None else torch.empty_like(negatives)
        for start in range(0, len(queries), rows):
            chunk = slice(start, min(start + rows, len(queries)))
            low_queries = queries[chunk].to(dtype)
            logits = low_queries @ low_keys.T
            if change is not None:
                change(logits, chunk)
            if negatives is not None:
                logits = torch.cat([logits, (queries[chunk] * negatives[chunk]).sum(-1, keepdim=True).to(dtype)], dim=1)
            of_chunk, gradient = head(logits, chunk)
            loss += of_chunk
            of_keys = gradient[:, : len(keys)]
            query_grad[chunk] = of_keys @ low_keys
            if key_grad is not None:
                key_grad += of_keys.T @ low_queries
            if negatives is not None and negative_grad is not None:
                of_negative = gradient[:, -1:].float()
                query_grad[chunk] += of_negative * negatives[chunk]
                negative_grad[chunk] = of_negative * queries[chunk]
        ctx.save_for_backward(query_grad, key_grad, negative_grad)
        return loss / len(queries)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        query_grad, key_grad, negative_grad = ctx.saved_tensors
        scale = gradients[0] / len(query_grad)
        of_keys = None if key_grad is None else key_grad * scale
        of_negatives = None if negative_grad is None else negative_grad * scale
        return query_grad * scale, of_keys, of_negatives, None, None, None
