"""Saddle-free Newton in a Krylov subspace, as a torch optimizer.

    V = K_k(H, g) by Lanczos,   V'HV = T = U diag(lambda) U',
    theta <- theta - V U diag(1 / (|lambda| + mu)) U' V'g,     mu: the damping with the lowest loss

|lambda| in place of lambda turns Newton's attraction to saddles into repulsion: along negative curvature the step
goes down, and is the longer, the flatter it is. Dauphin, Pascanu, Gulcehre, Cho, Ganguli and Bengio 2014,
Algorithm 1. The subspace starts at the gradient, as in Vinyals and Povey 2012: V'g = |g| e_1, and T is all that is
needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.operators.operator import FromFunction
from lanczos_saddle.training.perturbations import only_group

DAMPINGS = tuple(10.0**-k for k in range(7))
"""1, 0.1, ..., 1e-6: the grid of Dauphin et al."""


class SaddleFreeNewton(Optimizer):
    """One saddle-free Newton step on the loss of `step(loss)`, in the Krylov space of its gradient.

    `loss()` evaluates the loss, without backward: the products H v are derivatives of its gradient. All
    dampings are tried, and the one of the lowest loss is taken; where all of them raise the loss (or none is
    finite), the parameters stay. Where the gradient vanishes there is no direction to go, a saddle included.

    Args:
        params: one group; treated as one vector (N,).
        lr: the step is multiplied by it; 1 lands on the minimum of a convex quadratic.
        dimension: k, the Lanczos steps; at most N are taken, fewer where the space closes.
        dampings: values of mu >= 0, tried in turn.

    Cost of a step: the gradient, k products (about two gradients each) and one loss for each damping; memory k N.

    Raises ValueError for options that are not positive and finite.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float = 1.0, dimension: int = 20, dampings: Sequence[float] = DAMPINGS
    ) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive and finite; got {lr}")
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, the number of Lanczos steps; got {dimension}")
        if not dampings or not all(0 <= mu < math.inf for mu in dampings):
            raise ValueError(f"dampings must be one or more finite numbers of at least 0; got {list(dampings)}")
        super().__init__(params, {"lr": lr, "dimension": dimension})
        self._parameters = only_group(self)
        self._dampings = tuple(dampings)
        self.damping: float | None = None  # of the last step; None where the parameters stayed
        self.stays = False  # whether the last step left the parameters as they were

    @torch.no_grad()
    def step(self, loss: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step; returns the loss where it began. No `.grad` is touched."""
        with torch.enable_grad():
            value = loss()
            gradients = torch.autograd.grad(value, self._parameters, create_graph=True, materialize_grads=True)
            gradient = parameters_to_vector(gradients)
        self.damping, self.stays = None, True
        if not bool(gradient.any()):
            return value.detach()
        steps = self._steps(gradient)  # (number of dampings, N)
        del gradient, gradients  # the graph
        self._take_best(steps, float(value.detach()), loss)
        return value.detach()

    def _steps(self, gradient: Tensor) -> Tensor:
        """The step for every damping, (number of dampings, N)."""
        run = Lanczos(_hessian(gradient, self._parameters), gradient.detach()[:, None])
        run.advance(min(self.param_groups[0]["dimension"], len(gradient)))
        diagonal, offdiagonal = run.tridiagonalization().coefficients(0)
        basis = run.basis[0, : len(diagonal)]  # (k, N)
        values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, offdiagonal[:-1])
        norm = float(torch.linalg.vector_norm(gradient.detach().double()))
        with np.errstate(divide="ignore", invalid="ignore"):  # mu = 0 on a null direction: not finite, not taken
            scales = vectors[0] / (np.abs(values) + np.array(self._dampings)[:, None])  # (number of dampings, k)
        coefficients = torch.from_numpy(-norm * scales @ vectors.T)
        steps: Tensor = self.param_groups[0]["lr"] * coefficients.to(basis) @ basis
        return steps

    def _take_best(self, steps: Tensor, value: float, loss: Callable[[], Tensor]) -> None:
        start = parameters_to_vector(self._parameters).clone()
        best = start
        for mu, step in zip(self._dampings, steps, strict=True):
            trial = start + step.to(start)
            vector_to_parameters(trial, self._parameters)
            found = float(loss())
            if found < value and bool(step.isfinite().all()):
                value, best, self.damping, self.stays = found, trial, mu, False
        vector_to_parameters(best, self._parameters)


def _hessian(gradient: Tensor, parameters: list[Tensor]) -> FromFunction:
    """H v = d<gradient, v> / d theta, one column at a time; the graph of the gradient is kept."""

    def product(block: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss linear in the parameters
            return torch.zeros_like(block)
        columns = [
            torch.autograd.grad(gradient, parameters, v, retain_graph=True, materialize_grads=True)
            for v in block.mT.contiguous()
        ]
        return torch.stack([parameters_to_vector(parts) for parts in columns], dim=1)

    return FromFunction(product, len(gradient), gradient.dtype, gradient.device)
