"""How many eigenvalues lie below -tau, without chance: a layer's block is eliminated, what remains is small.

    H + tau I = [[A + tau I, B], [B', D + tau I]],   A >= 0 by structure (`structure.convex_block`)

    #{lambda(H) < -tau} = #{eig(S) < 0},   S = D + tau I - B'(A + tau I)^-1 B,   (N - N_1, N - N_1)

Block conjugate gradients (`block_cg`) approach (A + tau I)^-1 B for all thresholds from the same products; every
approximation gives certified bounds on both sides (`elimination_bounds`), so stopping by what is seen costs nothing.
Worth it where N - N_1 is small: one hidden layer, a head, a net with one layer much larger than the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lanczos_saddle.certificates.intervals import check_positive
from lanczos_saddle.counting.elimination_run import Run, Target
from lanczos_saddle.counting.partition import COMPARISON, partition
from lanczos_saddle.krylov.preflight import check_operator, preflight_products
from lanczos_saddle.machine.memory import require_bytes
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.knowledge import ConvexBlock, Knowledge
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, in_float64, precise
from lanczos_saddle.operators.resolution import OperatorCheck
from lanczos_saddle.structure.know import know

CHEAP = 50  # N / (N - N_1) from which elimination is chosen automatically
BLOCKS = 9  # (N_1, N - N_1) held at once, beside two for every threshold


@dataclass(frozen=True)
class Elimination:
    """lower <= #{lambda < -threshold} <= upper, without chance; the noise of a product is the one measured number."""

    lower: int
    upper: int
    threshold: float  # tau, in units of eigenvalues
    layer: str  # the module whose block was eliminated
    eliminated: int  # N_1
    remaining: int  # N - N_1
    rank: int  # columns of B that are independent: the width of the blocks
    iterations: int  # blocks of products with A for this threshold
    products: int  # H @ v, all thresholds of the call together, everything included
    residual: float  # |B - (A + tau I) X|_2, in units of eigenvalues
    margin: float  # what rounding may move the eigenvalues of the small matrix by
    seconds: float  # all thresholds together
    check: OperatorCheck
    stopped: str  # why no more products were made

    def __str__(self) -> str:
        count = str(self.lower) if self.lower == self.upper else f"[{self.lower}, {self.upper}]"
        return (
            f"negative  lambda < -{self.threshold:.3e}  {count}, certain: layer {self.layer!r} eliminated, "
            f"{self.remaining} of {self.eliminated + self.remaining} remain, {self.products} products, "
            f"{self.seconds:.1f} s"
        )


@led
@differentiable
def negative_count_by_elimination(
    hessian: Operator,
    threshold: float,
    *,
    layer: str | None = None,
    max_products: int | None = None,
    check: OperatorCheck | None = None,
    knowledge: Knowledge | None = None,
    progress: bool = False,
) -> Elimination:
    """Bounds on the number of eigenvalues below -threshold that always hold; see `negative_counts_by_elimination`."""
    return negative_counts_by_elimination(
        hessian,
        [threshold],
        layer=layer,
        max_products=max_products,
        check=check,
        knowledge=knowledge,
        progress=progress,
    )[0]


def negative_counts_by_elimination(
    hessian: Operator,
    thresholds: Sequence[float],
    *,
    layer: str | None = None,
    max_products: int | None = None,
    check: OperatorCheck | None = None,
    knowledge: Knowledge | None = None,
    progress: bool = False,
) -> tuple[Elimination, ...]:
    """Bounds on #{lambda < -tau} for several tau that always hold, from one sequence of block products.

    Args:
        hessian: a `Hessian` of a sequential piecewise-linear network with a convex loss (`structure.convex_block`);
            it is taken in float64.
        thresholds: each tau > 0, absolute.
        layer: name of the Linear module whose block is eliminated; the one with the largest block if not given.
        max_products: at most this many products in all; if not given N, the cost of an exact assembly, or what the
            first certificates take.
        check: the result of `check_operator` for the same operator in float64; made here if not given (11 products).
        knowledge: what is known of it already; asked for here if not given, in one pass over the data.
        progress: a bar on stderr with the current bounds.

    Cost: N - N_1 products for B and D, at most N - N_1 for each step of block conjugate gradients and as many for
    the certificate of each threshold. Memory: 9 + 2 len(thresholds) blocks (N_1, N - N_1) of float64.

    Raises:
        ValueError: a Hessian whose structure is not recognized, so that A >= 0 is not proved; a threshold that is not
            positive; a budget that does not reach the first certificate; memory that cannot suffice.
    """
    knowledge = know(hessian, layer=layer) if knowledge is None or layer is not None else knowledge
    block = eliminated_block(knowledge)
    if len(thresholds) == 0:
        raise ValueError("pass at least one threshold tau > 0; got none")
    for tau in thresholds:
        check_positive(tau)
    began, n, s = time.perf_counter(), len(block.index), len(block.rest)
    size = n + s
    reference = in_float64(hessian)
    operator: Any = hessian if reference is None else reference
    known = check is not None
    bound = knowledge.negative_at_most
    cap = s if bound is None else min(s, bound)
    check = check or check_operator(operator, threshold=min(thresholds))
    spent = 0 if known else check.products
    least = spent + COMPARISON + s * (2 + len(thresholds))
    most = max(size, least) if max_products is None else max_products
    if cap > 0 and most < least:
        raise ValueError(
            f"max_products must reach one certificate for every threshold; got {most}: raise it to at least {least}"
        )
    require_bytes(
        (BLOCKS + 2 * len(thresholds)) * n * s * 8,
        operator.device,
        f"the elimination of {n} parameters with {s} left",
        "pass fewer thresholds, or count with method='lanczos'",
    )
    targets, run, stopped = [Target(tau, upper=cap) for tau in thresholds], None, "structure allows none"
    if cap > 0:
        with torch.no_grad():
            fast = None if knowledge.multiply_block is None else knowledge.multiply_block(operator)
            parts = partition(operator, block, fast, check)
            spent += parts.products
            run = Run(parts, cap, most - spent, targets)
            stopped = run.extend(progress)
    return tuple(
        Elimination(
            target.lower,
            target.upper,
            target.threshold,
            block.layer,
            n,
            s,
            run.rank if run else 0,
            target.iterations,
            spent + (run.products if run else 0),
            target.residual,
            target.margin,
            time.perf_counter() - began,
            check,
            target.settled or stopped,
        )
        for target in targets
    )


def least_elimination(hessian: Any, knowledge: Knowledge, *, known: bool) -> int:
    """Products that reach one certificate for one threshold; `known`: the check is, as one in float64.

    Raises ValueError for what elimination does not take.
    """
    block = eliminated_block(knowledge)
    made = 0 if known else preflight_products(precise(hessian))
    return made + COMPARISON + 3 * len(block.rest)


def can_eliminate(knowledge: Knowledge) -> bool:
    """Whether the negative eigenvalues can be bounded by elimination, and cheaply.

    True for a recognized Hessian of which at most N / 50 parameters are left: some twenty blocks of products, what the
    networks of validate/elimination.py take, are then fewer than half of an exact assembly.
    """
    block = knowledge.block
    return block is not None and len(block.rest) * CHEAP <= len(block.index) + len(block.rest)


def eliminated_block(knowledge: Knowledge) -> ConvexBlock:
    """The block to eliminate; raises ValueError where its sign is not proved."""
    if knowledge.block is None:
        raise ValueError(
            "elimination needs a Hessian whose structure proves a block positive semidefinite: a torch.nn.Sequential "
            "of Linear and piecewise-linear modules with one of torch's convex losses, unaltered; "
            "got another model, loss or operator: count with method='lanczos'"
        )
    return knowledge.block
