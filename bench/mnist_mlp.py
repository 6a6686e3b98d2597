"""The benchmark's problem: the reference network 784-25-10 on MNIST; what a product of it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lanczos_saddle.training.checkpoints import apply_weights, load_weights, sequential_names
from lanczos_saddle.training.data_files import mnist_array
from lanczos_saddle.training.networks import mlp

WEIGHTS = Path(__file__).parents[1] / "validate" / "reference" / "mnist-784-25-10.npz"
MLPProblem = tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]

WIDTHS = [784, 25, 10]
IMAGES = 60_000


def problem(images: int, dtype: torch.dtype = torch.float32) -> MLPProblem:
    """(model, loss, (inputs, targets)) of the first `images` training images.

    Raises:
        ValueError: when there are fewer images; DataNotFoundError, when there are no files.
    """
    pixels, labels = mnist_array("train-images-idx3-ubyte"), mnist_array("train-labels-idx1-ubyte")
    if not 1 <= images <= len(pixels):
        raise ValueError(f"images must be between 1 and {len(pixels)}, the training images; got {images}")
    arrays = load_weights(WEIGHTS)
    model = mlp(WIDTHS, generator=torch.Generator()).to(dtype)
    apply_weights(model, sequential_names(arrays))
    inputs = torch.from_numpy(pixels[:images].reshape(images, -1).astype(np.float32)).to(dtype)
    inputs.div_(255).sub_(arrays["pixel_mean"].to(dtype))
    return model, nn.CrossEntropyLoss(), (inputs, torch.from_numpy(labels[:images].astype(np.int64)))


def product_flops(images: int) -> int:
    """Operations of one H v with the gradient's graph at hand: X V' and E' X in the first layer.

    The second layer adds 4 %.
    """
    return 4 * images * WIDTHS[0] * WIDTHS[1]
