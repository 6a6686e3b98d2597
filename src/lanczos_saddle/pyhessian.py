"""The interface of PyHessian (Yao, Gholami, Keutzer & Mahoney 2020), on this package: change one import.

    from lanczos_saddle.pyhessian import hessian, get_esd_plot

The calls and the shapes of what they return are PyHessian's. What is computed differs where that is off:

    eigenvalues    of largest magnitude, by block Lanczos in place of power iteration: `tol` bounds residuals over the
                   largest, not the change between two steps, which is small long before a power iteration has arrived
    trace          stops when the standard error of the mean is below `tol` of it, not when two means happen to agree
    density        weights are real and not negative: of a symmetric eigenproblem in float64, after full
                   orthogonalization. (PyHessian takes torch.eig or torch.linalg.eig, unsymmetric, in float32)
    data loaders   the mean over all samples; PyHessian weighs the mean of a batch by its samples, which is the same for
                   plain means, and is not for class weights, ignored targets and sums
    cuda           True is the default there and here; without a GPU it is refused in one line: pass cuda=False
    memory         no graph is kept between calls, and the model's gradients are not touched

For counts with intervals take `Hessian` and `count_eigenvalues`: `hessian(...).operator` is that `Hessian`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle.eigenvectors import eigenpairs
from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.scalars import whole
from lanczos_saddle.reports.esd import get_esd_plot

__all__ = ["get_esd_plot", "hessian"]

COLUMNS = 10
"""Probes of a trace that are multiplied at once, between two looks at the standard error."""


class hessian:
    """The Hessian of criterion(model(inputs), targets) in all trainable parameters.

    Args:
        model: is put into eval mode, as PyHessian does; weights are copied.
        criterion: a loss of (outputs, targets).
        data: one batch, (inputs, targets); or
        dataloader: batches, passed over again at every product; the mean is over all samples.
        cuda: on the GPU, where the model is moved, or on the CPU.

    Random vectors come from torch's global generator: torch.manual_seed repeats a run. Raises ValueError where not
    exactly one of data and dataloader is given, where there is no GPU, and as `Hessian` does.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        criterion: Any,
        data: tuple[Any, Any] | None = None,
        dataloader: Iterable[Any] | None = None,
        cuda: bool = True,
    ) -> None:
        if (data is None) == (dataloader is None):
            raise ValueError("pass one of data, a batch, and dataloader; got " + ("none" if data is None else "both"))
        if cuda and not torch.cuda.is_available():
            raise ValueError("cuda=True, the default, needs a GPU; torch sees none here: pass cuda=False")
        self.full_dataset, self.device = data is None, "cuda" if cuda else "cpu"
        inner = model.module if isinstance(model, torch.nn.DataParallel) else model
        self.model, self.criterion, self.data = (
            model.to(self.device).eval(),
            criterion,
            dataloader if data is None else data,
        )
        source = data if data is None else tuple(data)
        self.operator = Hessian(inner, criterion, dataloader if source is None else source, device=self.device)
        self.params = [p for p in inner.parameters() if p.requires_grad]
        summed = data is not None and getattr(criterion, "reduction", "mean") == "sum"
        self._factor = float(len(data[0])) if data is not None and summed else 1.0  # of a sum, the sum

    @property
    def gradsH(self) -> list[Tensor]:
        """The gradient, one tensor a parameter."""
        return self._parts(self._factor * self.operator.problem.gradient())

    def dataloader_hv_product(self, v: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """(v'Hv, Hv as one tensor a parameter), v one tensor a parameter."""
        vector = torch.cat([part.detach().reshape(-1) for part in v]).to(self.operator.device, self.operator.dtype)
        image = self._factor * (self.operator @ vector)
        return float(vector.double() @ image.double()), self._parts(image)

    def eigenvalues(
        self, maxIter: int = 100, tol: float = 1e-3, top_n: int = 1
    ) -> tuple[list[float], list[list[Tensor]]]:
        """(the `top_n` eigenvalues of largest magnitude, their unit eigenvectors, each one tensor a parameter).

        At most maxIter * top_n products in the search; stops when all residuals are below `tol` of the largest.
        """
        found = eigenpairs(
            self.operator,
            _counted("top_n", top_n, self.operator.shape[0]),
            "magnitude",
            tolerance=tol,
            max_products=_counted("maxIter", maxIter) * top_n,
            generator=_generator(),
        )
        vectors = [self._parts(vector.to(self.operator.dtype)) for vector in found.vectors.unbind(1)]
        return [self._factor * value for value in found.values.tolist()], vectors

    def trace(self, maxIter: int = 100, tol: float = 1e-3) -> list[float]:
        """v'Hv of random signs v, at most maxIter of them: their mean estimates the trace (Hutchinson)."""
        made: list[float] = []
        most, generator = _counted("maxIter", maxIter), _generator()
        while len(made) < most:
            v = self._signs(min(COLUMNS, most - len(made)), generator)
            image = self.operator @ v.to(self.operator.dtype)
            made += (self._factor * (v * image.double()).sum(0)).tolist()
            if len(made) > 1 and np.std(made, ddof=1) / math.sqrt(len(made)) <= tol * abs(np.mean(made)):
                break
        return made

    def density(self, iter: int = 100, n_v: int = 1) -> tuple[list[list[float]], list[list[float]]]:
        """(nodes, weights) of n_v runs of stochastic Lanczos quadrature, lists of `iter` numbers; weights sum to 1.

        Where a Krylov space closes before, the rest of a list has weight 0.
        """
        steps, runs, size = _counted("iter", iter), _counted("n_v", n_v), self.operator.shape[0]
        probes = self._signs(runs, _generator())
        made = Lanczos(self.operator, probes, reorthogonalize=True, capacity=min(steps, size)).extend(min(steps, size))
        nodes, weights = [], []
        for i in range(runs):
            rule = gauss_rule(*made.coefficients(i))
            more = steps - len(rule.nodes)
            nodes.append(np.append(self._factor * rule.nodes, np.full(more, self._factor * rule.nodes[-1])).tolist())
            weights.append(np.append(rule.weights, np.zeros(more)).tolist())
        return nodes, weights

    def _signs(self, columns: int, generator: torch.Generator) -> Tensor:
        """Random signs, (N, columns) in float64."""
        drawn = torch.randint(2, (self.operator.shape[0], columns), generator=generator, dtype=torch.float64)
        return (2 * drawn - 1).to(self.operator.device)

    def _parts(self, vector: Tensor) -> list[Tensor]:
        """A vector (N,) in the shapes of the parameters."""
        return [part.clone() for part in self.operator.problem.unflatten(vector).values()]


def _counted(name: str, value: int, most: int | None = None) -> int:
    """How many of something: at least 1, at most N where so many eigenvalues are asked for; raises ValueError."""
    number = whole(name, value)
    if number < 1 or (most is not None and number > most):
        raise ValueError(f"{name} must be at least 1" + (f", at most N = {most}" if most else "") + f"; got {number}")
    return number


def _generator() -> torch.Generator:
    """A generator that torch's global one seeds."""
    return torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
