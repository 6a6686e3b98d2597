"""G v = sum_b J_b' S_b J_b v / sum_b w_b: the curvature of the loss in the outputs, carried back to theta.

J_b is the Jacobian of the batch's outputs in theta and S_b the Hessian of its share of the loss in the
outputs. G is positive semidefinite when the loss is convex in the outputs, and H - G is what the curvature
of the model adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jvp
from torch.utils._pytree import tree_flatten, tree_unflatten

from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.curvature import Curvature, Product, pullback
from lanczos_saddle.networks.objective import Objective, derivatives, transposed
from lanczos_saddle.networks.placement import flat


class GaussNewton(Curvature):
    """The Gauss-Newton matrix of the mean loss, an `Operator` (N, N): `G @ v` for v (N,) or (N, k).

    Arguments, memory, modes and errors are those of `Hessian`; the cost of a product is about the same.
    It depends on what is called the output: softmax belongs into the loss.

    Raises ValueError, beside what `Hessian` does, where the loss reads the parameters otherwise than by the outputs.
    """

    of_gradient = False

    def _begin(self, problem: Objective, memory: int, fidelity: bool) -> None:
        super()._begin(problem, memory, fidelity)
        if self._direct(problem.weighed(problem.trial())):
            raise ValueError(
                "a Gauss-Newton matrix is that of a loss of the outputs alone; this loss reads the parameters, too (a "
                "penalty, the model again?): leave that out, or take Hessian, which has all of it"
            )

    def _direct(self, batch: Batch) -> bool:
        """Whether the loss depends on theta where the outputs are held."""
        problem = self.problem
        with problem.evaluating(), problem.placed_at(problem.theta) as leaves, torch.enable_grad():
            nest = problem.own_outputs(batch)
            held = refilled(nest, [z.detach().requires_grad_() for z in real_leaves(nest)])
            try:
                return any(bool(d.any()) for d in derivatives(problem.own_share_of(held, batch), leaves))
            except torch.OutOfMemoryError:
                raise
            except Exception:  # said where a mode is chosen
                return False

    def forward(self, batch: Batch) -> Product:
        """Gives v -> J_b' (S_b (J_b v)), J_b v and S_b u by forward derivatives."""
        theta, model, share = self.problem.theta, *self._between(batch)
        slope = grad(share)
        outputs, pull = pullback(model, theta)

        def product(v: Tensor) -> Any:
            tangent = jvp(model, (theta,), (v,))[1]
            return pull(jvp(slope, (outputs,), (tangent,))[1])

        return product

    def reverse(self, batch: Batch) -> Product:
        """The same without forward derivatives: J_b is the transpose of u -> J_b' u, which is linear in u."""
        theta, model, share = self.problem.theta, *self._between(batch)
        outputs, pull = pullback(model, theta)
        bend = pullback(grad(share), outputs)[1]

        def transpose(u: Any) -> Any:
            return pullback(model, theta)[1](u)

        push = pullback(transpose, outputs)[1]
        return lambda v: pull(bend(push(v)))

    def plainly(self, batch: Batch, leaves: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Gives V -> J' S J V; J V is the derivative of J'w in w, along V."""
        outputs, bend = self._bend(batch)
        weights = [torch.zeros_like(z, requires_grad=True) for z in outputs]
        pulled = self._pulled(outputs, leaves, weights)

        def product(parts: Sequence[Tensor]) -> Sequence[Tensor]:
            return transposed(outputs, leaves, bend(transposed(pulled, weights, parts)))

        return product

    def differences(self, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Tensor:
        """J'w for w = S u: u = J v by differences of outputs, S u by differences of the loss's slope in them."""
        problem = self.problem
        with problem.evaluating():
            u = [
                (a - b) / (2 * step)
                for a, b in zip(*(self._own_outputs(theta + s * v, batch) for s in (step, -step)), strict=True)
            ]
            with problem.placed_at(theta) as leaves, torch.enable_grad():
                nest = problem.own_outputs(batch)
                outputs = real_leaves(nest)
                size = max(float(z.norm()) for z in outputs) / max(1.0, float(flat(u).norm())) or 1.0
                ends = [
                    self._slope(
                        nest, [z.detach() + s * size * step * w for z, w in zip(outputs, u, strict=True)], batch
                    )
                    for s in (1, -1)
                ]
                bent = [(a - b) / (2 * size * step) for a, b in zip(*ends, strict=True)]
                product = flat(transposed(outputs, leaves, bent)).detach()
        return product

    def _between(self, batch: Batch) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
        """(theta -> z, z -> s_b): z holds the outputs' tensors of numbers, whatever else, such as a cache, is there."""
        problem, nest = self.problem, list[Any]()

        def model(theta: Tensor) -> tuple[Tensor, ...]:
            nest[:] = [problem.outputs(theta, batch)]
            return tuple(real_leaves(nest[0]))

        return model, lambda z: problem.share_of(refilled(nest[0], z), batch)

    def _bend(self, batch: Batch) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """(outputs with their graph, u -> S u for the loss's Hessian S in the outputs)."""
        nest = self.problem.own_outputs(batch)
        outputs = real_leaves(nest)
        places = [z.detach().requires_grad_() for z in outputs]
        slopes = derivatives(self.problem.own_share_of(refilled(nest, places), batch), places, keep=True)
        return outputs, lambda u: transposed(slopes, places, u)

    def _pulled(self, outputs: Sequence[Tensor], leaves: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """J'w, linear in w, with its graph."""
        found = torch.autograd.grad(
            outputs, leaves, weights, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(found)

    def _own_outputs(self, theta: Tensor, batch: Batch) -> list[Tensor]:
        with self.problem.placed_at(theta), torch.enable_grad():
            return [z.detach().clone() for z in real_leaves(self.problem.own_outputs(batch))]

    def _slope(self, nest: Any, places: Sequence[Tensor], batch: Batch) -> list[Tensor]:
        places = [z.requires_grad_() for z in places]
        return derivatives(self.problem.own_share_of(refilled(nest, places), batch), places)


def real_leaves(outputs: Any) -> list[Tensor]:
    """The tensors of numbers, floating-point or complex, of a model's outputs."""
    return [z for z in tree_flatten(outputs)[0] if has_slope(z)]


def has_slope(leaf: Any) -> bool:
    """Whether this is a tensor that a loss may be differentiated in."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def refilled(outputs: Any, places: Sequence[Tensor]) -> Any:
    """The outputs with other tensors in their real places."""
    leaves, form = tree_flatten(outputs)
    new = iter(places)
    filled = [next(new) if has_slope(z) else z for z in leaves]
    return tree_unflatten(filled, form)
