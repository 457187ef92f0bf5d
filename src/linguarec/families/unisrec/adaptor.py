"""Mixture-of-experts adaptor over parametric whitening (UniSRec, arXiv 2206.05941, eq. 2-5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.nn.dropout import Dropout


class MixtureOfExpertsAdaptor(nn.Module):
    """Text vector -> item vector: sum over experts e of gate_e(x) * W_e (dropout(x) - b_e).

    Gates are a softmax of x W_gate, with learned Gaussian noise while training (eq. 5). As the experts are linear, all of them
    run as one matrix product [N, F] x [F, E*D]; the shifts W_e b_e are subtracted separately. One dropout draw serves all
    experts of an item (the released code draws one for each expert).
    """

    def __init__(self, feature_width: int, hidden_size: int, experts: int, dropout: float, deviation: float) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.randn(experts, hidden_size, feature_width) * deviation)
        self.shift = nn.Parameter(torch.zeros(experts, feature_width))
        self.gate = nn.Parameter(torch.zeros(feature_width, experts))
        self.noise = nn.Parameter(torch.zeros(feature_width, experts))
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Text vectors [N, F] -> item vectors [N, D]."""
        logits = features @ self.gate
        if self.training:
            deviation = F.softplus(features @ self.noise) + 1e-2
            logits = logits + torch.randn_like(logits) * deviation
        gates = logits.float().softmax(-1)
        projected = F.linear(self.dropout(features), self.weight.flatten(0, 1)).unflatten(-1, (self.experts, -1))
        shifts = torch.einsum("edf,ef->ed", self.weight, self.shift)
        mixed: Tensor = torch.einsum("ne,ned->nd", gates.to(projected.dtype), projected)
        return mixed - gates @ shifts.float()
