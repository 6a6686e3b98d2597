"""Products A v = sum_b A_b v / sum_b w_b with a curvature matrix of the loss, inside a stated memory.

A_b is the matrix of one batch's share of the loss (`problem`). Batches are cut into chunks of samples,
blocks of vectors into groups of columns. The columns of a group are multiplied together (`block_products`), and what
does not depend on them, such as activations, is kept from product to product in up to half of the memory.

    forward mode    the directional derivative of the gradient      (forward over reverse, torch.func)
    reverse mode    the gradient of <gradient, v>                   (reverse over reverse, torch.func)
    autograd mode   the same by plain autograd, with theta placed in the user's own tensors: what no transform sees
                    through (checkpoints, old-style functions, autograd in a forward pass, a closure over parameters)

Some operations have no forward derivative on this torch (`nn.MSELoss` is one), some a wrong one: the first mode whose
product on a few samples agrees with differences of the user's own gradients is taken (`fidelity`).

`footprint` foretells the memory of a chunk and a group.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import vjp, vmap

from lanczos_saddle.networks.batches import Batch, form_of, map_tensors, tensors
from lanczos_saddle.networks.columns.cache import BlockProducts, Folding
from lanczos_saddle.networks.comparison.differences import MANY
from lanczos_saddle.networks.comparison.examination import choose_mode, examine, take_next_mode
from lanczos_saddle.networks.footprint import Footprint
from lanczos_saddle.networks.objective import Objective
from lanczos_saddle.networks.parameters import Selection
from lanczos_saddle.networks.placement import flat
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.networks.refusals import bytes_of
from lanczos_saddle.operators.conversions import Convertible
from lanczos_saddle.operators.fidelity import Fidelity, off
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.operator import check_vector

Product = Callable[[Tensor], Any]  # v (N,) -> A_b v (N,)

MEMORY = 2**30  # bytes for activations and tangents
UNKNOWN = 64  # bytes that are saved for each of a sample, where that cannot be measured
LIGHT = 4  # samples on which the mode is chosen, one where parameters are many


class Curvature(Convertible, ABC):
    """A curvature matrix of the mean loss at the problem's theta, (N, N), known by its products.

    Raises ValueError where `Problem` does, when neither mode can differentiate the model, and when one
    sample and one column do not fit into `memory` bytes.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | None,
        data: Any,
        *,
        parameters: Selection = "*",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_weight: Callable[[Any], float | Tensor] | None = None,
        collate: Callable[[Sequence[Any]], Any] | None = None,
        memory: int = MEMORY,
        fidelity: bool = True,
    ) -> None:
        problem = Problem(
            model,
            loss,
            data,
            parameters=parameters,
            dtype=dtype,
            device=device,
            batch_weight=batch_weight,
            collate=collate,
        )
        self._begin(problem, memory, fidelity)

    @differentiable
    def _begin(self, problem: Objective, memory: int, fidelity: bool) -> None:
        """Plan the memory and choose the mode."""
        self.problem = cast(Problem, problem)  # of which products need what every `Objective` has
        self.memory = memory = bytes_of(memory)
        self._weights: dict[float, Tensor] = {}
        self._fidelity: Fidelity | None = None
        self.checked = fidelity
        with problem.evaluating():
            few = problem.trial()
            self._saved = bytes_per_sample(problem, few)
            self._blocks = BlockProducts(memory // 2 if self.predict(1, 1) <= memory // 2 else 0, self.arithmetic)
            self.plan(1)
            few = problem.weighed(few.part(0, min(few.size, LIGHT if problem.size < MANY else 1, self.plan(2)[0])))
        choose_mode(self, few)

    @property
    @differentiable
    def fidelity(self) -> Fidelity:
        """Whether the products are those of the user's own function; compared once, on at most 512 samples.

        Raises ValueError where they are not, in any mode.
        """
        if self._fidelity is None:
            self._fidelity = examine(self) if self.checked else off(self.mode)
        return self._fidelity

    @property
    def arithmetic(self) -> torch.dtype:
        """The least precise type that the model computes in, at its parameters in `dtype`."""
        return getattr(self.problem, "arithmetic", self.dtype)

    @property
    def mode(self) -> str:
        """How products are computed: "forward", "reverse" or "autograd"."""
        return self._mode

    @mode.setter
    def mode(self, mode: str) -> None:
        """Values and gradients are computed in the way that goes with it."""
        if mode != getattr(self, "_mode", mode):
            # what there is was compared with products of another mode
            self._blocks = BlockProducts(self._blocks.budget, self.arithmetic)
        self._mode = mode
        self.problem.in_place = mode == "autograd"

    @property
    def folding(self) -> Folding:
        """Whether blocks are multiplied by recorded operations, why not, and what the recording cost so far."""
        if self._mode == "autograd":
            reason = 'mode "autograd" multiplies column by column: what is recorded goes through torch.func'
            return Folding(False, reason, 0, 0, 0.0, None)
        return self._blocks.folding

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return (self.problem.size, self.problem.size)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of vectors and products."""
        return self.problem.dtype

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.problem.device

    of_gradient = True  # whether it is the derivative of the gradient

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.problem.size, self.dtype, self.device)
        return self.product(v)

    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix, at the same weights and data, with products in another floating-point type."""
        other = copy.copy(self)
        other.problem = self.problem.to(dtype)
        other._saved = self._saved * torch.finfo(dtype).bits // torch.finfo(self.dtype).bits
        other._weights = {}
        other._blocks = BlockProducts(self._blocks.budget, other.arithmetic)
        other._fidelity = self._fidelity  # compared in float64 whatever the type
        other.plan(1)
        return other

    def at(self, theta: Tensor) -> Self:
        """The same kind of matrix at other parameters theta (N,), over the same data."""
        check_vector(theta, self.problem.size, self.dtype, self.device)
        other = copy.copy(self)
        other.problem = copy.copy(self.problem)
        other.problem.theta = theta
        other._blocks = self._blocks.elsewhere()
        return other

    def another_way(self) -> bool:
        """Take the next mode that multiplies, where products of this one turn out lopsided; whether there is one."""
        return take_next_mode(self)

    @abstractmethod
    def forward(self, batch: Batch) -> Product:
        """Gives v -> A_b v by forward derivatives."""

    @abstractmethod
    def reverse(self, batch: Batch) -> Product:
        """Gives v -> A_b v by reverse derivatives alone."""

    @abstractmethod
    def plainly(self, batch: Batch, leaves: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Sequence[Tensor]]:
        """Gives V -> A_b V, leaf by leaf, by plain autograd; theta is placed in the leaves meanwhile."""

    @abstractmethod
    def differences(self, theta: Tensor, batch: Batch, v: Tensor, step: float) -> Tensor:
        """A_b v by central differences of first derivatives of the user's own code, at theta."""

    @differentiable
    def local(self, theta: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """A_b V' (k, N) for rows V' (k, N) at theta, unfolded."""
        there = self if theta is self.problem.theta else self.at(theta)
        total = torch.zeros_like(rows)
        with self.problem.evaluating():
            for part in self.problem.split(batch):
                total += there._unfolded(part)(rows)
        return total

    @differentiable
    def product(self, v: Tensor) -> Tensor:
        """A v in the shape of v, (N,) or (N, k): one pass over the data. (N, k) comes stored by columns."""
        v = v.clone() if v.is_inference() else v
        rows = v.detach().reshape(self.problem.size, -1).mT.contiguous()  # (k, N)
        total = torch.zeros_like(rows)
        if len(rows):
            samples, columns = self.plan(len(rows))
            groups = [slice(start, start + columns) for start in range(0, len(rows), columns)]
            directions: dict[Any, Any] = {}
            with self.problem.evaluating():
                for index, batch in enumerate(self.problem.batches(samples)):
                    product, shared = self._as_function(batch)
                    plain = self._unfolded(batch)
                    if self._mode == "autograd":
                        for group in groups:
                            total[group] += plain(rows[group])
                        continue
                    name = index if self.problem.comes_again else None
                    form = form_of((batch.inputs, batch.targets))
                    for group in groups:
                        known = directions if len(groups) == 1 else {}  # of all groups: another block
                        self._blocks.add(total[group], rows[group], known, product, shared, plain, name, samples, form)
            total /= self.problem.weight
        return total.mT if v.ndim == 2 else total[0]

    def plan(self, columns: int) -> tuple[int, int]:
        """Samples a chunk and columns a group for a block of `columns`, within the memory.

        Raises ValueError when one sample and one column need more than the memory.
        """
        if self.predict(1, 1) > self.memory:
            raise ValueError(
                f"memory must hold one sample and one column, {self.predict(1, 1)} bytes here; "
                f"got memory={self.memory}: raise it, or select fewer `parameters`"
            )
        folded = getattr(self, "_mode", "") != "autograd" and self._blocks.hopeful
        samples = self.problem.samples
        return self.footprint.chunk(columns, self._free(), folded, self.device.type != "cuda", samples)

    def predict(self, samples: int, columns: int) -> int:
        """Bytes that a chunk of `samples` and a group of `columns` need, unfolded, beside the block and its product."""
        return self.footprint.plain(samples, columns)

    @property
    def footprint(self) -> Footprint:
        """Bytes that a sample and a vector need."""
        return Footprint(self._saved, self.problem.size * self.problem.theta.element_size())

    def _free(self) -> int:
        """Bytes beside what is kept of the batches."""
        samples = self.problem.samples
        kept = self._blocks.budget
        return self.memory - (kept if samples is None else min(kept, self.footprint.kept(samples)))

    def _as_function(self, batch: Batch) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """(product, shared): product(v, *shared) = A_b v, a function of every tensor that differs between batches.

        By reverse derivatives: recording forward ones ends the process on some losses (a fault in torch: mse_loss).
        """
        problem = self.problem
        weight = self._weight_tensor(batch.weight)

        def product(v: Tensor, theta: Tensor, weight: Tensor, *samples: Tensor) -> Any:
            given = iter(samples)
            inputs, targets = map_tensors(lambda _: next(given), (batch.inputs, batch.targets))
            other = copy.copy(self)
            other.problem = copy.copy(problem)
            other.problem.theta, other.problem.by_slices = theta, True
            return other.reverse(Batch(inputs, targets, batch.size, cast(Any, weight)))(v)

        return product, [problem.theta, weight, *tensors((batch.inputs, batch.targets))]

    def _weight_tensor(self, weight: float) -> Tensor:
        """The number as a tensor on the device, copied there once."""
        if weight not in self._weights:
            self._weights[weight] = torch.tensor(weight, dtype=self.dtype, device=self.device)
        return self._weights[weight]

    def _unfolded(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Gives rows (k, N) -> A_b V' (k, N) without recorded operations; nothing is computed before it is called."""
        if self._mode == "autograd":
            return partial(self._by_autograd, batch)
        return partial(self._in_pieces, batch)

    def pieces(self, samples: int, columns: int) -> tuple[int, int]:
        """(samples, columns) in which a chunk and a group are multiplied by torch's transforms."""
        return self.footprint.pieces(samples, columns, self._free())

    def _in_pieces(self, batch: Batch, rows: Tensor) -> Tensor:
        """A_b V' (k, N) by torch's transforms, which hold less at once than recorded operations."""
        samples, columns = self.pieces(batch.size, len(rows))
        parts = [batch] if samples >= batch.size else [self.problem.weighed(part) for part in batch.parts(samples)]
        total, *others = (in_groups(vmap(self._local(part)), columns, rows) for part in parts)
        for other in others:
            total = total + other
        return total

    def _by_autograd(self, batch: Batch, rows: Tensor) -> Tensor:
        problem, products = self.problem, []
        sizes = list(problem.sizes.values())
        with problem.placed_at(problem.theta) as leaves, torch.enable_grad():
            multiply = self.plainly(batch, leaves)
            for row in rows:
                parts = [part.view_as(leaf).clone() for part, leaf in zip(row.split(sizes), leaves, strict=True)]
                products.append(flat(multiply(parts)).detach())
        return torch.stack(products)

    def _local(self, batch: Batch) -> Product:
        return self.forward(batch) if self._mode == "forward" else self.reverse(batch)


def in_groups(multiply: Callable[[Tensor], Tensor], width: int, rows: Tensor) -> Tensor:
    """multiply(rows), for `width` rows (k, N) at a time."""
    if len(rows) <= width:
        return multiply(rows)
    return torch.cat([multiply(rows[start : start + width]) for start in range(0, len(rows), width)])


def pullback(function: Callable[[Any], Any], point: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The value function(point), and u -> J'u with the Jacobian J there."""
    value, transpose = vjp(function, point)[:2]
    return value, lambda u: transpose(u)[0]


def bytes_per_sample(problem: Any, batch: Batch) -> int:
    """What autograd saves for one more sample: inputs count, parameters and buffers do not."""
    if batch.size == 1:
        return max(1, saved_bytes(problem, batch))
    return max(1, saved_bytes(problem, batch.part(0, 2)) - saved_bytes(problem, batch.part(0, 1)))


def saved_bytes(problem: Any, batch: Batch) -> int:
    """Bytes of the storages that one evaluation saves for its gradient."""
    try:
        return _saved_bytes(problem, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # torch.func in a forward pass allows no hooks: guessed from the samples alone
        return UNKNOWN * sum(t.numel() * t.element_size() for t in tensors((batch.inputs, batch.targets)))


def _saved_bytes(problem: Any, batch: Batch) -> int:
    theta = problem.theta.clone().requires_grad_()
    ours = {t.untyped_storage().data_ptr() for t in (theta, *problem.frozen.values())}
    given = {t.untyped_storage().data_ptr(): t.nbytes for t in tensors((batch.inputs, batch.targets))}
    saved: dict[int, int] = {}
    alive = []  # until all are measured: an address that is free is taken again

    def measure(t: Tensor) -> int:
        place = t.untyped_storage().data_ptr()
        if place not in ours:
            saved[place] = given.get(place, t.untyped_storage().nbytes())
        alive.append(t)
        return place  # not the tensor: an output that its own node keeps is never freed, nor is the data behind it

    try:
        with torch.enable_grad(), saved_tensors_hooks(measure, _unused):
            if problem.in_place:
                with problem.placed_at(theta):
                    problem.own_share(batch)
            else:
                problem.share(theta, batch)
    finally:
        alive.clear()  # the graph holds its hooks, and they hold this list
    return sum(saved.values())


def _unused(_: int) -> Tensor:
    raise RuntimeError("the graph of a measurement has no backward pass")
