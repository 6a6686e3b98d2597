"""A critical point whose exact counts are known, as a model, a loss and data: what `Hessian` takes.

A function f of one vector is a model without inputs: `Surface` gives f(point), and the loss hands it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lanczos_saddle.networks.hessian import Hessian

Counts = tuple[int, int, int]  # negative, zero, positive

LEFT = 0.1
"""A point is left once the loss has fallen by this share of the way to `lowest`, or by this much if that is -inf."""


@dataclass(frozen=True)
class CriticalPoint:
    """A model at a point where the gradient of its loss vanishes and the inertia of the Hessian is known.

    `kind` is what the point is, which the counts alone do not tell where eigenvalues are zero.
    """

    name: str
    kind: str  # "minimum", "degenerate minimum", "strict saddle", "saddle without negative curvature", "maximum"
    model: nn.Module  # float64, on the CPU
    loss: Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> mean over the samples, or one value each
    data: tuple[Tensor, Tensor]
    counts: Counts  # exactly
    eigenvalues: Tensor | None  # (N,) float64, ascending; None where only the counts are known
    lowest: float  # a lower bound on the loss, which may be -inf

    def hessian(self) -> Hessian:
        """The Hessian at the point, an operator (N, N) in float64."""
        return Hessian(self.model, self.loss, self.data)

    def value(self) -> float:
        """The loss at the point."""
        with torch.no_grad():
            return float(mean_loss(self.model, self))

    def is_lowest(self) -> bool:
        """Whether no lower loss exists, to the rounding of the loss: a global minimum."""
        value = self.value()
        return value - self.lowest <= 1e-12 * max(1.0, abs(value))

    def left_below(self) -> float:
        """The loss under which a method has left the point."""
        value = self.value()
        return value - LEFT * min(value - self.lowest, 1.0 if self.lowest == -torch.inf else torch.inf)


class Surface(nn.Module):
    """f(point), one value for each sample whatever the samples hold; the point (N,) is the only parameter."""

    def __init__(self, function: Callable[[Tensor], Tensor], point: Sequence[float] | Tensor) -> None:
        super().__init__()
        self.function = function
        self.point = nn.Parameter(torch.as_tensor(point, dtype=torch.float64).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """f(point) (n,) for inputs (n, ...)."""
        return self.function(self.point).expand(len(inputs))


def surface_point(
    name: str,
    kind: str,
    function: Callable[[Tensor], Tensor],
    point: Sequence[float] | Tensor,
    eigenvalues: Sequence[float] | Tensor,
    lowest: float,
) -> CriticalPoint:
    """A critical point of a function of one vector; exact zeros among the eigenvalues are exact zeros."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64).sort().values
    none = torch.zeros(1, 1, dtype=torch.float64)
    return CriticalPoint(
        name, kind, Surface(function, point), handed_on, (none, none[0]), signs(values), values, lowest
    )


def handed_on(outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    """The loss of a `Surface`: its outputs, one value a sample."""
    return outputs


def mean_loss(model: nn.Module, point: CriticalPoint) -> Tensor:
    """The mean loss (0-d) of `model` on the point's data."""
    inputs, targets = point.data
    return point.loss(model(inputs), targets).mean()


def signs(eigenvalues: Tensor) -> Counts:
    """(negative, zero, positive) by exact comparison."""
    return int((eigenvalues < 0).sum()), int((eigenvalues == 0).sum()), int((eigenvalues > 0).sum())
