"""Which method leaves which critical point, and in how many steps.

Every method starts at the point itself, or at a stated distance from it in a random direction, and has left once the
loss is below `CriticalPoint.left_below`. One setting a method, the same on all landscapes: the table compares what the
methods are, not how well each can be tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

from lanczos_saddle.landscapes.critical_points import CriticalPoint, mean_loss
from lanczos_saddle.paper.methods import make_optimizer, take_step
from lanczos_saddle.paper.perturbations import NoisySGD, PerturbedGradientDescent
from lanczos_saddle.paper.saddle_free import SaddleFreeNewton
from lanczos_saddle.streams import Streams

Maker = Callable[[Iterable[Tensor], torch.Generator], Optimizer]

STEP = 0.02
"""Of every method that has one: below 2 / L for the largest curvature L of the catalogue's minima, 8."""

METHODS: dict[str, Maker] = {
    "gradient descent": lambda p, g: make_optimizer("sgd", p, step=STEP, generator=g),
    "momentum": lambda p, g: make_optimizer("sgd", p, step=STEP, momentum=0.9, nesterov=True, generator=g),
    "adam": lambda p, g: make_optimizer("adam", p, step=STEP, generator=g),
    "adagrad": lambda p, g: make_optimizer("adagrad", p, step=STEP, generator=g),
    "noisy SGD": lambda p, g: NoisySGD(p, lr=STEP, noise=1e-3, generator=g),
    "perturbed GD": lambda p, g: PerturbedGradientDescent(
        p, lr=STEP, radius=1e-2, gradient_threshold=1e-3, decrease=1e-5, wait=300, generator=g
    ),
    "saddle-free Newton": lambda p, g: SaddleFreeNewton(p),  # noqa: ARG005
}


@dataclass(frozen=True)
class Escape:
    """One run: `steps` until the loss was below the point's `left_below`, None if that did not happen."""

    point: str
    method: str
    distance: float
    steps: int | None
    spent: int  # steps made; fewer than the limit where the method ended by itself or could not move


def escape(point: CriticalPoint, method: str, *, distance: float, limit: int, generator: torch.Generator) -> Escape:
    """Run `method` on full gradients from `distance` off the point, at most `limit` steps.

    The direction is uniform on the sphere. Cost: the steps. The point's model is left alone.

    Raises ValueError for an unknown method, a negative distance, or a limit below 1.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if not 0 <= distance < torch.inf or limit < 1:
        raise ValueError(f"an escape needs a distance of at least 0 and a limit of at least 1; got {distance}, {limit}")
    model, level = copy.deepcopy(point.model), point.left_below()
    streams = Streams(generator).split("start", "method")
    displace(model, distance, streams["start"])
    optimizer = METHODS[method](model.parameters(), streams["method"])
    for steps in range(limit + 1):
        value = take_step(optimizer, lambda: mean_loss(model, point))
        if float(value) < level:
            return Escape(point.name, method, distance, steps, steps)
        if is_over(optimizer) or (steps == 0 and at_rest(optimizer)):
            return Escape(point.name, method, distance, None, steps)
    return Escape(point.name, method, distance, None, limit)


def escapes(
    points: Sequence[CriticalPoint],
    *,
    distance: float,
    limit: int,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
) -> list[Escape]:
    """Every method from every point; all methods start from the same displaced points."""
    return [
        escape(point, method, distance=distance, limit=limit, generator=torch.Generator().manual_seed(seed))
        for point in points
        for method in methods
    ]


def trajectory(
    function: Callable[[Tensor], Tensor],
    start: Sequence[float],
    method: str,
    *,
    steps: int,
    seed: int = 0,
    stop: Callable[[Tensor], bool] = lambda _: False,
) -> Tensor:
    """The points (k + 1, N) of at most `steps` steps on a function of one vector, until `stop`."""
    place = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = METHODS[method]([place], torch.Generator().manual_seed(seed))
    points = [place.detach().clone()]
    while len(points) <= steps and not is_over(optimizer) and not stop(points[-1]):
        take_step(optimizer, lambda: function(place))
        points.append(place.detach().clone())
    return torch.stack(points)


def displace(model: nn.Module, distance: float, generator: torch.Generator) -> None:
    """Move the parameters by `distance` in a direction uniform on the sphere."""
    parameters = list(model.parameters())
    theta = parameters_to_vector(parameters).detach()
    way = torch.randn(len(theta), generator=generator, dtype=torch.float64)
    vector_to_parameters(theta + distance * (way / way.norm()).to(theta), parameters)


def at_rest(optimizer: Optimizer) -> bool:
    """Whether a method without noise has begun with a gradient of exactly zero: it will never move."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    silent = isinstance(optimizer, torch.optim.SGD | torch.optim.Adam | torch.optim.Adagrad)
    return silent and not any(bool(g.any()) for g in gradients if g is not None)


def is_over(optimizer: Optimizer) -> bool:
    """Whether the method has ended by its own rule, or made a step that leads nowhere and would be repeated."""
    if isinstance(optimizer, PerturbedGradientDescent):
        return optimizer.finished
    return isinstance(optimizer, SaddleFreeNewton) and optimizer.stays
