"""Weights of a ResNet-18 that no sample can feel, foretold from which units fire.

An entry (o, i, r) of a kernel gets the sum over samples and places p of (slope at the unit (o, p)) times (input i at
p s - padding + r). Where no sample has a unit that fires and an input that is not zero at the same time, its row of
every curvature matrix is zero. Padding is such an input, so the weights that see padding alone are among these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from networks_zoo.models import Residual
from networks_zoo.padding import total

__all__ = ["total", "unfelt"]


def unfelt(model: nn.Sequential, images: Tensor) -> dict[str, Tensor]:
    """Name of a parameter of `models.resnet` -> which entries no sample feels, bool in its shape."""
    found: dict[str, Tensor] = {}
    x = images
    with torch.no_grad():
        for name, child in model.named_children():
            if name == "stem":
                conv, norm, _ = child
                fires = child(x) > 0
                if hasattr(model, "pool"):
                    fires = fires & chosen(model.pool, child(x))
                found |= of_convolution(f"{name}.0", conv, x, fires) | of_norm(f"{name}.1", norm, fires)
            elif name.startswith("stage"):
                for number, block in enumerate(child):
                    found |= of_block(f"{name}.{number}", block, x)
                    x = block(x)
                continue
            elif name == "head":
                found[f"{name}.weight"] = (x == 0).all(0).expand(child.weight.shape)
            x = child(x)
    return found


def of_block(name: str, block: Residual, x: Tensor) -> dict[str, Tensor]:
    """Of two convolutions and the one that goes past them."""
    inner, after = F.relu(block.norm_one(block.one(x))), block(x) > 0
    found = of_convolution(f"{name}.one", block.one, x, inner > 0)
    found |= of_norm(f"{name}.norm_one", block.norm_one, inner > 0)
    found |= of_convolution(f"{name}.two", block.two, inner, after) | of_norm(f"{name}.norm_two", block.norm_two, after)
    if isinstance(block.past, nn.Sequential):
        conv, norm = block.past
        found |= of_convolution(f"{name}.past.0", conv, x, after) | of_norm(f"{name}.past.1", norm, after)
    return found


def of_convolution(name: str, conv: Any, x: Tensor, fires: Tensor) -> dict[str, Tensor]:
    """How often input and output are there together, as the gradient of a convolution of ones and zeros."""
    times = conv2d_weight((x != 0).float(), conv.weight.shape, fires.float(), conv.stride, conv.padding)
    return {f"{name}.weight": times == 0}


def of_norm(name: str, norm: nn.BatchNorm2d, fires: Tensor) -> dict[str, Tensor]:
    """Scale and shift of channels that never fire."""
    never = ~fires.transpose(0, 1).flatten(1).any(1)
    return {f"{name}.weight": never, f"{name}.bias": never} if norm.affine else {}


def chosen(pool: nn.Module, x: Tensor) -> Tensor:
    """Which inputs a maximum over windows lets through."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(pool(x).sum(), x)[0] > 0
