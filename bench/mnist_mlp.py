"""The benchmark's problem: the reference network 784-25-10 on MNIST; what a product of it costs."""

from __future__ import annotations

from pathlib import Path

import torch

from lanczos_saddle.studies.known_problems import Network, mnist_network

WEIGHTS = Path(__file__).parents[1] / "validate" / "reference" / "mnist-784-25-10.npz"

WIDTHS = [784, 25, 10]
IMAGES = 60_000


def problem(images: int, dtype: torch.dtype = torch.float32) -> Network:
    """(model, loss, (inputs, targets)) of the first `images` training images; raises as `mnist_network` does."""
    return mnist_network(WEIGHTS, images, dtype)


def product_flops(images: int) -> int:
    """Operations of one H v with the gradient's graph at hand: X V' and E' X in the first layer.

    The second layer adds 4 %.
    """
    return 4 * images * WIDTHS[0] * WIDTHS[1]
