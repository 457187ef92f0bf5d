"""Adam for item tables of which a step reads a few rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LazyAdam(torch.optim.AdamW):  # without weight decay it is Adam
    """Adam, in which a table with a sparse gradient is updated only in the rows that the gradient holds.

    A row that is not in a step keeps its value, and its moments do not decay in it; Adam would carry on moving it by its past
    gradients. So a step costs as much as the rows that it reads, whatever the length of the table. Weight decay is applied to
    the rows of the step, too. All other parameters are Adam's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse = [
            (group, table, table.grad)
            for group in self.param_groups
            for table in group["params"]
            if table.grad is not None and table.grad.is_sparse
        ]
        for _, table, _ in sparse:
            table.grad = None  # Adam refuses sparse gradients, and passes over parameters without one
        super().step()
        for group, table, gradient in sparse:
            self._update(group, table, gradient.coalesce())
            table.grad = gradient
        return loss

    def _update(self, group: dict[str, Any], table: Tensor, gradient: Tensor) -> None:
        state, (first, second) = self.state[table], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        steps = float(state["step"])
        rows, values = gradient.indices()[0], gradient.values()
        mean = state["exp_avg"][rows].lerp_(values, 1 - first)
        square = state["exp_avg_sq"][rows].mul_(second).addcmul_(values, values, value=1 - second)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        deviation = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
        found = table[rows] * (1 - group["lr"] * group["weight_decay"])
        table[rows] = found.addcdiv_(mean, deviation, value=-group["lr"] / (1 - first**steps))
