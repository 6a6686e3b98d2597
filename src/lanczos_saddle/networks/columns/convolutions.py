"""Convolutions and pooling on a block of k tensors: one call, the block folded into samples or channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lanczos_saddle.networks.columns.layout import Rule, behind, by_memory, mapped


def convolution(operation: Any, blocked: tuple[bool, ...], ranks: tuple[int, ...]) -> Rule | None:  # noqa: ARG001
    """Inputs (k, n, c, ...) fold into samples; weights (k, o, c, ...) of a plain convolution into output channels."""

    def inputs(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        first, second, *places = *by_memory(x), *range(2, x.ndim)
        ordered = x.permute(first, second, *places)
        result = operation(ordered.flatten(0, 1), weight, bias, *rest)
        return result.unflatten(0, ordered.shape[:2]).permute(first, second, *places)  # type: ignore[no-any-return]

    def weights(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        transposed, groups = rest[3], rest[5]
        if transposed or groups != 1:
            return mapped(operation, blocked)(x, weight, bias, *rest)  # type: ignore[no-any-return]
        folded = None if bias is None else bias.reshape(-1)
        result = operation(x, weight.flatten(0, 1), folded, *rest)
        return result.unflatten(1, (len(weight), -1)).transpose(0, 1)  # type: ignore[no-any-return]

    known = {(True, False): inputs, (True, False, False): inputs, (False, True): weights, (False, True, True): weights}
    return known.get(blocked)


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
    if blocked[0]:
        first, second, *places = *by_memory(slope), *range(2, slope.ndim)
        ordered = slope.permute(first, second, *places)
        flat = ordered.flatten(0, 1)
        shape = x[:1].expand(len(flat), *x.shape[1:])
        result = operation(flat, shape, weight, None, *fixed, ask)[0]
        return result.unflatten(0, ordered.shape[:2]).permute(first, second, *places)  # type: ignore[no-any-return]
    if blocked[2]:
        k, outputs, channels = weight.shape[:3]
        folded = weight.transpose(0, 1).reshape(outputs, k * channels, *weight.shape[3:])
        shape = x[:, :1].expand(len(x), k * channels, *x.shape[2:])
        result = operation(slope, shape, folded, None, *fixed, ask)[0]
        return result.unflatten(1, (k, channels)).transpose(0, 1)  # type: ignore[no-any-return]
    result = operation(slope, x[0], weight, None, *fixed, ask)[0]  # does not depend on the input's values
    return result.expand(len(x), *result.shape)  # type: ignore[no-any-return]


def weight_derivative(
    operation: Any, blocked: tuple[bool, ...], slope: Tensor, x: Tensor, weight: Tensor, fixed: tuple[Any, ...]
) -> Tensor:
    """From a block of slopes (k, n, o, ...), or of inputs (k, n, c, ...): (k, o, c, ...)."""
    ask = (False, True, False)
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
