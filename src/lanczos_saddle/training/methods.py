"""The training methods of the paper by name: what makes the optimizer, and the step it was run with.

    sgd                  momentum as asked for, Nesterov's by default: v <- mu v + g, theta <- theta - eta (g + mu v)
    adam                 eps 1e-8, betas 0.9 and 0.999
    adagrad              eps 1e-10
    noisy-sgd            uniform noise added to the gradient, with momentum where asked for
    perturbed-gd         noise from a ball, added to the parameters where the gradient has stayed small
    saddle-free-newton   |lambda|^-1 in a Krylov subspace

The first three are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lanczos_saddle.training.perturbations import NoisySGD, PerturbedGradientDescent
from lanczos_saddle.training.saddle_free import SaddleFreeNewton

STEPS = {"sgd": 0.05, "adam": 1e-3, "adagrad": 1e-2, "noisy-sgd": 0.1, "perturbed-gd": 0.1, "saddle-free-newton": 1.0}
"""Each method's step: torch's defaults for Adam and Adagrad, the published code's 0.1 where noise is added."""

NOISE = 1e-3
"""Half-width of noisy SGD's uniform noise: the published code's."""

RADIUS, SMALL_GRADIENT = 1.0, 0.3
"""Perturbed gradient descent: the paper's "unit ball"; and the norm up to which a batch's gradient counts as small,
which the paper does not give. On CIFAR-10 features 0.3 lets 37 perturbations happen in a run, and 0.1 none."""


def make_optimizer(
    method: str,
    params: Iterable[Tensor],
    *,
    step: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    generator: torch.Generator,
) -> Optimizer:
    """The optimizer called `method` on the parameters; momentum is for the two of sgd, the generator for noise.

    Raises:
        ValueError: for an unknown method, or options that the optimizer refuses.
    """
    check_method(method)
    makers: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(params, lr=step, momentum=momentum, nesterov=nesterov),
        "adam": lambda: torch.optim.Adam(params, lr=step, betas=(0.9, 0.999), eps=1e-8),
        "adagrad": lambda: torch.optim.Adagrad(params, lr=step, eps=1e-10),
        "noisy-sgd": lambda: NoisySGD(params, lr=step, noise=NOISE, momentum=momentum, generator=generator),
        "perturbed-gd": lambda: PerturbedGradientDescent(
            params, lr=step, radius=RADIUS, gradient_threshold=SMALL_GRADIENT, generator=generator
        ),
        "saddle-free-newton": lambda: SaddleFreeNewton(params, lr=step),
    }
    return makers[method]()


def check_method(method: str) -> None:
    """Raises ValueError for a name that is not a method."""
    if method not in STEPS:
        raise ValueError(f"method must be one of {', '.join(STEPS)}; got {method!r}")


def take_step(optimizer: Optimizer, loss: Callable[[], Tensor]) -> Tensor:
    """One step of any of the methods on `loss()`, which only evaluates; returns the loss where it began."""
    if isinstance(optimizer, SaddleFreeNewton):
        return optimizer.step(loss)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value.detach()

    value: Tensor = optimizer.step(closure)  # type: ignore[arg-type, assignment]
    return value
