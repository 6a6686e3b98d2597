"""Weights of convolutions that see padding alone, foretold from shapes.

A kernel entry r of a convolution of stride s and padding p sees the inputs o s - p + r at the outputs o. Where none of
them lies in 0 .. L - 1, the weight is multiplied by zeros in every sample: its row of every curvature matrix is zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def seen(length: int, kernel: int, stride: int, padding: int) -> list[bool]:
    """Of each kernel entry along one axis, whether any of its inputs is one."""
    outputs = (length + 2 * padding - kernel) // stride + 1
    return [any(0 <= o * stride - padding + r < length for o in range(outputs)) for r in range(kernel)]


def padding_only(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Name of a convolution's weight -> which entries see padding alone, (out, in, k, k) bool; one forward pass.

    Known: `nn.Conv2d` that pads with zeros and is not dilated, each called once. The other layers are left out.
    """
    found: dict[str, Tensor] = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            assert isinstance(module.padding, tuple)
            axes = zip(inputs[0].shape[2:], module.kernel_size, module.stride, module.padding, strict=True)
            rows, columns = (torch.tensor(seen(*axis)) for axis in axes)
            blind = ~(rows[:, None] & columns)
            found[f"{name}.weight"] = blind.expand(module.weight.shape)

        return hook

    hooks = [
        module.register_forward_hook(look(name))
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and set(module.dilation) == {1}
    ]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def total(found: dict[str, Tensor]) -> int:
    """How many weights see padding alone."""
    return sum(int(blind.sum()) for blind in found.values())
