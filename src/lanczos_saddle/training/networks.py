"""The paper's networks: x -> W_L relu(... relu(W_1 x + b_1) ...) + b_L, outputs before the softmax.

Weights are drawn on the CPU in float32, layer by layer, from a generator that the caller passes: one seed
gives the same network on every machine, and the global random state is never touched. Biases start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Initialization = Callable[[Tensor, torch.Generator], Tensor]


def _xavier_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 2 / (fan_in + fan_out)), what the paper's published code draws by default."""
    return nn.init.xavier_normal_(weight, generator=generator)


def _xavier(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-a, a), a = sqrt(6 / (fan_in + fan_out))."""
    return nn.init.xavier_uniform_(weight, generator=generator)


def _he(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-a, a), a = sqrt(6 / fan_in)."""
    return nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)


def _he_as_printed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-a, a), a = 4 / (fan_in + fan_out): the paper's Table 6, where He et al. have a square root."""
    bound = 4 / sum(weight.shape)
    return nn.init.uniform_(weight, -bound, bound, generator=generator)


def _he_normal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 2 / fan_in), as He et al. 2015 draw it."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _orthogonal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014)."""
    return nn.init.orthogonal_(weight, generator=generator)


def _uniform(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-0.05, 0.05); the paper says "normal (uniform)" and gives no width."""
    return nn.init.uniform_(weight, -0.05, 0.05, generator=generator)


def _torch_default(weight: Tensor, generator: torch.Generator) -> Tensor:
    """U(-a, a), a = 1 / sqrt(fan_in): the weights of a fresh ``torch.nn.Linear``."""
    return nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


# Each fills a weight (outputs, inputs) in place.
INITIALIZATIONS: dict[str, Initialization] = {
    "normal": _xavier_normal,
    "xavier": _xavier,
    "he": _he,
    "he-printed": _he_as_printed,
    "he-normal": _he_normal,
    "orthogonal": _orthogonal,
    "uniform": _uniform,
    "torch": _torch_default,
}


def mlp(sizes: Sequence[int], *, generator: torch.Generator, initialization: str = "normal") -> nn.Sequential:
    """Linear, ReLU, ..., Linear with layer widths `sizes`, float32, on the CPU.

    Parameters are named 0.weight, 0.bias, 2.weight, ...; 784-25-10 has 19,885 of them.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an unknown initialization, a generator not on the
            CPU.
    """
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"sizes must be two or more whole numbers of at least 1; got {list(sizes)}")
    if initialization not in INITIALIZATIONS:
        raise ValueError(f"initialization must be one of {', '.join(INITIALIZATIONS)}; got {initialization!r}")
    if generator.device.type != "cpu":
        raise ValueError(f"weights are drawn on the CPU, then moved; got a generator on {generator.device}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [_linear(inputs, outputs, INITIALIZATIONS[initialization], generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _linear(inputs: int, outputs: int, fill: Initialization, generator: torch.Generator) -> nn.Linear:
    """One layer, made on the meta device: torch's own initialization would draw from the global generator."""
    layer = nn.Linear(inputs, outputs, device="meta", dtype=torch.float32).to_empty(device="cpu")
    fill(layer.weight, generator)
    nn.init.zeros_(layer.bias)
    return layer
