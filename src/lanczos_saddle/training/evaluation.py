"""Loss, accuracy and gradient of a classifier over a whole set of images, in chunks.

    L = (1/n) sum_i s(f(x_i), y_i),     s one of `objectives`

Sums are taken over chunks and divided once, so that a short last chunk weighs what it should.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lanczos_saddle.training.objectives import OBJECTIVES

CHUNK = 8192  # images a pass


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on a set of images."""

    loss: float  # the mean objective
    accuracy: float  # fraction classified rightly; NaN where targets are no labels


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, objective: str = "cross-entropy") -> Evaluation:
    """Mean objective and accuracy in eval mode, on images x (n, d) with targets y: labels (n,), or numbers (n, d).

    Outputs are compared in float64.
    """
    loss, right = 0.0, 0
    with mode_kept(model):
        model.eval()
        for images, labels in _chunks(x, y):
            outputs = model(images)
            loss += len(labels) * OBJECTIVES[objective](outputs.double(), _double(labels)).item()
            right += int((outputs.argmax(1) == labels).sum()) if labels.ndim == 1 else 0
    return Evaluation(loss / len(y), right / len(y) if y.ndim == 1 else math.nan)


def loss_and_gradient_norm(
    model: nn.Module, x: Tensor, y: Tensor, objective: str = "cross-entropy"
) -> tuple[float, float]:
    """L and |grad L|_2 of the mean objective over x (n, d) with targets y, by a float64 copy in eval mode.

    The copy leaves gradients and parameters of `model` alone. Costs one pass with gradients.
    """
    double = copy.deepcopy(model).double().eval()
    parameters = [p for p in double.parameters() if p.requires_grad]
    loss, gradient = 0.0, [torch.zeros_like(p) for p in parameters]
    for images, labels in _chunks(x, y):
        part = OBJECTIVES[objective](double(images.double()), _double(labels)) * (len(labels) / len(y))
        loss += part.item()
        for total, g in zip(gradient, torch.autograd.grad(part, parameters, materialize_grads=True), strict=True):
            total += g
    return loss, math.sqrt(math.fsum(g.square().sum().item() for g in gradient))


def _double(targets: Tensor) -> Tensor:
    """Targets that are numbers in float64; labels as they are."""
    return targets.double() if targets.is_floating_point() else targets


def _chunks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True)


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """Train or eval mode of every module, put back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
