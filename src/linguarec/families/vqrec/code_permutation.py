"""A permutation of each codebook, learned by gradient (VQ-Rec, arXiv 2210.12316, cross-domain fine-tuning).

    S      Sinkhorn(logits / temperature)            [M, K, K], rows and columns nearly sum to 1
    pi     the permutation with the largest sum of logits, one per codebook
    E'_k   E_pi(k) forward; its gradient is that of sum_j S_kj E_j (straight-through)

Sinkhorn's scaling adds a constant to every row and column of the logits, so `pi` is the most probable permutation under S
too. The released code takes `torch.ceil` of S's row maxima instead: its gradient is zero, and its rows may choose the same
column.
"""

import torch
from torch import Tensor, nn


def sinkhorn(logits: Tensor, rounds: int) -> Tensor:
    """Normalise the rows, then the columns of exp(logits) [M, K, K], `rounds` times (Sinkhorn and Knopp, 1967)."""
    for _ in range(rounds):
        logits = logits - logits.logsumexp(dim=2, keepdim=True)
        logits = logits - logits.logsumexp(dim=1, keepdim=True)
    return logits.exp()


def assign(logits: Tensor) -> Tensor:
    """For each of M matrices [K, K] the assignment of columns to rows with the largest sum, [M, K] int64."""
    from scipy.optimize import linear_sum_assignment

    matrices = logits.detach().float().cpu().numpy()
    columns = [torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1]) for matrix in matrices]
    return torch.stack(columns).to(logits.device)


class CodePermutation(nn.Module):
    """M permutations of K code embeddings each, initially the identity, with a margin that a few steps can overcome."""

    def __init__(self, code_books: int, centroids: int, temperature: float, rounds: int) -> None:
        super().__init__()
        self.logits = nn.Parameter((0.1 * torch.eye(centroids)).repeat(code_books, 1, 1))
        self.temperature = temperature
        self.rounds = rounds

    def order(self) -> Tensor:
        """[M, K] int64: code k of book m takes the embedding of the code `order[m, k]`."""
        return assign(self.logits)

    def forward(self, table: Tensor) -> Tensor:
        """Code embeddings [M*K, D], ordered by codebook -> the same embeddings in their new order."""
        code_books, centroids, _ = self.logits.shape
        order = self.order()
        if not self.training:
            return reorder(table, order)
        with torch.autocast(table.device.type, enabled=False):
            soft = sinkhorn(self.logits / self.temperature, self.rounds)
            hard = torch.zeros_like(soft).scatter_(2, order.unsqueeze(-1), 1.0)
            straight_through = hard + (soft - soft.detach())  # the bracket is exactly 0
            return (straight_through @ table.float().view(code_books, centroids, -1)).flatten(0, 1)


def reorder(table: Tensor, order: Tensor) -> Tensor:
    """Code embeddings [M*K, D], re-ordered in each codebook by `order` [M, K]."""
    code_books, centroids = order.shape
    base = torch.arange(code_books, device=order.device).unsqueeze(1) * centroids
    return table[(order + base).flatten()]
