"""Which method leaves which critical point, and in how many steps.

Every method starts at the point itself, or at a stated distance from it in a random direction, and has left once the
loss is below `CriticalPoint.left_below`. One setting a method, the same on all landscapes: the table compares what the
methods are, not how well each can be tuned.

Where the curvature is -gamma, gradient descent with step eta grows e-fold in 1 / (eta gamma) steps: the unit of time in
which the patience of perturbed gradient descent, and the steps allowed at a strict saddle, are chosen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

from lanczos_saddle.dense.exact import exact_eigenvalues
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.machine.streams import Streams
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint, mean_loss
from lanczos_saddle.training.methods import make_optimizer, take_step
from lanczos_saddle.training.perturbations import NoisySGD, PerturbedGradientDescent
from lanczos_saddle.training.saddle_free import SaddleFreeNewton

Maker = Callable[[Iterable[Tensor], torch.Generator], Optimizer]

STEP = 0.02
"""Of every method that has one: below 2 / L for the largest curvature L of the catalogue's minima, 8."""

RADIUS, DECREASE, WAIT = 1e-2, 1e-5, 2500
"""Of perturbed gradient descent: perturbations from the ball of RADIUS; it ends where the loss has fallen by less than
DECREASE in the WAIT steps after one.

The weakest way down from a strict saddle of the catalogue has curvature -gamma = -0.093: the split unit, l = 1.5.
WAIT is ln(100) / (STEP gamma), in which the part of a perturbation along that way grows a hundredfold; a part of
RADIUS / 70 is then enough for DECREASE. Of 20,000 perturbations 0.2 % were too small; with a WAIT of 1000 it is 24 %,
with 300 it is 99 %. DECREASE is twice gamma RADIUS^2 / 2: a run that goes on has left the ball, and no later
perturbation takes it back.

In the terms of `jin_constants` WAIT is chi / (STEP gamma), with c = 1 and gamma = sqrt(rho epsilon). There chi is at
least 12, for a proof instead of a rate: at least 6,455 steps, and 27,137 from a RADIUS of 7e-8 at rho = 1.
"""

GRADIENT_THRESHOLD = 1e-3
"""Of perturbed gradient descent: a gradient that small at gamma = 0.093 is within 1e-2 of the saddle, as RADIUS is."""

E_FOLDINGS = 20
"""Steps allowed at a strict saddle, in times 1 / (STEP gamma): 11 take noise of 1e-3 STEP to 1, the rest is for starts
that point elsewhere and for flat places behind."""

RANDOM = ("noisy SGD", "perturbed GD")
"""The methods that draw numbers."""

METHODS: dict[str, Maker] = {
    "gradient descent": lambda p, g: make_optimizer("sgd", p, step=STEP, generator=g),
    "momentum": lambda p, g: make_optimizer("sgd", p, step=STEP, momentum=0.9, nesterov=True, generator=g),
    "adam": lambda p, g: make_optimizer("adam", p, step=STEP, generator=g),
    "adagrad": lambda p, g: make_optimizer("adagrad", p, step=STEP, generator=g),
    "noisy SGD": lambda p, g: NoisySGD(p, lr=STEP, noise=1e-3, generator=g),
    "perturbed GD": lambda p, g: PerturbedGradientDescent(
        p, lr=STEP, radius=RADIUS, gradient_threshold=GRADIENT_THRESHOLD, decrease=DECREASE, wait=WAIT, generator=g
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
    limit: int  # steps allowed
    trial: int = 0  # of several with their own random numbers


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
            return Escape(point.name, method, distance, steps, steps, limit)
        if is_over(optimizer) or (steps == 0 and at_rest(optimizer)):
            return Escape(point.name, method, distance, None, steps, limit)
    return Escape(point.name, method, distance, None, limit, limit)


def escapes(
    points: Sequence[CriticalPoint],
    *,
    distance: float,
    limit: int,
    seed: int = 0,
    methods: Sequence[str] = tuple(METHODS),
    trials: int = 1,
) -> list[Escape]:
    """Every method from every point, `trials` times where the start or the method is random, else once.

    In a trial all methods start from the same displaced points. Each has `steps_allowed` steps, at least `limit`.

    Raises ValueError for fewer trials than one, and where `escape` does.
    """
    if trials < 1:
        raise ValueError(f"trials must be at least 1; got {trials}")
    found = []
    with stage(f"escapes from {distance:g}", len(points) * len(methods), unit="run") as told:
        for point in points:
            allowed = steps_allowed(point, limit)
            for method in methods:
                streams = Streams(torch.Generator().manual_seed(seed))
                for trial in range(trials if distance > 0 or method in RANDOM else 1):
                    run = escape(point, method, distance=distance, limit=allowed, generator=streams.spawn())
                    found.append(replace(run, trial=trial))
                told.advance()
    return found


def steps_allowed(point: CriticalPoint, limit: int) -> int:
    """`limit`, or E_FOLDINGS / (STEP gamma) if that is more, -gamma < 0 the smallest eigenvalue at the point."""
    if not point.counts[0]:
        return limit
    gamma = -float(exact_eigenvalues(point.hessian())[0])
    return max(limit, math.ceil(E_FOLDINGS / (STEP * gamma)))


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
