"""The strict-saddle property, looked for along a training run.

A function is (alpha, gamma, epsilon, delta)-strict-saddle if at every point one of three clauses holds (Ge, Huang, Jin
and Yuan 2015):

    gradient     |grad f| >= epsilon
    curvature    lambda_min <= -gamma
    minimum      a local minimum within delta, in whose 2 delta ball f is alpha-strongly convex

The third implies lambda_min >= alpha at the point itself. So a point with |grad f| < epsilon and
-gamma < lambda_min < alpha refutes the property for these constants, whatever delta; a run without such a point
proves nothing. The points of `splitting` with 0 < l < 1 refute it for a two-layer net and *all* constants: their
gradient is zero, lambda_min is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lanczos_saddle.classification.definitions import strict_clauses
from lanczos_saddle.dense.exact import exact_eigenvalues
from lanczos_saddle.machine.progress import current, during
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.known_hessians import half_squared_error
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint
from lanczos_saddle.studies.landscapes.splitting import tanh_net
from lanczos_saddle.training.methods import make_optimizer, take_step

LOOKS = tuple(range(0, 3001, 50))
"""Steps of a run at which it is looked at."""

SMALL, STEP = 0.05, 0.2
"""Of a run beside a teacher: the size of its first weights, the step of gradient descent."""


@dataclass(frozen=True)
class Visit:
    """A point of a run: what the three clauses ask for. Eigenvalues from a dense float64 Hessian."""

    step: int
    loss: float
    gradient_norm: float
    smallest: float  # eigenvalue
    largest: float

    def clause(self, *, alpha: float, gamma: float, epsilon: float) -> str:
        """Which clause can hold here: "gradient", "curvature", "minimum", or "none": the property is refuted."""
        smallest = self.smallest, self.smallest
        answers = strict_clauses(self.gradient_norm, smallest, alpha=alpha, gamma=gamma, epsilon=epsilon)
        return next((name for name, answer in answers.items() if answer != "fails"), "none")


def visit(hessian: Hessian, step: int) -> Visit:
    """The quantities of the clauses at the Hessian's own point. Cost: N products and a dense solve."""
    values, problem = exact_eigenvalues(hessian), hessian.problem
    gradient = float(problem.gradient().norm())
    return Visit(step, float(problem.value()), gradient, float(values[0]), float(values[-1]))


def visit_point(point: CriticalPoint) -> Visit:
    """The same at a critical point of the package."""
    return visit(point.hessian(), 0)


@during("run of a two-layer net", lambda *, steps=LOOKS, **_: steps[-1], unit="step")
def teacher_run(
    *, hidden: int = 4, features: int = 3, samples: int = 50, steps: Sequence[int] = LOOKS, generator: torch.Generator
) -> list[Visit]:
    """Gradient descent on tanh(X W') a from small weights, targets from such a net with half as many units.

    Starts near the saddle at the origin and passes others. `steps`: ascending, where to look.
    Cost: the steps, and a dense Hessian of hidden * (features + 1) parameters at each look.
    """
    inputs = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    model = tanh_net(features, hidden)
    teacher = torch.randn(features, hidden // 2, generator=generator, dtype=torch.float64)
    targets = (inputs @ teacher).tanh().sum(1, keepdim=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(SMALL * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    optimizer = make_optimizer("sgd", model.parameters(), step=STEP, generator=generator)
    found = []
    for t in range(steps[-1] + 1):
        if t in steps:
            found.append(visit(Hessian(model, half_squared_error, (inputs, targets)), t))
        current().to(t)
        take_step(optimizer, lambda: half_squared_error(model(inputs), targets))
    return found
