"""Null vectors of transformers that no softmax or normalization sees, at any weights and for any data.

keys         a vector added to all keys of a head shifts the scores of each query alike: the biases of the keys
mean         what is added alike to all channels of the residual stream is taken off by every layer normalization that
             reads it: a 1' in the matrices that write into the stream, c 1 in their biases and in the places
places       u added to the embeddings of all tokens and taken off those of all places
last         the place of the last token of a piece, which sees no label: rows of H that are zero
softmax      u added to all rows of the output layer, and a number to all its biases, shift all logits alike

The loss is constant, or the same, along theta + s v for every s and theta: grad L(theta)' v = 0 for all theta, hence
H v = 0 wherever training stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle import Hessian

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A linear space of null vectors, in which the vectors of the other families are not."""

    dimension: int
    place: Callable[[Tensor], Parts]
    """Of coefficients (dimension,) -> what stands in the parameters that are not zero."""


def of_gpt2(layers: int, width: int, length: int) -> dict[str, Family]:
    """Of GPT-2 with tied embeddings on pieces as long as it has places."""

    def keys(c: Tensor) -> Parts:
        placed = c.new_zeros(layers, 3, width)
        placed[:, 1] = c.view(layers, width)
        return {f"transformer.h.{i}.attn.c_attn.bias": placed[i].flatten() for i in range(layers)}

    def mean(c: Tensor) -> Parts:
        into, places = c.split([layers * (5 * width + 2), length - 1])
        made = {"transformer.wpe.weight": _alike(torch.cat([places, places.new_zeros(1)]), width)}
        for i, layer in enumerate(into.view(layers, -1)):
            for name, several in (("attn", layer[: width + 1]), ("mlp", layer[width + 1 :])):
                made[f"transformer.h.{i}.{name}.c_proj.weight"] = _alike(several[:-1], width)
                made[f"transformer.h.{i}.{name}.c_proj.bias"] = several[-1].expand(width)
        return made

    def places(c: Tensor) -> Parts:
        return {"transformer.wte.weight": c.expand(256, width), "transformer.wpe.weight": -c.expand(length, width)}

    def last(c: Tensor) -> Parts:
        return {"transformer.wpe.weight": torch.cat([c.new_zeros(length - 1, width), c[None]])}

    return {
        "biases of keys": Family(layers * width, keys),
        "mean of the channels": Family(layers * (5 * width + 2) + length - 1, mean),
        "tokens against places": Family(width, places),
        "place of the last token": Family(width, last),
    }


def of_vision(layers: int, width: int, tokens: int, patch: int, classes: int) -> dict[str, Family]:
    """Of `Vision`."""

    def keys(c: Tensor) -> Parts:
        placed = c.new_zeros(layers, 3, width)
        placed[:, 1] = c.view(layers, width)
        return {f"layers.{i}.attention.inward.bias": placed[i].flatten() for i in range(layers)}

    def mean(c: Tensor) -> Parts:
        into, places, patches, bias = c.split([layers * (5 * width + 2), tokens, patch, 1])
        made = {"places": _alike(places, width), "patches.bias": bias.expand(width)}
        made["patches.weight"] = _alike(patches, width).mT
        for i, layer in enumerate(into.view(layers, -1)):
            for name, several in (("attention.outward", layer[: width + 1]), ("network.2", layer[width + 1 :])):
                made[f"layers.{i}.{name}.weight"] = _alike(several[:-1], width).mT
                made[f"layers.{i}.{name}.bias"] = several[-1].expand(width)
        return made

    def places(c: Tensor) -> Parts:
        u = torch.cat([c, -c.sum()[None]])  # the mean is of the family before
        return {"patches.bias": u, "places": -u.expand(tokens, width)}

    def softmax(c: Tensor) -> Parts:
        return {"head.weight": c[:-1].expand(classes, width), "head.bias": c[-1].expand(classes)}

    return {
        "biases of keys": Family(layers * width, keys),
        "mean of the channels": Family(layers * (5 * width + 2) + tokens + patch + 1, mean),
        "patches against places": Family(width - 1, places),
        "softmax": Family(width + 1, softmax),
    }


def _alike(column: Tensor, width: int) -> Tensor:
    """a 1' (len(a), width)."""
    return column[:, None].expand(-1, width)


def vector(problem: Any, parts: Parts) -> Tensor:
    """(N,) of what stands in some parameters."""
    placed = torch.zeros(problem.size, dtype=torch.float64)
    for name, part in parts.items():
        placed[problem.ranges[name]] = part.reshape(-1).to(torch.float64)
    return placed


def judged(operator: Hessian, families: dict[str, Family], seed: int) -> dict[str, Any]:
    """A random unit vector v of each family, and one of all: |H v| / |H x| for random x, one product each.

    Rounding is what remains of |H v|; "other" is |H y| / |H x| of another random y, for comparison.
    """
    problem: Any = operator.problem
    generator = torch.Generator().manual_seed(seed)

    def unit(v: Tensor) -> Tensor:
        return (v / v.norm()).to(operator.dtype)

    def drawn(size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator)

    given = {name: unit(vector(problem, one.place(drawn(one.dimension)))) for name, one in families.items()}
    lengths = [float((operator @ v).norm()) for v in (unit(drawn(problem.size)), *given.values())]
    lengths.append(float((operator @ unit(drawn(problem.size))).norm()))
    return {
        "dimensions": {name: one.dimension for name, one in families.items()},
        "foretold": sum(one.dimension for one in families.values()),
        "length_of_random": lengths[0],
        "lengths": {name: one / lengths[0] for name, one in zip(given, lengths[1:-1], strict=True)},
        "other": lengths[-1] / lengths[0],
    }
