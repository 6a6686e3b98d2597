"""What one batch contributes to the total loss: a share s_b of weight w_b, and L = sum_b s_b / sum_b w_b.

    the loss returns                 share s_b              default weight w_b
    a mean (0-d)                     w_b * loss             number of samples
    a sum (0-d, reduction="sum")     loss                   number of samples
    one value per sample (n, ...)    sum of the values      number of samples

So L is a mean over samples, not a mean of batch means. A mean of `nn.CrossEntropyLoss` or `nn.NLLLoss` over
class indices weighs the sum of the class weights of its targets that are not ignored; `batch_weight`
overrides all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class BatchLoss:
    """A loss of (outputs, targets) with the rule of its shares and weights."""

    loss: Callable[..., Any]
    batch_weight: Callable[[Any], float | Tensor] | None
    state: dict[str, Tensor]  # of a loss that is a module, such as class weights

    def to(self, dtype: torch.dtype) -> BatchLoss:
        """The same loss with its state in another floating-point type."""
        return replace(
            self, state={name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state.items()}
        )

    def weight(self, targets: Any, size: int) -> float:
        """w_b >= 0; 0 when the batch says nothing (all targets ignored). Raises ValueError if it is not."""
        if self.batch_weight is not None:
            weight = float(self.batch_weight(targets))
        elif self._is_class_mean(targets):
            weight = self._class_weight(targets)
        else:
            weight = float(size)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"batch_weight and class weights must give a finite weight >= 0; got {weight} for {size} samples"
            )
        return weight

    def share(self, outputs: Any, targets: Any, size: int, weight: float) -> Tensor:
        """s_b (0-d), differentiable. Raises ValueError when the loss gives neither a number nor n values."""
        value = self._call(outputs, targets)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss(outputs, targets) must return a real floating-point tensor; got {got}")
        if value.ndim == 0:
            return value if getattr(self.loss, "reduction", None) == "sum" else weight * value
        if value.shape[0] != size:
            raise ValueError(
                f"the loss must return a 0-d mean or one value per sample, ({size}, ...); "
                f"got shape {tuple(value.shape)}: return .mean()"
            )
        return value.sum()

    def _call(self, outputs: Any, targets: Any) -> Any:
        if isinstance(self.loss, nn.Module):
            return functional_call(self.loss, self.state, (outputs, targets))
        return self.loss(outputs, targets)

    def _is_class_mean(self, targets: Any) -> bool:
        return (
            isinstance(self.loss, nn.CrossEntropyLoss | nn.NLLLoss)
            and self.loss.reduction == "mean"
            and isinstance(targets, Tensor)
            and not targets.is_floating_point()
        )

    def _class_weight(self, targets: Tensor) -> float:
        kept = targets[targets != self.loss.ignore_index]  # type: ignore[attr-defined]
        if "weight" not in self.state:
            return float(kept.numel())
        return float(self.state["weight"][kept].sum(dtype=torch.float64))
