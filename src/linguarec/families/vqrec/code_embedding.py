"""Vector-quantised items: one learned embedding per code and sub-space, mean-pooled (VQ-Rec, arXiv 2210.12316, eq. 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CodeEmbedding(nn.Module):
    """Codes [N, M] with values below K -> the mean of their M embeddings [N, D]. The table has M*K rows, ordered by
    sub-space."""

    def __init__(self, code_books: int, centroids: int, hidden_size: int, deviation: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(code_books * centroids, hidden_size) * deviation)
        self.register_buffer("base", torch.arange(code_books) * centroids, persistent=False)
        self.base: Tensor

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [N, M] int64 -> [N, D]."""
        return F.embedding_bag(codes + self.base, self.weight, mode="mean")
