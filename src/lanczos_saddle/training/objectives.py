"""What is minimized, as losses (outputs, targets) -> 0-d mean over samples.

    cross-entropy    -log softmax(z)_y                  as the paper states
    squared-error    |softmax(z) - e_y|^2               the default of the library that the paper's code calls
    reconstruction   |z - x|^2 / 2, targets are inputs  autoencoders

The last two are sums over outputs and means over samples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

Objective = Callable[[Tensor, Tensor], Tensor]


def softmax_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of |softmax(z) - e_y|^2 over outputs z (n, C) with labels y (n,)."""
    right = one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return (torch.softmax(outputs, 1) - right).square().sum(1).mean()


def reconstruction(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Mean of |z - x|^2 / 2 over outputs z (n, d) for inputs x (n, d)."""
    return (outputs - inputs).square().sum(1).mean() / 2


OBJECTIVES: dict[str, Objective] = {
    "cross-entropy": cross_entropy,
    "squared-error": softmax_squared_error,
    "reconstruction": reconstruction,
}


def check_objective(name: str) -> None:
    """Raises ValueError for a name that is not an objective."""
    if name not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}; got {name!r}")


def loss_for(name: str) -> Objective:
    """The loss as `Hessian` takes it; a recognized module where torch has one, so that its structure is known."""
    check_objective(name)
    return nn.CrossEntropyLoss() if name == "cross-entropy" else OBJECTIVES[name]


def targets_for(name: str, inputs: Tensor, labels: Tensor) -> Tensor:
    """What the outputs are compared with: labels (n,), or the inputs (n, d) themselves."""
    check_objective(name)
    return inputs if name == "reconstruction" else labels
