"""EKFAC: Kronecker factors per layer with eigenvalue correction, as the S of a congruence.

For a linear layer with inputs a (bias: a 1 appended) and pre-activations u, the layer's block of the Gauss-Newton
matrix is the mean of a a' (x) g g' over samples and over the directions g of du' Sigma^(1/2), Sigma the Hessian of the
loss in the outputs. With Q_A, Q_G the eigenvectors of A = E a a' and G = E g g', and

    D_ij = E (q_i'g)^2 (p_j'a)^2        the exact diagonal of the layer's block in the basis Q_G (x) Q_A,

    S = (Q_G (x) Q_A) (D + damping)^(-1/2) (Q_G (x) Q_A)'        symmetric positive definite,

the parameters of other layers being scaled by (the mean of all D + damping)^(-1/2). Sigma^(1/2) is exact (an
eigendecomposition per sample). Martens and Grosse 2015; George et al. 2018 (EKFAC).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle.machine.progress import current, during
from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.objective import TRIAL
from lanczos_saddle.networks.problem import Problem

OUTPUTS = 64
"""Beyond so many outputs the roots of Sigma, one backward pass an output, are not attempted."""

SAMPLES = 1024


@dataclass(frozen=True)
class Layer:
    """One linear layer in the basis in which its block is nearly diagonal."""

    weight: slice  # of theta
    bias: slice | None
    left: Tensor  # Q_G (out, out)
    right: Tensor  # Q_A (in, in), or (in + 1, in + 1) with a bias
    diagonal: Tensor  # D (out, in) or (out, in + 1)

    def gather(self, v: Tensor) -> Tensor:
        """(out, in [+ 1], k) of v (N, k)."""
        rows, columns = self.diagonal.shape
        block = v[self.weight].reshape(rows, columns - (self.bias is not None), -1)
        return block if self.bias is None else torch.cat([block, v[self.bias][:, None]], dim=1)

    def scatter(self, block: Tensor, out: Tensor) -> None:
        """The inverse of `gather`, into out (N, k)."""
        inputs = block.shape[1] - (self.bias is not None)
        out[self.weight] = block[:, :inputs].reshape(-1, block.shape[2])
        if self.bias is not None:
            out[self.bias] = block[:, -1]

    def scaled(self, block: Tensor, scales: Tensor) -> Tensor:
        """Q scales Q' on (out, in [+ 1], k)."""
        inner = torch.einsum("oi,opk,pj->ijk", self.left, block, self.right) * scales[:, :, None]
        product: Tensor = torch.einsum("io,opk,jp->ijk", self.left, inner, self.right)
        return product


@dataclass(frozen=True)
class Kronecker:
    """S for all parameters: its own basis in each layer, one number elsewhere."""

    layers: tuple[Layer, ...]
    damping: float

    def __matmul__(self, v: Tensor, /) -> Tensor:
        block = v if v.ndim == 2 else v[:, None]
        product = block * (self._typical + self.damping) ** -0.5
        for layer in self.layers:
            scales = (layer.diagonal + self.damping).rsqrt()
            layer.scatter(layer.scaled(layer.gather(block), scales), product)
        shaped: Tensor = product.reshape(v.shape)
        return shaped

    @property
    def mT(self) -> Kronecker:
        """S' = S."""
        return self

    @property
    def _typical(self) -> float:
        total = sum(float(layer.diagonal.sum()) for layer in self.layers)
        return total / sum(layer.diagonal.numel() for layer in self.layers)


def linear_layers(problem: Problem) -> dict[str, nn.Linear]:
    """The linear layers whose weights are selected, by name."""
    return {
        name: module
        for name, module in problem.model.named_modules()
        if type(module) is nn.Linear and _own(name, "weight") in problem.names
    }


def fits(problem: Problem) -> bool:
    """Whether `kronecker_layers` takes this problem; a few evaluations on at most 8 samples."""
    if not isinstance(problem, Problem) or problem.in_place or not linear_layers(problem):
        return False
    try:
        with problem.evaluating():
            batch = next(problem.batches(TRIAL))
            outputs = problem.outputs(problem.theta, batch)
            few = isinstance(outputs, Tensor) and _few(outputs)
            if few:
                _roots(problem, outputs, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model or a loss that no transform of torch.func sees through
        return False
    return few


@during("factors of S", unit="sample")
def kronecker_layers(problem: Problem) -> tuple[tuple[Layer, ...], int]:
    """(the linear layers of a problem whose weights are selected, C); two passes over the data.

    Cost: a forward and C backward passes each time, C the number of outputs of a sample. A layer that is used at
    several positions of a sample counts each as a sample, which is an approximation; D is then one too.

    Raises ValueError where there is no such layer, and where the outputs are not (n, C) with C <= 64.
    """
    modules = linear_layers(problem)
    if not modules:
        raise ValueError(
            "Kronecker factors need nn.Linear layers among the selected parameters; there are none: pass "
            "preconditioner=None, or an S of your own"
        )
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, a, g in _activations_and_gradients(problem, modules):
        inner, outer = a.mT @ a, torch.einsum("cno,cnp->op", g, g)
        known = factors.get(name)
        factors[name] = (inner, outer) if known is None else (known[0] + inner, known[1] + outer)
    bases = {name: tuple(torch.linalg.eigh(factor).eigenvectors for factor in pair) for name, pair in factors.items()}
    current().of(2 * current().done)
    diagonals: dict[str, Tensor] = {}
    for name, a, g in _activations_and_gradients(problem, modules):
        right, left = bases[name]
        diagonal = ((g @ left) ** 2).sum(dim=0).mT @ (a @ right) ** 2 / problem.weight
        diagonals[name] = diagonals[name] + diagonal if name in diagonals else diagonal
    layers = tuple(
        Layer(problem.ranges[_own(name, "weight")], _bias(problem, name), bases[name][1], bases[name][0], diagonal)
        for name, diagonal in diagonals.items()
    )
    return layers, g.shape[0]


def _own(name: str, parameter: str) -> str:
    return f"{name}.{parameter}" if name else parameter


def _bias(problem: Problem, name: str) -> slice | None:
    return problem.ranges.get(_own(name, "bias"))


def _activations_and_gradients(problem: Problem, modules: dict[str, nn.Linear]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, inputs a (n, in [+ 1]), directions g (C, n, out)) for every batch; sums over n, C make the block."""
    with problem.evaluating():
        for batch in problem.batches(SAMPLES):
            with _recorded(modules) as seen, torch.enable_grad():
                outputs = problem.outputs(problem.theta.clone().requires_grad_(), batch)
            roots = _roots(problem, outputs.detach(), batch)  # (C, n, C)
            names = list(seen)
            units = [seen[name][1] for name in names]
            images = [
                torch.autograd.grad(outputs, units, root, retain_graph=True, materialize_grads=True) for root in roots
            ]
            for i, name in enumerate(names):
                a = seen[name][0].flatten(0, -2)
                if _bias(problem, name) is not None:
                    a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
                yield name, a, torch.stack([image[i].flatten(0, -2) for image in images])
            current().advance(batch.size)


@contextmanager
def _recorded(modules: dict[str, nn.Linear]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Layers' inputs and outputs by name, while the model runs inside; the model is left as it was."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (inputs[0].detach(), output)

        return record

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _few(outputs: Tensor) -> bool:
    return outputs.ndim == 2 and outputs.shape[1] <= OUTPUTS


def _roots(problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
    """(C, n, C): columns c of Sigma_s^(1/2) for every sample s, the roots of the Hessian of the loss's share."""
    if not _few(outputs):
        raise ValueError(
            f"Kronecker factors need outputs (n, C) with C at most {OUTPUTS}; got {tuple(outputs.shape)}: pass "
            "preconditioner=None, or an S of your own"
        )
    slope = torch.func.grad(lambda z: problem.share_of(z, batch))
    bend = torch.func.vjp(slope, outputs)[1]
    # samples do not interact: one product gives column c of every Sigma_s
    columns = [bend(unit.expand_as(outputs).contiguous())[0] for unit in torch.eye(outputs.shape[1]).to(outputs)]
    values, vectors = torch.linalg.eigh(torch.stack(columns, dim=2))
    root: Tensor = (vectors * values.clamp_min(0).sqrt()[:, None]).movedim(2, 0)
    return root
