"""G v = sum_b J_b' S_b J_b v / sum_b w_b: the curvature of the loss in the outputs, carried back to theta.

J_b is the Jacobian of the batch's outputs in theta and S_b the Hessian of its share of the loss in the
outputs. G is positive semidefinite when the loss is convex in the outputs, and H - G is what the curvature
of the model adds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.func import grad, jvp

from lanczos_saddle.batches import Batch
from lanczos_saddle.curvature import Curvature, Product, pullback


class GaussNewton(Curvature):
    """The Gauss-Newton matrix of the mean loss, an `Operator` (N, N): `G @ v` for v (N,) or (N, k).

    Arguments, memory, modes and errors are those of `Hessian`; the cost of a product is about the same.
    It depends on what is called the output: softmax belongs into the loss.
    """

    def forward(self, batch: Batch) -> Product:
        """Gives v -> J_b' (S_b (J_b v)), J_b v and S_b u by forward derivatives."""
        problem = self.problem
        slope = grad(lambda outputs: problem.share_of(outputs, batch))
        outputs, pull = pullback(lambda theta: problem.outputs(theta, batch), problem.theta)

        def product(v: Tensor) -> Any:
            tangent = jvp(lambda theta: problem.outputs(theta, batch), (problem.theta,), (v,))[1]
            return pull(jvp(slope, (outputs,), (tangent,))[1])

        return product

    def reverse(self, batch: Batch) -> Product:
        """The same without forward derivatives: J_b is the transpose of u -> J_b' u, which is linear in u."""
        problem = self.problem
        outputs, pull = pullback(lambda theta: problem.outputs(theta, batch), problem.theta)
        bend = pullback(grad(lambda z: problem.share_of(z, batch)), outputs)[1]

        def transpose(u: Any) -> Any:
            return pullback(lambda theta: problem.outputs(theta, batch), problem.theta)[1](u)

        push = pullback(transpose, outputs)[1]
        return lambda v: pull(bend(push(v)))
