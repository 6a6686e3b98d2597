"""One layer y = f(W, x), of which a rank keeps its parts of W and x: W is collected whenever it is needed.

    y                                      collect W, evaluate                           W is let go
    slopes (f_W'u, f_x'u) of u = dL/dy     collect W, evaluate again, pull u back        the first is spread
    their transposed derivative            collect W and its direction, evaluate again, pull back twice

The last line is what a Hessian-vector product needs of a layer (`Slope.backward`). Between the sweeps there are the
inputs and the slopes u of all layers, and of no layer its weights: each sweep evaluates it anew, as a checkpoint does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from lanczos_saddle.networks.objective import transposed
from lanczos_saddle.networks.shards.gathers import Exchange, collect, spread


@dataclass(frozen=True)
class Call:
    """One call of a layer."""

    exchange: Exchange
    layer: int  # by which the exchange knows its parameters
    count: int  # of parameters that are differentiated
    evaluate: Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]  # of whole, flat parameters and inputs

    def collected(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """The whole parameters, or whole arrays like them."""
        return list(collect(self.exchange, self.layer, *parts)) if self.count else []

    def spread(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        """This rank's parts of the slopes of parameters, and the slopes of inputs as they are."""
        own = spread(self.exchange, self.layer, *slopes[: self.count]) if self.count else ()
        return [*own, *slopes[self.count :]]

    def leaves(self, tensors: Sequence[Tensor], needed: Sequence[bool]) -> tuple[list[Tensor], list[Tensor]]:
        """(whole parameters and inputs with graphs of their own, those of them that are differentiated)."""
        weights = [leaf(w) for w in self.collected(tensors[: self.count])]
        inputs = [leaf(x) if moves else x.detach() for x, moves in zip(tensors[self.count :], needed, strict=True)]
        return [*weights, *inputs], [*weights, *(x for x, moves in zip(inputs, needed, strict=True) if moves)]

    def slopes(
        self, at: Sequence[Tensor], leaves: Sequence[Tensor], given: Sequence[Tensor], *, keep: bool
    ) -> list[Tensor]:
        """The slopes of <outputs, given> in the leaves; zeros where nothing depends on one."""
        outputs = self.evaluate(at[: self.count], at[self.count :])
        pairs = [(y, u) for y, u in zip(outputs, given, strict=True) if y.requires_grad]
        if not pairs or not leaves:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(
            [y for y, _ in pairs],
            leaves,
            [u for _, u in pairs],
            create_graph=keep,
            allow_unused=True,
            materialize_grads=True,
        )
        return list(found)

    def pulled(self, needed: Sequence[bool], tensors: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor]:
        """Slopes by one evaluation and one backward pass, of a block of `given` ones, too."""
        with torch.enable_grad():
            found = self.slopes(*self.leaves(tensors, needed), given, keep=False)
        return self.spread([slope.detach() for slope in found])


def leaf(t: Tensor) -> Tensor:
    """The same numbers, from which a graph begins; within a vmap, too, where `requires_grad_` is not allowed."""
    return nn.Parameter(t.detach())


def _of_blocks(*_: Any) -> Any:
    """Within a vmap a layer may be evaluated, by a checkpoint, but not of a block."""
    raise ValueError("layers are evaluated at one theta, and have slopes of one loss; got a block of them")


class Layer(Function):
    """The outputs of a call at (this rank's parts of parameters, inputs)."""

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Without a graph. An input that is handed on is copied: autograd takes no output that is an input."""
        given = tensors[call.count :]
        with torch.no_grad():
            found = call.evaluate(call.collected(tensors[: call.count]), given)
            return tuple(y.clone() if any(y is x for x in given) else y for y in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Parts and inputs are kept."""
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(*(y for y in output if not y.is_floating_point()))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        """The slopes of this rank's parts, summed over ranks, and of the inputs."""
        call, tensors = ctx.call, ctx.saved_tensors
        needed = tuple(ctx.needs_input_grad[1 + call.count :])
        multiply: Callable[..., Sequence[Tensor]] = Slope.apply if torch.is_grad_enabled() else _pulled
        found = iter(multiply(call, needed, *tensors, *given))
        return None, *(next(found) if asked else None for asked in (*[True] * call.count, *needed))

    vmap = staticmethod(_of_blocks)


layered: Callable[..., tuple[Tensor, ...]] = Layer.apply


class Slope(Function):
    """The slopes of parts, and of the inputs that need one, as functions of parts, inputs and slopes of outputs."""

    @staticmethod
    def forward(call: Call, needed: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        """By a graph of its own, which is let go."""
        return tuple(_pulled(call, needed, *tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        """All there is."""
        ctx.call, ctx.needed = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *directions: Tensor) -> tuple[Any, ...]:
        """The slope of <slopes, directions> in parts, inputs and slopes of outputs."""
        call, needed, tensors = ctx.call, ctx.needed, ctx.saved_tensors
        count = call.count
        way = [*call.collected(directions[:count]), *directions[count:]]
        with torch.enable_grad():
            at, leaves = call.leaves(tensors[: count + len(needed)], needed)
            given = [leaf(u) if u.is_floating_point() else u for u in tensors[len(at) :]]
            moving = [*leaves, *(u for u in given if u.requires_grad)]
            found = iter(call.spread(transposed(call.slopes(at, leaves, given, keep=True), moving, way)))
        asked = [*[True] * count, *needed, *(u.requires_grad for u in given)]
        return None, None, *(next(found) if moves else None for moves in asked)

    vmap = staticmethod(_of_blocks)


def _pulled(call: Call, needed: tuple[bool, ...], *tensors: Tensor) -> list[Tensor]:
    known = call.count + len(needed)
    return call.pulled(needed, tensors[:known], tensors[known:])
