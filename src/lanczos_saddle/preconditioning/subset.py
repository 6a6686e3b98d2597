"""The curvature of few samples stands in for that of all where a wrong answer costs only products.

In a trained network most samples are certain and few carry the curvature: with Sigma_s the Hessian of sample s's
loss in its outputs, the samples of largest |Sigma_s z|, z Gaussian, are chosen, and

    H_sub = (1 / weight of all) sum over chosen s of their second derivatives

is close to H at a fraction of its cost. Randomized Rayleigh-Ritz on S_0'(H_sub - tI)S_0 finds r directions along
which a first S_0 is worst, and scales them (Halko, Martinsson and Tropp 2011).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.machine.progress import current, stage
from lanczos_saddle.networks.batches import Batch, Batches, map_tensors
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.preconditioning.congruence import Congruent, Corrected, Factor

BATCH = 1024
BLOCK = 256
DRAWS = 4
"""Gaussian z for a sample's score; the choice decides products only."""


@dataclass(frozen=True)
class Share:
    """`share` times the base: the mean over a part of the samples, as part of the mean over all."""

    base: Operator
    share: float

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.share * (self.base @ v)


def curvature_subset(
    operator: Curvature, plan: Callable[[int], int], generator: torch.Generator
) -> tuple[Operator, int, int]:
    """(H_sub, m, n): the same curvature matrix from those m = plan(n) of the n samples whose loss bends most.

    It is H itself where m >= n. Cost: a count of the samples, one forward pass and four products with each Sigma_s.
    Raises ValueError where the outputs are not one tensor with samples along its first dimension.
    """
    problem = operator.problem
    kept: list[tuple[Tensor, Any]] = []  # scores and samples, a batch each
    with problem.evaluating():
        total = sum(batch.size for batch in problem.batches(BATCH))
        samples = plan(total)
        if samples >= total:
            return operator, total, total
        for batch in problem.batches(BATCH):
            kept.append((_scores(problem, batch, generator), (batch.inputs, batch.targets)))
            if sum(len(scores) for scores, _ in kept) > 2 * samples + BATCH:
                kept = _best(kept, samples)
    part = copy.copy(problem)
    part.data = Batches([pair for scores, pair in _best(kept, samples) if len(scores)], problem.dtype, problem.device)
    part._weight, part._weights = None, {}
    other = copy.copy(operator)
    other.problem = part
    return Share(other, part.weight / problem.weight), samples, total


@dataclass(frozen=True)
class LowRank:
    """S(t) = S_0 (I + Z (F - I) Z'): Ritz vectors Z of M = S_0'(like - tI)S_0 with values Theta, scaled to one size.

    With c near the smallest |Theta| that was found, F = sqrt(c / (|Theta| + c)): what exceeds the remainder, which
    is about c, is brought down to it. One subspace serves several t.
    """

    base: Factor  # S_0
    directions: Tensor  # (N, r), orthonormal columns
    quadratic: Tensor  # (r, r), of S_0' like S_0
    gram: Tensor  # (r, r), of S_0'S_0

    def at(self, t: float) -> Corrected:
        """S for the threshold t; N r^2 operations."""
        values, vectors = torch.linalg.eigh(self.quadratic - t * self.gram)
        least = values.abs().quantile(0.1)
        return Corrected(self.base, self.directions @ vectors, (least / (values.abs() + least)).sqrt())


def low_rank(base: Factor, like: Operator, rank: int, generator: torch.Generator) -> LowRank:
    """The range of S_0' like S_0 from Gaussian vectors (randomized range finder); `like` is any cheap operator near H.

    Costs 2 r products with `like`, N r^2 operations and 3 N r numbers for a time; N r numbers remain.
    """
    matrix = Congruent(like, base, 0.0)

    def start() -> Tensor:
        drawn = torch.randn(like.shape[0], rank, generator=generator, dtype=torch.float64)
        return drawn.to(like.device, like.dtype)

    with stage("directions of S", 2 * rank, unit="column"):
        # a second pass would sharpen Z; the same products are better spent on a wider one
        z = torch.linalg.qr(_times(matrix, start())).Q
        scaled = _times(base, z, counted=False)
        quadratic = scaled.mT @ _times(like, scaled)
    return LowRank(base, z, (quadratic + quadratic.mT) / 2, scaled.mT @ scaled)


def _times(matrix: Operator | Factor, block: Tensor, *, counted: bool = True) -> Tensor:
    """The product, groups of columns one after the other: one with a wide block needs little beside it."""
    found = torch.empty_like(block)
    for part, into in zip(torch.split(block, BLOCK, dim=1), torch.split(found, BLOCK, dim=1), strict=True):
        into.copy_(matrix @ part)
        if counted:
            current().advance(part.shape[1])
    return found


def _best(kept: list[tuple[Tensor, Any]], samples: int) -> list[tuple[Tensor, Any]]:
    """The samples with the `samples` largest scores, and ties."""
    scores = torch.cat([s for s, _ in kept])
    least = scores.topk(min(samples, len(scores))).values[-1]

    def chosen(scores: Tensor, pair: Any) -> tuple[Tensor, Any]:
        mask = scores >= least
        return scores[mask], map_tensors(partial(_taken, mask), pair)

    return [chosen(*entry) for entry in kept]


def _taken(mask: Tensor, t: Tensor) -> Tensor:
    return t[mask.to(t.device)]


def _scores(problem: Problem, batch: Batch, generator: torch.Generator) -> Tensor:
    """(n,) root mean square of |Sigma_s z| over Gaussian z."""
    outputs = problem.outputs(problem.theta, batch)
    if not isinstance(outputs, Tensor) or outputs.ndim == 0 or outputs.shape[0] != batch.size:
        raise ValueError(
            "a preconditioner from a part of the samples needs outputs in one tensor, samples first; got "
            f"{type(outputs).__name__}: pass preconditioner=None, or an S of your own"
        )
    slope = torch.func.grad(lambda z: problem.share_of(z, batch))
    bend = torch.func.vjp(slope, outputs)[1]
    draws = (torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs) for _ in range(DRAWS))
    bent = torch.stack([bend(z)[0].reshape(batch.size, -1) for z in draws])
    scores: Tensor = bent.square().sum(dim=(0, 2)).sqrt()
    return scores
