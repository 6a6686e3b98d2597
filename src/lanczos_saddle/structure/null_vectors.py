"""Vectors that a curvature matrix sends to zero, known from the symmetries of the network.

softmax shift    adding one vector to every row of the output layer (and one number to all its biases) shifts all
logits of a sample alike, which softmax does not see: inputs of that layer + 1 null vectors

rescaling        (w, b, v) -> (a w, a b, v / a) with a > 0, for the weights into and out of a ReLU unit, changes no
output: d = (w, b, -v) is tangent to that, and H d = -(g_w, g_b, -g_v) for the gradient g. Null only where that vanishes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.resolution import OperatorCheck
from lanczos_saddle.structure.facts import altered, problem_of

TOLERANCE = 1e3
"""Times the noise of one product: more is not rounding, and the vector not null."""


DEPENDENT = 1e-6
"""Combinations, of columns of length 1, that are shorter than this on the living coordinates are left out."""


@differentiable
def softmax_shift(problem: Any) -> Tensor | None:
    """(N, z) orthonormal: null vectors of the Hessian and the Gauss-Newton matrix; None where nothing is known.

    Recognized: a `Problem` whose model is an `nn.Sequential` that ends in an unaltered `nn.Linear` on outputs
    (n, classes), not used twice, and whose loss is torch's cross-entropy. Holds at any parameters.
    """
    problem = problem_of(problem)
    if type(problem) is not Problem or type(problem.model) is not nn.Sequential or problem.output_dimensions != 2:
        return None
    name, last = list(problem.model.named_children())[-1]
    is_softmax = type(problem.loss) is nn.CrossEntropyLoss or problem.loss is nn.functional.cross_entropy
    uses = [m for m in problem.model if m is last]
    if type(last) is not nn.Linear or not is_softmax or altered([problem.model, problem.loss]) or len(uses) > 1:
        return None
    columns = []
    for parameter in (f"{name}.weight", f"{name}.bias"):
        if parameter in problem.ranges:
            inside = torch.eye(last.in_features if parameter.endswith("weight") else 1, dtype=torch.float64)
            part = torch.zeros(problem.size, len(inside), dtype=torch.float64)
            part[problem.ranges[parameter]] = inside.repeat(last.out_features, 1) / last.out_features**0.5
            columns.append(part)
    return torch.cat(columns, dim=1) if columns else None


def rescaling(problem: Any) -> Tensor | None:
    """(u,): |H d| / |d| of the u ReLU units of a network, at its parameters; None where nothing is known.

    With L(D_a theta) = L(theta) for all a and theta: g' D theta = 0, D the derivative at a = 1, and differentiated by
    theta, H D theta = -D g. So one gradient says it for all units, and no product is needed. A unit with d = 0 gives 0.

    Recognized: a `Problem` over all parameters of an `nn.Sequential` of unaltered `nn.Linear` and `nn.ReLU` in turn.
    """
    problem = problem_of(problem)
    if type(problem) is not Problem or type(problem.model) is not nn.Sequential or altered([problem.model]):
        return None
    layers = list(problem.model.named_children())
    linear = [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(len(layers))]
    if len(layers) % 2 == 0 or [type(module) for _, module in layers] != linear:
        return None
    if sum(len(list(module.parameters())) for _, module in layers) != len(problem.names):  # frozen, or shared
        return None
    gradient, theta = (problem.unflatten(x.to(torch.float64)) for x in (problem.gradient(), problem.theta))
    quotients = [theta[problem.names[0]].new_zeros(0)]
    for (into, _), (out, _) in zip(layers[:-2:2], layers[2::2], strict=True):
        change, length = _unit_norms(gradient, into, out), _unit_norms(theta, into, out)
        quotients.append(torch.where(length > 0, change / length, 0.0))
    return torch.cat(quotients)


def _unit_norms(parts: Mapping[str, Tensor], into: str, out: str) -> Tensor:
    """(units,): the norm of what belongs to each unit between two layers: weights in, bias, weights out."""
    mine = [parts[f"{into}.weight"], parts[f"{out}.weight"].mT]
    if f"{into}.bias" in parts:
        mine.append(parts[f"{into}.bias"][:, None])
    norms: Tensor = torch.linalg.vector_norm(torch.cat(mine, dim=1), dim=1)
    return norms


def check_null(living: Operator, nulls: Tensor, check: OperatorCheck) -> tuple[Tensor, Tensor]:
    """(Z, A Z) of independent columns Z of `nulls` (M, z), in float64; z products.

    Raises ValueError when a column is not null: |A z| beyond `TOLERANCE` times the noise, for |z| = 1.
    """
    kept = nulls[:, nulls.abs().amax(dim=0) > 0]  # a column may live on dead coordinates alone
    kept = kept / torch.linalg.vector_norm(kept, dim=0)
    if kept.shape[1] and int(torch.linalg.matrix_rank(kept, rtol=DEPENDENT)) < kept.shape[1]:
        basis, sizes, _ = torch.linalg.svd(kept, full_matrices=False)
        kept = basis[:, sizes > DEPENDENT * sizes[0]]
    images = (living @ kept.to(living.device, living.dtype)).to(torch.float64)
    worst = float(torch.linalg.vector_norm(images, dim=0).max()) if kept.shape[1] else 0.0
    if worst > TOLERANCE * max(check.noise, torch.finfo(living.dtype).eps * check.scale):
        raise ValueError(
            f"null_vectors must be sent to zero; got one of length 1 whose product has length {worst:.1e}, beside a "
            f"noise of {check.noise:.1e}: leave it out"
        )
    return kept.to(living.device), images


def check_shape(nulls: Any, size: int) -> None:
    """Refuse what cannot be independent vectors of N = size entries; raises ValueError."""
    if nulls is None:
        return
    if not isinstance(nulls, Tensor) or nulls.ndim != 2 or nulls.shape[0] != size or nulls.shape[1] >= size:
        got = tuple(nulls.shape) if isinstance(nulls, Tensor) else type(nulls).__name__
        raise ValueError(f"null_vectors must be a tensor ({size}, z), z < {size}, of independent columns; got {got}")
    if not bool(nulls.isfinite().all()):
        raise ValueError("null_vectors must be finite; got NaN or infinity")
    if nulls.shape[1] and int(torch.linalg.matrix_rank(nulls.to(torch.float64))) < nulls.shape[1]:
        raise ValueError("null_vectors must be independent columns; got dependent ones: drop the superfluous")
