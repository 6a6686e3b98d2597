"""Everything that is proved of a matrix before it is counted, in one value (`Knowledge`); where types are asked for."""

from __future__ import annotations

import math
from typing import Any

from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.knowledge import NOTHING, ConvexBlock, Knowledge
from lanczos_saddle.operators.operator import Operator, precise
from lanczos_saddle.structure.facts import Recognized, block_of, bound_of, kinked, look, nonnegative_loss
from lanczos_saddle.structure.layer_block import LayerBlock


def know(operator: Any, *, layer: str | None = None) -> Knowledge:
    """What is known of a `Hessian` or a `GaussNewton`; of everything else, a subclass too, what it says of itself.

    An operator may have it as `knowledge`; otherwise nothing is known.

    `layer`: whose convex block is wanted; the largest one if not given. Cost: at most one pass over the data through
    the first layer, no product. Raises ValueError for a layer that is not a Linear module of a recognized network.
    """
    own = getattr(operator, "knowledge", None)
    if isinstance(own, Knowledge):
        return own if layer is None else _of_layer(own, layer)
    if type(operator) not in (Hessian, GaussNewton):  # a subclass may multiply by something else
        return NOTHING
    seen = look(operator.problem)
    lowest = 0.0 if nonnegative_loss(operator.problem, convex=seen is not None) else -math.inf
    return known_of(operator, seen, lowest=lowest, layer=layer)


def known_of(operator: Curvature, seen: Recognized | None, *, lowest: float, layer: str | None = None) -> Knowledge:
    """`know` of a matrix whose network was looked at; `lowest` bounds its loss from below."""
    problem, of_loss = operator.problem, type(operator) is Hessian
    bound = None if seen is None else bound_of(problem, seen)
    block = block_of(problem, seen, layer) if seen is not None and of_loss else None
    return Knowledge(
        negative_at_most=None if bound is None else bound[0],
        reason="" if bound is None else bound[1],
        block=block,
        multiply_block=None if block is None else lambda matrix: _cheaper(matrix, block),
        curvature="hessian" if of_loss else "gauss-newton",
        lowest=lowest,
        kinks=kinked(problem),
        point=lambda: _point(operator),
    )


def _of_layer(known: Knowledge, layer: str) -> Knowledge:
    """What an operator knows of itself, if its block is that layer's; raises ValueError where it is not."""
    if known.block is not None and known.block.layer != layer:
        raise ValueError(f"the block of this operator is that of layer {known.block.layer!r}; got {layer!r}")
    return known


def _cheaper(matrix: Operator, block: ConvexBlock) -> Operator | None:
    """The block of a Hessian by two matrix products; None where its inputs or outputs are not one row a sample."""
    problem = getattr(matrix, "problem", None)
    return LayerBlock(problem, block) if problem is not None and LayerBlock.supports(problem, block) else None


def _point(operator: Curvature) -> tuple[float, float]:
    matrix: Any = precise(operator)
    problem = matrix.problem
    return float(problem.gradient().norm()), float(problem.value())
