"""Gradient descent that adds noise to leave saddles, as torch optimizers.

    noisy SGD                        theta <- theta - eta (g + xi),    xi uniform in (-a, a), each coordinate
    perturbed gradient descent       theta <- theta + xi where |g| has stayed small, xi uniform in a ball; then
                                     theta <- theta - eta g

Ge, Huang, Jin and Yuan 2015 (noise on the unit sphere; the paper's code draws it as above); Jin, Ge,
Netrapalli, Kakade and Jordan 2017, Algorithm 2 with the constants of its analysis in `jin_constants`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import Optimizer

Closure = Callable[[], Any]  # clears the gradients, evaluates the loss, calls backward, returns the loss


class NoisySGD(Optimizer):
    """theta <- theta - lr v, v <- momentum v + g + xi, the coordinates of xi uniform in (-noise, noise).

    Their variance is noise^2 / 3. Without momentum, the default, this is the method of Ge et al.
    `generator` (CPU) draws the noise: the same on every device. Parameters without a gradient get noise alone
    if `requires_grad`. Cost of a step: N random numbers beside the gradient.

    Raises ValueError unless lr > 0 and noise >= 0 are finite, 0 <= momentum < 1, and the generator is on the CPU.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        noise: float = 1e-3,
        momentum: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        _check_positive(lr=lr)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1; got {momentum}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, the half-width of its interval; got {noise}")
        check_generator(generator)
        super().__init__(params, {"lr": lr, "noise": noise, "momentum": momentum})
        self._generator = generator

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step; with a closure, the loss that it returns."""
        loss = _evaluate(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if not p.requires_grad:
                    continue
                uniform = torch.rand(p.shape, generator=self._generator, dtype=torch.float64)
                direction = ((2 * uniform - 1) * group["noise"]).to(p)
                if p.grad is not None:
                    direction += p.grad
                if group["momentum"]:
                    state = self.state[p]
                    direction += group["momentum"] * state.get("velocity", 0.0)
                    state["velocity"] = direction
                p.sub_(direction, alpha=group["lr"])
        return loss


@dataclass(frozen=True)
class PerturbationConstants:
    """What steers perturbed gradient descent; `jin_constants` gives those of the analysis."""

    step: float  # eta
    radius: float  # of the ball of the perturbation
    gradient_threshold: float  # a gradient norm up to this is small
    decrease: float  # less than this after `wait` steps ends the run
    wait: int  # steps from one perturbation to the next


def jin_constants(
    *,
    dimension: int,
    smoothness: float,
    hessian_lipschitz: float,
    epsilon: float,
    gap: float,
    failure: float = 0.1,
    c: float = 1.0,
) -> PerturbationConstants:
    """The constants of Jin et al. 2017, Algorithm 2, for an l-smooth f with a rho-Lipschitz Hessian.

        chi = 3 max(log(d l gap / (c epsilon^2 failure)), 4),    eta = c / l,    radius = sqrt(c) epsilon / (chi^2 l)
        gradient_threshold = sqrt(c) epsilon / chi^2,    decrease = c sqrt(epsilon^3 / rho) / chi^3
        wait = chi l / (c^2 sqrt(rho epsilon))

    gap >= f(theta_0) - inf f. With probability 1 - failure the point returned has |grad| <= epsilon and
    lambda_min >= -sqrt(rho epsilon), for c below a constant that the analysis does not name.

    Raises ValueError for arguments that are not positive and finite.
    """
    _check_positive(
        dimension=dimension,
        smoothness=smoothness,
        hessian_lipschitz=hessian_lipschitz,
        epsilon=epsilon,
        gap=gap,
        failure=failure,
        c=c,
    )
    chi = 3 * max(math.log(dimension * smoothness * gap / (c * epsilon**2 * failure)), 4)
    return PerturbationConstants(
        step=c / smoothness,
        radius=math.sqrt(c) * epsilon / (chi**2 * smoothness),
        gradient_threshold=math.sqrt(c) * epsilon / chi**2,
        decrease=c * math.sqrt(epsilon**3 / hessian_lipschitz) / chi**3,
        wait=math.ceil(chi * smoothness / (c**2 * math.sqrt(hessian_lipschitz * epsilon))),
    )


@dataclass
class _Run:
    """Where a run of perturbed gradient descent is."""

    time: int = 0
    perturbed_at: int | None = None
    point: Tensor | None = None  # the parameters before the last perturbation,
    value: float = math.nan  # and the loss there
    perturbations: int = 0
    finished: bool = False


class PerturbedGradientDescent(Optimizer):
    """Gradient descent; where |g| <= gradient_threshold, and no perturbation in the last `wait` steps, a step first.

    That step is uniform in the ball of `radius`. Where f has fallen by less than `decrease` in the `wait` steps
    after it, the parameters go back to where they were before it, `finished` becomes True, and further steps do
    nothing. With decrease=None the run never ends by itself: values of different batches do not compare.

    `step` takes a closure that clears the gradients, calls backward and returns the loss. Where a perturbation is
    due, a step waits for the device: one norm, one value. `generator` (CPU) draws the perturbation. One group of
    parameters; one without a gradient is perturbed and else stays, and if none has one their norm is 0.

    `perturbations` counts those made so far. `state_dict` has all that a run needs to go on, except the state of
    `generator`, which is its owner's to keep.

    Raises ValueError for constants that are not positive and finite, a `wait` that is not a whole number, a generator
    not on the CPU, and parameters of which none requires a gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        radius: float = 1.0,
        gradient_threshold: float = 1e-3,
        decrease: float | None = None,
        wait: int = 50,
        generator: torch.Generator,
    ) -> None:
        _check_positive(lr=lr, radius=radius, gradient_threshold=gradient_threshold)
        _check_steps(wait=wait)
        if decrease is not None:
            _check_positive(decrease=decrease)
        check_generator(generator)
        options = {"radius": radius, "gradient_threshold": gradient_threshold, "decrease": decrease, "wait": wait}
        super().__init__(params, {"lr": lr, **options})
        self._parameters = only_group(self)
        self._generator = generator
        self._run = _Run()

    @property
    def finished(self) -> bool:
        """Whether the last perturbation has led nowhere: nothing is left to do."""
        return self._run.finished

    @property
    def perturbations(self) -> int:
        """How many were made so far."""
        return self._run.perturbations

    def state_dict(self) -> dict[str, Any]:
        """Torch's, and the clock and the place before the last perturbation."""
        return {**super().state_dict(), "run": asdict(self._run)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run of `state_dict` was."""
        super().load_state_dict(state_dict)
        self._run = _Run(**state_dict["run"])

    @torch.no_grad()
    def step(self, closure: Closure) -> Any:  # type: ignore[override]
        """One step of the algorithm; returns the loss where it began."""
        loss = _evaluate(closure)
        run, group = self._run, self.param_groups[0]
        if run.finished:
            return loss
        since = math.inf if run.perturbed_at is None else run.time - run.perturbed_at
        if since > group["wait"] and self._gradient_norm() <= group["gradient_threshold"]:
            self._perturb(float(loss), group["radius"])
            _evaluate(closure)  # the gradient where the perturbation has led
        elif since == group["wait"] and run.point is not None and self._in_vain(float(loss)):
            vector_to_parameters(run.point.to(self._parameters[0]), self._parameters)
            run.finished = True
            return loss
        for p in self._parameters:
            if p.grad is not None:
                p.sub_(p.grad, alpha=group["lr"])
        run.time += 1
        return loss

    def _in_vain(self, loss: float) -> bool:
        """Whether too little has been gained since the last perturbation."""
        decrease = self.param_groups[0]["decrease"]
        return decrease is not None and loss - self._run.value > -decrease

    def _gradient_norm(self) -> float:
        norms = [torch.linalg.vector_norm(p.grad) for p in self._parameters if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def _perturb(self, value: float, radius: float) -> None:
        point = parameters_to_vector(self._parameters).clone()
        run = self._run
        run.point, run.value, run.perturbed_at = point, value, run.time
        vector_to_parameters(point + uniform_in_ball(len(point), radius, self._generator).to(point), self._parameters)
        run.perturbations += 1


def uniform_in_ball(dimension: int, radius: float, generator: torch.Generator) -> Tensor:
    """A point (N,) float64 uniform in the ball around 0: a Gaussian direction, radius U^(1/N)."""
    direction = torch.randn(dimension, generator=generator, dtype=torch.float64)
    length = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / dimension)
    point: Tensor = radius * length * direction / torch.linalg.vector_norm(direction)
    return point


def only_group(optimizer: Optimizer) -> list[Tensor]:
    """The trainable parameters of an optimizer that treats them as one vector.

    Raises ValueError for several groups, and where nothing is trainable.
    """
    if len(optimizer.param_groups) != 1:
        raise ValueError(
            f"{type(optimizer).__name__} treats all parameters as one vector; got {len(optimizer.param_groups)} "
            "groups: pass them as one"
        )
    parameters = [p for p in optimizer.param_groups[0]["params"] if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(optimizer).__name__} moves the parameters that require a gradient; got none that requires a "
            "gradient: call requires_grad_() on those to be trained, before the optimizer is made"
        )
    return parameters


def check_generator(generator: torch.Generator) -> None:
    """Raises ValueError for a generator that is not on the CPU."""
    if generator.device.type != "cpu":
        raise ValueError(f"noise is drawn on the CPU, then moved; got a generator on {generator.device}")


def _evaluate(closure: Closure | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {value}")


def _check_steps(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of steps, of at least 1; got {value!r}")
