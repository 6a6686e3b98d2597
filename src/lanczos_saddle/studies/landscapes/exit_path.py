"""A path that never rises, from inside a segment of degenerate minima to a lower loss.

Along l the loss of a split net is constant; beyond the end of the segment, at l > 1, the point is a strict saddle, and
from there the direction of D's curvature and then the gradient lead down:

    (w_1, w_2) = w + t ((1 - l) u, -l u):   loss + t^2 l (1 - l) u'Du / 2 + O(t^3)

Petzka and Sminchisescu 2021: these minima lie in connected sets from which a non-increasing path leads out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.studies.landscapes.splitting import SmallNet, split

KICK = 1e-2  # length of the first step off the saddle
ROUNDING = 1e-15  # relative to the loss: a smaller decrease cannot be seen
INSIDE = 8  # points of every straight piece at which the loss must have fallen


@dataclass(frozen=True)
class ExitPath:
    """The loss along a path: `flat` points on which l moves, then points of descent."""

    shares: NDArray[np.float64]  # (flat,) l
    losses: NDArray[np.float64]  # (flat + descent,)
    parameters: NDArray[np.float64]  # (flat + descent, N)

    @property
    def flat(self) -> int:
        """Points before the descent."""
        return len(self.shares)


def exit_path(net: SmallNet, *, start: float = 0.5, end: float = 1.5, flat: int = 41, descent: int = 200) -> ExitPath:
    """From the split at l = `start` inside (0, 1) along l to `end` beyond, then gradient descent.

    Steps of the descent end before the loss rises along them, as seen at `INSIDE` points and by the slope at the end;
    the descent ends early where there is no such step. Cost: a gradient and some ten losses a step.

    Raises ValueError unless 0 < start < 1 < end, with at least the two ends on the flat part.
    """
    if flat < 2 or descent < 0:
        raise ValueError(f"the path needs flat >= 2 points, its ends, and descent >= 0 steps; got {flat} and {descent}")
    if not 0 < start < 1 < end:
        raise ValueError(f"the path needs 0 < start < 1 < end, inside the segment and beyond; got {start}, {end}")
    shares = np.linspace(start, end, flat)
    problems = [_problem(net, share) for share in shares]
    points = [problem.theta for problem in problems]
    losses = [float(problem.value()) for problem in problems]
    last = problems[-1]
    theta, step = points[-1] + KICK * _way_down(net, end), 1.0
    for _ in range(descent):
        points.append(theta)
        losses.append(float(last.value(theta)))
        gradient = last.gradient(theta)
        slope = float(gradient.square().sum())
        while step * slope > ROUNDING * losses[-1] and not _falls(last, theta, step * gradient):
            step /= 2
        if step * slope <= ROUNDING * losses[-1]:
            break
        theta, step = theta - step * gradient, 2 * step
    return ExitPath(shares, np.array(losses), torch.stack(points).numpy())


def _problem(net: SmallNet, share: float) -> Problem:
    point = split(net, float(share))
    return Problem(point.model, point.loss, point.data)


def _falls(problem: Problem, theta: Tensor, way: Tensor) -> bool:
    """Whether the loss falls from point to point along -way, and is not yet rising at the end."""
    values = [float(problem.value(theta - part / INSIDE * way)) for part in range(INSIDE + 1)]
    slope = float(problem.gradient(theta - way) @ way)
    return slope >= 0 and all(b < a for a, b in pairwise(values))


def _way_down(net: SmallNet, share: float) -> Tensor:
    """The unit vector of ((1 - l) u, -l u) for u = e_1, 0 elsewhere; parameters ordered w_1, w_2, ..., a."""
    features, units = net.inputs.shape[1], len(net.outputs) + 1
    direction = torch.zeros(units * (features + 1), dtype=torch.float64)
    direction[0], direction[features] = 1 - share, -share
    unit: Tensor = direction / torch.linalg.vector_norm(direction)
    return unit
