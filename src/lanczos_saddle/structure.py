"""Exact facts about the Hessians of networks, at any parameters (docs/method.md, with proofs).

dead coordinates   rows of H that are identically zero: dropping them changes no other eigenvalue
negative_bound     an upper bound on the number of negative eigenvalues, from the architecture and the loss
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle.operator import Operator

PIECEWISE_LINEAR = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Flatten)
CONVEX_LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.BCEWithLogitsLoss)
CONVEX_FUNCTIONS = (nn.functional.cross_entropy, nn.functional.mse_loss)


def dead_coordinates(operator: Operator, *, generator: torch.Generator | None = None) -> Tensor:
    """(N,) bool: coordinates whose row of H is zero; two products.

    For a nonzero row h_j, h_j'g vanishes for a Gaussian g with probability 0; it is asked of two independent g.
    In a network: a pixel that is 0 in all the data times every unit it feeds; a unit that never fires.
    """
    generator = generator or torch.Generator().manual_seed(0)
    probes = torch.randn(operator.shape[0], 2, generator=generator, dtype=torch.float64)
    dead: Tensor = ((operator @ probes.to(operator.device, operator.dtype)) == 0).all(dim=1)
    return dead


def negative_bound(problem: Any) -> tuple[int, str] | None:
    """(bound, reason) on the negative eigenvalues of the Hessian of a problem, or None where nothing is known.

    With piecewise-linear activations and a loss that is convex in the outputs, the outputs are affine in each
    layer's own parameters, so every layer's diagonal block is positive semidefinite and

        negative <= N - max_l N_l.

    With one hidden ReLU layer of h units and softmax cross-entropy over C classes the residual part of the Hessian
    is a sum of h blocks of rank <= min(d + 1, C - 1) (residuals sum to zero over the classes), each with as many
    negative as positive eigenvalues, and negative(G + R) <= negative(R) for G positive semidefinite:

        negative <= h min(d + 1, C - 1).

    Both survive the selection of parameters (interlacing). Recognized: `nn.Sequential` of Linear and piecewise-linear
    modules with torch's own convex losses.
    """
    model, loss = getattr(problem, "model", None), getattr(problem, "loss", None)
    if type(model) is not nn.Sequential or not _convex(loss):
        return None
    # exact types: a subclass (weight norm, a loss with a forward of its own) may be another function
    layers = [module for module in model if type(module) is nn.Linear]
    others = [module for module in model if type(module) is not nn.Linear]
    distinct = len({id(p) for layer in layers for p in layer.parameters()}) == sum(
        1 for x in layers for _ in x.parameters()
    )
    if not layers or not distinct or not all(type(module) in PIECEWISE_LINEAR for module in others):
        return None
    bounds = [_layer_bound(problem, model)]
    # classes along the last dimension of the outputs: for more dimensions torch takes them along the second
    rows = getattr(problem, "output_dimensions", None) == 2
    if (
        rows
        and _is_softmax(loss)
        and [type(m) for m in model if not isinstance(m, nn.Identity | nn.Flatten)] == [nn.Linear, nn.ReLU, nn.Linear]
        and layers[0].out_features == layers[1].in_features
    ):  # no unit is used twice
        first, last = layers
        rank = min(first.in_features + (first.bias is not None), last.out_features - 1)
        bounds.append(
            (first.out_features * rank, f"{first.out_features} hidden units x min(inputs + 1, classes - 1) = {rank}")
        )
    return min(bounds)


def _layer_bound(problem: Any, model: nn.Sequential) -> tuple[int, str]:
    """N - max_l N_l over the selected parameters, by the module that owns each."""
    owned: dict[str, int] = {}
    parameters = dict(model.named_parameters())
    for name in problem.names:
        layer = name.rpartition(".")[0]
        owned[layer] = owned.get(layer, 0) + parameters[name].numel()
    largest = max(owned, key=lambda layer: owned[layer])
    return sum(owned.values()) - owned[largest], f"the diagonal block of layer {largest!r} is positive semidefinite"


def _convex(loss: Any) -> bool:
    weight = getattr(loss, "weight", None)
    signed = isinstance(weight, Tensor) and bool((weight < 0).any())
    return (type(loss) in CONVEX_LOSSES and not signed) or loss in CONVEX_FUNCTIONS


def _is_softmax(loss: Any) -> bool:
    return type(loss) is nn.CrossEntropyLoss or loss is nn.functional.cross_entropy
