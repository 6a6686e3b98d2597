"""Splitting a hidden unit of a net at a critical point: suboptimal minima and saddles from one construction.

A net sum_j a_j s(w_j.x) at a critical point of its squared loss stays at one when its unit (w, a) is replaced by the
two (w, l a) and (w, (1 - l) a), for every l, with the same loss. With residuals r_i = f(x_i) - y_i

    inertia(split) = inertia(small) + inertia( l (1 - l) D ) + (0, 1, 0),
    D = (1/n) sum_i r_i a s''(w.x_i) x_i x_i'

(Fukumizu and Amari 2000; the zero is the line along l). Where the small net is at a minimum and D is positive
definite, l in (0, 1) gives local minima, not global ones, on a segment of equal loss; beyond its ends they are strict
saddles. So a path of constant loss leads along l out of the minimum, and then down (Petzka and Sminchisescu 2021).

The critical point is made, not searched for: weights and inputs are drawn, and residuals are solved for that are
orthogonal to all derivatives of the outputs and give every unit D = c I; targets follow as f - r.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from lanczos_saddle.networks.known_hessians import half_squared_error
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint, signs


@dataclass(frozen=True)
class SmallNet:
    """f(x) = sum_j a_j tanh(w_j.x) at a minimum of the mean of r^2 / 2, all float64.

    D is the same for every unit and a multiple of I, so the Hessian is J'J / n plus c I on the w_j: positive definite.
    """

    weights: Tensor  # (h, d)
    outputs: Tensor  # (h,)
    inputs: Tensor  # (n, d)
    residuals: Tensor  # (n,)
    curvature: float  # c > 0 in D = c I

    @property
    def loss(self) -> float:
        """That of every split of this net, too."""
        return float(self.residuals.square().mean()) / 2

    @property
    def targets(self) -> Tensor:
        """(n, 1)."""
        return ((self.inputs @ self.weights.mT).tanh() @ self.outputs - self.residuals)[:, None]


def small_net(
    *, units: int = 1, features: int = 2, samples: int = 20, residual: float = 1.0, generator: torch.Generator
) -> SmallNet:
    """Draw weights and inputs; take the shortest residuals with D = c I, and scale them to a root mean square.

    Raises ValueError when there are no more samples than conditions on the residuals.
    """
    conditions = units * (features + 1) * (features + 2) // 2
    if samples <= conditions:
        raise ValueError(f"samples must be more than the {conditions} conditions on the residuals; got {samples}")
    inputs, weights = (
        torch.randn(rows, features, generator=generator, dtype=torch.float64) for rows in (samples, units)
    )
    outputs = 1 + torch.rand(units, generator=generator, dtype=torch.float64)
    hidden = (inputs @ weights.mT).tanh()  # (n, h)
    slope = 1 - hidden.square()  # s'; s'' = -2 s s'
    jacobian = torch.cat([hidden, _products(outputs * slope, inputs)], dim=1)
    i, j = torch.triu_indices(features, features)
    bends = _products(-2 * outputs * hidden * slope, inputs[:, i] * inputs[:, j])  # r'bends / n: the entries of the D
    diagonal = (i == j).double().repeat(units)
    wanted = torch.cat([diagonal.new_zeros(jacobian.shape[1]), diagonal])
    residuals = torch.linalg.lstsq(torch.cat([jacobian, bends], dim=1).mT, wanted, driver="gelsd").solution
    scale = residual / float(residuals.square().mean().sqrt())
    return SmallNet(weights, outputs, inputs, scale * residuals, scale / samples)


def _products(factors: Tensor, columns: Tensor) -> Tensor:
    """(n, h) and (n, c) -> (n, h c): every factor times every column."""
    return (factors[:, :, None] * columns[:, None, :]).flatten(1)


def split(net: SmallNet, share: float) -> CriticalPoint:
    """The net with its first unit split into shares l = `share` and 1 - l; its point of the segment, or beyond."""
    (units, features), first = net.weights.shape, net.outputs[0]
    model = tanh_net(features, units + 1)
    outputs = torch.cat([torch.stack([share * first, (1 - share) * first]), net.outputs[1:]])
    vector_to_parameters(torch.cat([net.weights[0], net.weights.flatten(), outputs]), model.parameters())
    negative, zero, positive = signs(torch.full((features,), share * (1 - share) * net.curvature))
    counts = (negative, zero + 1, positive + units * (features + 1))
    kind = "strict saddle" if negative else "degenerate minimum" if not zero else "saddle without negative curvature"
    name = f"split unit, l = {share:g}"
    data = (net.inputs, net.targets)
    return CriticalPoint(name, kind, model, half_squared_error, data, counts, None, 0.0)


def tanh_net(features: int, hidden: int) -> nn.Sequential:
    """sum_j a_j tanh(w_j.x), float64, its weights not yet set: torch's own would come from the global stream."""
    layers = [
        nn.Linear(a, b, bias=False, device="meta", dtype=torch.float64) for a, b in ((features, hidden), (hidden, 1))
    ]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1]).to_empty(device="cpu")
