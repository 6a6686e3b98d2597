"""Networks whose Hessian is known in closed form: softmax regression, two linear layers, a ReLU net at a saddle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Counts = tuple[int, int, int]  # negative, (near) zero, positive


@dataclass(frozen=True)
class KnownProblem:
    """A model at a point where the Hessian of the mean loss over all samples is known."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) -> mean over the samples
    data: tuple[Tensor, Tensor]  # inputs (n, d), targets
    counts: Counts  # negative, exactly zero, positive
    eigenvalues: Tensor | None  # (N,) float64, ascending; None where only the counts are known


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1/n) sum_i |z_i - y_i|^2 / 2."""
    return (outputs - targets).square().sum(1).mean() / 2


def softmax_regression(inputs: Tensor, targets: Tensor, classes: int) -> KnownProblem:
    """Softmax regression z = W x at W = 0: H = S (x) X'X / n, S = I / C - 11' / C^2, for any targets.

    Eigenvalues: those of X'X / n divided by C, each C - 1 times, and d zeros.
    """
    model = _linear(inputs, inputs.shape[1], classes, bias=False)
    squares = torch.linalg.svdvals(inputs.double()).square() / (len(inputs) * classes)
    positive = int(torch.linalg.matrix_rank(inputs.double())) * (classes - 1)
    values = _padded(squares.repeat(classes - 1), inputs.shape[1] * classes)
    return _known(model, nn.CrossEntropyLoss(), (inputs, targets), 0, positive, values)


def two_layer_linear(inputs: Tensor, targets: Tensor, width: int, *, elementwise: bool = False) -> KnownProblem:
    """A linear net z = W2 W1 x at the origin, targets (n, K): +-sigma_i(Y'X / n), `width` times each; else 0.

    There the loss (1/n) sum |z - y|^2 / 2 is a constant - tr(W2 W1 X'Y) / n to second order. With
    `elementwise` it is nn.MSELoss, the mean over all n K elements without 1/2: everything times 2 / K.
    """
    (_, d), outputs = inputs.shape, targets.shape[1]
    model = nn.Sequential(_linear(inputs, d, width, bias=False), _linear(inputs, width, outputs, bias=False))
    cross = targets.double().mT @ inputs.double() / len(inputs)
    sigma = torch.linalg.svdvals(cross).repeat(width) * (2 / outputs if elementwise else 1)
    count = int(torch.linalg.matrix_rank(cross)) * width
    loss = nn.MSELoss() if elementwise else half_squared_error
    values = _padded(torch.cat([-sigma, sigma]), width * (d + outputs))
    return _known(model, loss, (inputs, targets), count, count, values)


def relu_zero_output(
    inputs: Tensor, targets: Tensor, width: int, classes: int, generator: torch.Generator
) -> KnownProblem:
    """A ReLU net z = W2 relu(W1 x + b1) + b2, W2 = 0, b2 = 0, W1 and b1 random; cross-entropy: counts only.

    H = [[0, B], [B', A]]: the first layer's own block vanishes; B pairs the incoming weights of unit j with
    its outgoing ones, B_j = (1/n) sum over samples that fire j of [x; 1] r', r = 1/C - onehot; A = (1/n) sum
    (phi phi') (x) S, phi = [relu(W1 x + b1); 1], S = I / C - 11' / C^2. So (inertia of a saddle matrix)

        negative = rank B = sum_j rank B_j,    positive = rank B + rank of A on the null space of B.

    Generically rank B_j = C - 1; the null space of B is then 1 for each unit, where S vanishes, and the
    output bias: (width + 1) (C - 1) are positive, also where [Phi, 1] has dependent columns. Ranks are those
    in float64, above rounding.
    """
    first = _linear(inputs, inputs.shape[1], width)
    with torch.no_grad():
        weights = torch.randn(width, inputs.shape[1] + 1, generator=generator, dtype=torch.float64)
        first.weight.copy_(weights[:, :-1] / math.sqrt(inputs.shape[1]))
        first.bias.copy_(weights[:, -1])
        hidden = first(inputs).relu().double()
    model = nn.Sequential(first, nn.ReLU(), _linear(inputs, width, classes))
    extended = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    residuals = 1 / classes - nn.functional.one_hot(targets, classes).double()
    ranks, image = 0, [residuals.new_ones(len(inputs), 1, 1) * _complement(residuals)]
    for column in hidden.unbind(1):
        fires = column > 0
        rank, free = _rank_and_free(extended[fires], residuals[fires])
        ranks += rank
        image.append(column[:, None, None] * free)
    free_rank = int(torch.linalg.matrix_rank(torch.cat(image, dim=2).flatten(0, 1)))
    return _known(model, nn.CrossEntropyLoss(), (inputs, targets), ranks, ranks + free_rank, None)


def _rank_and_free(inputs: Tensor, residuals: Tensor) -> tuple[int, Tensor]:
    """The rank of B_j = inputs' residuals, above its rounding; a basis (C, k) of its null space beside 1."""
    basis = _complement(residuals)
    _, sigma, right = torch.linalg.svd(inputs.mT @ residuals @ basis)
    rounding = torch.finfo(torch.float64).eps * max(inputs.shape) * float(inputs.norm() * residuals.norm())
    rank = int((sigma > rounding).sum())
    return rank, basis @ right[rank:].mT


def _complement(residuals: Tensor) -> Tensor:
    """An orthonormal basis (C, C - 1) of the vectors orthogonal to 1."""
    identity = torch.eye(residuals.shape[1], dtype=residuals.dtype, device=residuals.device)
    basis: Tensor = torch.linalg.qr((identity - 1 / len(identity))[:, :-1]).Q
    return basis


def _known(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    negative: int,
    positive: int,
    eigenvalues: Tensor | None,
) -> KnownProblem:
    size = sum(parameter.numel() for parameter in model.parameters())
    counts = (negative, size - negative - positive, positive)
    return KnownProblem(model, loss, data, counts, None if eigenvalues is None else eigenvalues.cpu().sort().values)


def _linear(inputs: Tensor, rows: int, columns: int, bias: bool = True) -> nn.Linear:
    """A layer at zero, of the inputs' type and on their device; draws no random number."""
    layer = nn.Linear(rows, columns, bias, device="meta", dtype=inputs.dtype).to_empty(device=inputs.device)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.cat([values, values.new_zeros(size - len(values))])
