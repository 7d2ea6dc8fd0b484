"""What stops a run before it trains on the wrong thing: no gradient, terms of different worlds, a loss that is no number.

Gradients are taken with respect to what is trained, so that a logit loss and a hidden-state loss are measured alike.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from app.domain.errors import LossDiverged, ObjectivesOutOfBalance, SilentObjective

GUARD_STEPS = 3  # the first ones; what happens in all of them is a mistake, not a coincidence
APART = 1e3


def add_gradient(loss: Tensor, weight: float, trained: list[nn.Parameter]) -> float:
    """Add weight · ∂loss/∂θ to the gradients of all that is trained; returns ‖∂loss/∂θ‖, 0 for a loss that depends on none of it.

    The graph is kept: other losses of the same forward pass come after.
    """
    if not loss.requires_grad:
        return 0.0
    grads = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    for parameter, grad in zip(trained, grads, strict=True):
        if grad is not None:
            parameter.grad = weight * grad if parameter.grad is None else parameter.grad.add_(grad, alpha=weight)
    return math.sqrt(sum(float(g.float().square().sum()) for g in grads if g is not None))


class Guard:
    """Looks at the first steps of a run. `weighted`: objective → weight · gradient norm, for those that had something to say."""

    def __init__(self, stage: str, balance: bool) -> None:
        self.stage, self.balance = stage, balance
        self._silent: dict[str, int] = {}
        self._apart = 0

    def look(self, step: int, weighted: Mapping[str, float]) -> None:
        if step >= GUARD_STEPS:
            return
        for name, norm in weighted.items():
            self._silent[name] = self._silent.get(name, 0) + (norm == 0)
            if self._silent[name] == GUARD_STEPS:
                raise SilentObjective(
                    f"Stage '{self.stage}': objective '{name}' has a weight but no gradient.",
                    param="stages",
                    hint="Does the teacher equal the student, or is every label the same? Remove the objective or mend the data.",
                )
        moving = {name: norm for name, norm in weighted.items() if norm > 0}
        if len(moving) > 1 and max(moving.values()) > APART * min(moving.values()):
            self._apart += 1
        if self.balance and self._apart == GUARD_STEPS:
            small, large = min(moving, key=moving.__getitem__), max(moving, key=moving.__getitem__)
            ratio = moving[large] / moving[small]
            raise ObjectivesOutOfBalance(
                f"Stage '{self.stage}': the weighted gradient of '{large}' is {ratio:,.0f} times that of '{small}'.",
                param="stages",
                hint=f"Raise the weight of '{small}' or lower that of '{large}'; or set the stage's balance to false.",
            )


def hold_finite(stage: str, step: int, values: Iterable[float]) -> None:
    """Raises LossDiverged, before the update, unless loss and gradient norm are numbers."""
    loss, norm = values
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise LossDiverged(
            f"Stage '{stage}', step {step}: loss {loss:g}, gradient norm {norm:g}; no update was made.",
            param="stages",
            hint="Lower the learning rate, raise warmup_ratio, or look for rows that are not text.",
        )
