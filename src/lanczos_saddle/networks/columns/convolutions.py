"""Convolutions and pooling on a block of k tensors: one call, the block folded into samples or channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.networks.columns import winograd
from lanczos_saddle.networks.columns.layout import Rule, behind, by_memory, channels_last, mapped, tuned

LEAST, MOST = 4, 4
"""Least sides of a slope, and most of a weight, by which a convolution is seen to be a derivative in the weights."""


def convolution(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:
    """Inputs (k, n, c, ...) fold into samples; weights (k, o, c, ...) of a plain convolution into output channels."""

    def inputs(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        turned = rest[3]
        if winograd.applies(x, weight, (*rest[:3], False, *rest[4:])) and not any(rest[4]):
            found = winograd.convolved(x, weight[None], turned=turned)
            return found if bias is None else found.add_(bias[:, None, None])
        if correlates(x, weight, bias, rest):
            return correlated(x, weight[None], rest)
        first, second, *places = *by_memory(x), *range(2, x.ndim)
        ordered = x.permute(first, second, *places)
        result = operation(channels_last(ordered.flatten(0, 1)), weight, bias, *rest)
        return result.unflatten(0, ordered.shape[:2]).permute(first, second, *places)  # type: ignore[no-any-return]

    def weights(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        turned, groups = rest[3], rest[5]
        if groups != 1:
            return mapped(operation, blocked)(x, weight, bias, *rest)  # type: ignore[no-any-return]
        if winograd.applies(x, weight, (*rest[:3], False, *rest[4:])) and not any(rest[4]):
            found = winograd.convolved(x[None], weight, turned=turned)
            return found if bias is None else found.add_(bias[:, None, :, None, None])
        if correlates(x, weight, bias, rest):
            return correlated(x[None], weight, rest)
        folded = None if bias is None else bias.reshape(-1)
        wide = weight.transpose(0, 1).flatten(1, 2) if turned else weight.flatten(0, 1)
        result = operation(x, wide, folded, *rest)
        return columns_first(result.unflatten(1, (len(weight), -1)).transpose(0, 1))

    known = {(True, False): inputs, (True, False, False): inputs, (False, True): weights, (False, True, True): weights}
    return known.get(blocked) if min(ranks[:2]) > 2 else None


def correlates(x: Tensor, weight: Tensor, bias: Tensor | None, rest: Sequence[Any]) -> bool:
    """Whether "weights" (..., o, n, h, w) are slopes as large as the "inputs" (..., c, n, h, w): of two dimensions.

    Torch writes the derivative in the weights so, in the backward pass of a backward pass.
    """
    transposed, groups = rest[3], rest[5]
    if bias is not None or transposed or groups != 1 or not tuned(x) or min(weight.shape[-2:]) < LEAST:
        return False
    return weight.ndim + x.ndim == 9 and all(side <= MOST for side in sizes_of(x, weight, rest))


def correlated(x: Tensor, slope: Tensor, rest: Sequence[Any]) -> Tensor:
    """The derivative in weights from inputs (k or 1, c, n, ...) and slopes (k or 1, o, n, ...): (k, c, o, ...)."""
    stride, padding, dilation, _, _, groups = rest
    blocked = (len(slope) > 1 or len(x) == 1, len(x) > 1, False)
    slopes, inputs = (
        t.transpose(1, 2) if b else t[0].transpose(0, 1) for t, b in zip((slope, x), blocked, strict=False)
    )
    weight = slope.new_empty(()).expand(slope.shape[1], x.shape[1], *sizes_of(x, slope, rest))
    fixed = (dilation, padding, stride, False, [0] * len(stride), groups)
    backward = torch.ops.aten.convolution_backward.default
    return weight_derivative(backward, blocked, slopes, inputs, weight, fixed).transpose(1, 2)


def sizes_of(x: Tensor, weight: Tensor, rest: Sequence[Any]) -> list[int]:
    """Height and width of a convolution's result."""
    sides = zip(x.shape[-2:], weight.shape[-2:], *rest[:3], strict=True)
    return [(side + 2 * pad - dilation * (own - 1) - 1) // stride + 1 for side, own, stride, pad, dilation in sides]


def convolution_backward(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """The derivatives in the input (folded into samples) and in the weight (into channels) of a plain convolution."""
    if blocked not in ((True, False, False), (False, True, False), (False, False, True)):
        return None

    def call(
        slope: Tensor, x: Tensor, weight: Tensor, sizes: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
    ) -> Any:
        transposed, output_padding, groups, (to_input, to_weight, to_bias) = rest
        if transposed or groups != 1 or (to_bias and not blocked[0]):
            return mapped(operation, blocked)(slope, x, weight, sizes, stride, padding, dilation, *rest)
        fixed = (stride, padding, dilation, transposed, output_padding, groups)
        in_input, in_weight, in_bias = None, None, None
        if to_input:
            in_input = input_derivative(operation, blocked, slope, x, weight, fixed)
        if to_weight:
            in_weight = weight_derivative(operation, blocked, slope, x, weight, fixed)
        if to_bias:
            in_bias = slope.sum([1, *range(3, slope.ndim)])
        return in_input, in_weight, in_bias

    return call


def input_derivative(
    operation: Any, blocked: tuple[bool, ...], slope: Tensor, x: Tensor, weight: Tensor, fixed: tuple[Any, ...]
) -> Tensor:
    """From a block of slopes (k, n, o, ...), or of weights (k, o, c, ...): (k, n, c, ...)."""
    ask = (True, False, False)
    if (blocked[0] or blocked[2]) and winograd.applies(slope, weight, fixed):
        return winograd.convolved(
            *(t if b else t[None] for t, b in ((slope, blocked[0]), (weight, blocked[2]))), turned=True
        )
    if blocked[0]:
        first, second, *places = *by_memory(slope), *range(2, slope.ndim)
        ordered = slope.permute(first, second, *places)
        flat = channels_last(ordered.flatten(0, 1))
        shape = x[:1].expand(len(flat), *x.shape[1:])
        result = operation(flat, shape, weight, None, *fixed, ask)[0]
        return result.unflatten(0, ordered.shape[:2]).permute(first, second, *places)  # type: ignore[no-any-return]
    if blocked[2]:
        k, outputs, channels = weight.shape[:3]
        folded = weight.transpose(0, 1).reshape(outputs, k * channels, *weight.shape[3:])
        shape = x[:, :1].expand(len(x), k * channels, *x.shape[2:])
        result = operation(slope, shape, folded, None, *fixed, ask)[0]
        return columns_first(result.unflatten(1, (k, channels)).transpose(0, 1))
    result = operation(slope, x[0], weight, None, *fixed, ask)[0]  # does not depend on the input's values
    return result.expand(len(x), *result.shape)  # type: ignore[no-any-return]


def weight_derivative(
    operation: Any, blocked: tuple[bool, ...], slope: Tensor, x: Tensor, weight: Tensor, fixed: tuple[Any, ...]
) -> Tensor:
    """From a block of slopes (k, n, o, ...), or of inputs (k, n, c, ...): (k, o, c, ...)."""
    ask = (False, True, False)
    if (blocked[0] or blocked[1]) and winograd.applies(x, weight, fixed, least=1):
        return winograd.weights_derivative(*(t if b else t[None] for t, b in ((slope, blocked[0]), (x, blocked[1]))))
    if (blocked[0] or blocked[1]) and tuned(slope) and of_points(weight, fixed):
        step = fixed[0]
        seen = x[..., :: step[0], :: step[1]].movedim(-3, -1).flatten(-4, -2)  # (n h w, c) or (k, n h w, c)
        found = slope.movedim(-3, -1).flatten(-4, -2).mT @ seen
        return found[..., None, None]
    if blocked[0]:
        k, n, outputs = slope.shape[:3]
        folded = slope.transpose(0, 1).reshape(n, k * outputs, *slope.shape[3:])
        shape = weight[:1].expand(k * outputs, *weight.shape[1:])
        return operation(folded, x, shape, None, *fixed, ask)[1].unflatten(0, (k, outputs))  # type: ignore[no-any-return]
    if blocked[1]:
        k, n, channels = x.shape[:3]
        folded = x.transpose(0, 1).reshape(n, k * channels, *x.shape[3:])
        shape = weight[:, :1].expand(len(weight), k * channels, *weight.shape[2:])
        result = operation(slope, folded, shape, None, *fixed, ask)[1]
        return result.unflatten(1, (k, channels)).transpose(0, 1)  # type: ignore[no-any-return]
    result = operation(slope, x, weight[0], None, *fixed, ask)[1]  # does not depend on the weight's values
    return result.expand(len(weight), *result.shape)  # type: ignore[no-any-return]


def columns_first(found: Tensor) -> Tensor:
    """Results (k, n, o, h, w) of which each column lies alone, channels last: as those of a block of inputs."""
    if found.ndim != 5 or not tuned(found):
        return found
    return found.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def of_points(weight: Tensor, fixed: Sequence[Any]) -> bool:
    """Whether the convolution multiplies every point, or every second, by a matrix."""
    padding, groups = fixed[1], fixed[5]
    return tuple(weight.shape[2:]) == (1, 1) and not any(padding) and groups == 1


def gather(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:
    """Entries at shared places of every tensor."""
    if blocked != (True, False) or ranks[0] == 0:
        return None

    def call(x: Tensor, dim: int, index: Tensor, **kwargs: Any) -> Tensor:
        first, second, *places = *by_memory(x), *range(2, x.ndim)
        ordered = x.permute(first, second, *places)
        index = index.expand(len(x), *index.shape).permute(first, second, *places)
        where = places[behind(ranks[0], dim) - 2] if behind(ranks[0], dim) > 1 else (first, second).index(1)
        return operation(ordered, where, index, **kwargs).permute(first, second, *places)  # type: ignore[no-any-return]

    return call


def max_pool_backward(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:
    """Slopes (k, n, c, ...) sent to the winners' places (n, c, ...): the block folds into the samples."""
    if blocked != (True, False, False) or ranks[0] != 4:
        return None

    def call(slope: Tensor, x: Tensor, *rest: Any) -> Tensor:
        *window, index = rest
        first, second = by_memory(slope)
        ordered = slope.permute(first, second, 2, 3, 4)
        index = index.expand(len(slope), *index.shape).permute(first, second, 2, 3, 4)
        like = x[:1].expand(slope.shape[0] * slope.shape[1], *x.shape[1:])
        result = operation(ordered.flatten(0, 1), like, *window, index.flatten(0, 1))
        return result.unflatten(0, ordered.shape[:2]).permute(first, second, 2, 3, 4)  # type: ignore[no-any-return]

    return call
