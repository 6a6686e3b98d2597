"""All critical points of the package in one list, small enough to be judged by dense eigenvalues in seconds."""

from __future__ import annotations

import torch

from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint
from lanczos_saddle.studies.landscapes.linear_nets import origin, two_layer_point
from lanczos_saddle.studies.landscapes.splitting import SmallNet, small_net, split
from lanczos_saddle.studies.landscapes.surfaces import surface_points
from lanczos_saddle.studies.landscapes.tensors import (
    decomposition,
    equal_components,
    flat_pair,
    one_vector,
    pair_sum,
    reconstruction,
)

SIGMA = (3.0, 2.0, 1.0)
"""Singular values of the linear nets."""


def catalogue() -> list[CriticalPoint]:
    """Minima, maxima, saddles with and without negative curvature; nothing is drawn at random but `example_net`."""
    net = example_net()
    return [
        *surface_points(),
        equal_components(one_vector, 1, 10, 10),
        equal_components(reconstruction, 4, 4, 4),
        equal_components(reconstruction, 4, 4, 2),
        decomposition(reconstruction, 4),
        flat_pair(),
        equal_components(pair_sum, 4, 4, 4),
        equal_components(pair_sum, 4, 4, 2),
        decomposition(pair_sum, 4),
        two_layer_point(SIGMA, 2, []),
        two_layer_point(SIGMA, 2, [1]),
        two_layer_point(SIGMA, 2, [1, 2]),
        two_layer_point(SIGMA, 2, [0, 1]),
        origin(SIGMA, [2, 2]),
        split(net, 0.5),
        split(net, 1.0),
        split(net, 1.5),
    ]


def example_net() -> SmallNet:
    """The net whose unit is split: one tanh unit, two inputs, twenty samples, from a fixed seed."""
    return small_net(generator=torch.Generator().manual_seed(1))
