"""Products A v = sum_b A_b v / sum_b w_b with a curvature matrix of the loss, inside a stated memory.

A_b is the matrix of one batch's share of the loss (`problem`). Batches are cut into chunks of samples,
blocks of vectors into groups of columns. The columns of a group are multiplied together (`block_products`), and what
does not depend on them, such as activations, is kept from product to product in up to half of the memory.

    forward mode   the directional derivative of the gradient      (forward over reverse)
    reverse mode   the gradient of <gradient, v>                   (reverse over reverse)

Some operations have no forward derivative on this torch (`nn.MSELoss` is one): a product on a few samples
decides the mode once.

Memory of a chunk of s samples and a group of k columns, in bytes, for N parameters and a saved bytes per
sample:

    s a (PRIMAL + k TANGENT) + 8 or 4 N k VECTORS          (constants measured, to about 15 %)
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import vjp, vmap

from lanczos_saddle.batches import Batch, form_of, map_tensors, tensors
from lanczos_saddle.block_products import BlockProducts
from lanczos_saddle.operator import check_vector, to_scipy
from lanczos_saddle.problem import TRIAL, Problem

Product = Callable[[Tensor], Any]  # v (N,) -> A_b v (N,)

MEMORY = 2**30  # bytes for activations and tangents
COLUMNS = 32  # widest group
CACHE = 48 * 2**20  # bytes of a chunk's activations times columns: where products on a processor were the fastest
DISAGREEMENT = 1e5  # rounding units; a larger difference of the two modes is a fault of one of them
FEW = 16  # samples beside which columns are kept together; wide groups of few samples were the fastest
PRIMAL, TANGENT, VECTORS = 4, 7, 6  # the dearest measured: convolution and attention, forward mode


class Curvature(ABC):
    """A curvature matrix of the mean loss at the problem's theta, (N, N), known by its products.

    Raises ValueError where `Problem` does, when neither mode can differentiate the model, and when one
    sample and one column do not fit into `memory` bytes.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any],
        data: Any,
        *,
        parameters: str | Sequence[str] = "*",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_weight: Callable[[Any], float | Tensor] | None = None,
        memory: int = MEMORY,
    ) -> None:
        self.problem = Problem(
            model, loss, data, parameters=parameters, dtype=dtype, device=device, batch_weight=batch_weight
        )
        self.memory = memory
        self._weights: dict[float, Tensor] = {}
        with self.problem.evaluating():
            few = next(self.problem.batches(TRIAL))
            self._saved = bytes_per_sample(self.problem, few)
            self._blocks = BlockProducts(memory // 2 if self.predict(1, 1) <= memory // 2 else 0)
            self.plan(1)
            self.mode = self._choose_mode(few.part(0, min(few.size, self.plan(2)[0])))

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

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.problem.size, self.dtype, self.device)
        return self.product(v)

    def to_scipy(self) -> LinearOperator:
        """The matrix as a scipy ``LinearOperator`` on NumPy arrays in host memory."""
        return to_scipy(self)

    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix, at the same weights and data, with products in another floating-point type."""
        other = copy.copy(self)
        other.problem = self.problem.to(dtype)
        other._saved = self._saved * torch.finfo(dtype).bits // torch.finfo(self.dtype).bits
        other._weights = {}
        other._blocks = BlockProducts(self._blocks.budget)
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

    @abstractmethod
    def forward(self, batch: Batch) -> Product:
        """Gives v -> A_b v by forward derivatives."""

    @abstractmethod
    def reverse(self, batch: Batch) -> Product:
        """Gives v -> A_b v by reverse derivatives alone."""

    def product(self, v: Tensor) -> Tensor:
        """A v in the shape of v, (N,) or (N, k): one pass over the data. (N, k) comes stored by columns."""
        rows = v.detach().reshape(self.problem.size, -1).mT.contiguous()  # (k, N)
        total = torch.zeros_like(rows)
        if len(rows):
            samples, columns = self.plan(len(rows))
            groups = [slice(start, start + columns) for start in range(0, len(rows), columns)]
            directions: dict[Any, Any] = {}
            with self.problem.evaluating():
                for index, batch in enumerate(self.problem.batches(samples)):
                    product, shared = self._as_function(batch)
                    plain = partial(self._plain, batch)
                    name = index if self.problem.data.resident is not None else None
                    form = form_of((batch.inputs, batch.targets))
                    for group in groups:
                        known = directions if len(groups) == 1 else {}  # of all groups: another block
                        self._blocks.add(total[group], rows[group], known, product, shared, plain, name, samples, form)
            total /= self.problem.weight
        return total.mT if v.ndim == 2 else total[0]

    def plan(self, columns: int) -> tuple[int, int]:
        """Samples a chunk and columns a group for a block of `columns`, within the memory.

        Columns share the forward pass, so they are kept together as long as a few samples fit beside them.
        Raises ValueError when one sample and one column need more than the memory.
        """
        if self.predict(1, 1) > self.memory:
            raise ValueError(
                f"memory must hold one sample and one column, {self.predict(1, 1)} bytes here; "
                f"got memory={self.memory}: raise it, or select fewer `parameters`"
            )
        groups, free = -(-columns // COLUMNS), self.memory - self._blocks.budget
        while self.predict(FEW, -(-columns // groups)) > free and groups < columns:
            groups = min(2 * groups, columns)
        width = -(-columns // groups)
        room = (free - self.predict(0, width)) // (self.predict(1, width) - self.predict(0, width))
        best = room if self.device.type == "cuda" else CACHE // (self._saved * width)
        return max(1, min(room, best)), width

    def predict(self, samples: int, columns: int) -> int:
        """Bytes that a chunk of `samples` and a group of `columns` need beside the block and its product."""
        vectors = VECTORS * columns * self.problem.size * self.problem.theta.element_size()
        return samples * self._saved * (PRIMAL + TANGENT * columns) + vectors

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
            other.problem.theta = theta
            return other.reverse(Batch(inputs, targets, batch.size, cast(Any, weight)))(v)

        return product, [problem.theta, weight, *tensors((batch.inputs, batch.targets))]

    def _weight_tensor(self, weight: float) -> Tensor:
        """The number as a tensor on the device, copied there once."""
        if weight not in self._weights:
            self._weights[weight] = torch.tensor(weight, dtype=self.dtype, device=self.device)
        return self._weights[weight]

    def _plain(self, batch: Batch, v: Tensor) -> Any:
        """A_b v without recorded operations; nothing is computed before it is called."""
        return self._local(batch)(v)

    def _local(self, batch: Batch) -> Product:
        return self.forward(batch) if self.mode == "forward" else self.reverse(batch)

    def _choose_mode(self, batch: Batch) -> str:
        """The first mode that multiplies; the more symmetric one where the two differ by more than rounding.

        Torch's forward derivative of an embedding does not know `padding_idx`, for one. What torch warns of (the first
        forward derivative in a process loads code that does) concerns no product.
        """
        failures, products = [], dict[str, Tensor]()
        rows = torch.randn(2, self.problem.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rows = rows.to(self.device, self.dtype)
        for mode, make in (("forward", self.forward), ("reverse", self.reverse)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    products[mode] = vmap(make(batch))(rows)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                failures.append(f"{mode}: {error}")
        if not products:
            raise ValueError(f"torch must differentiate the model and the loss twice; got {'; '.join(failures)}")
        if len(products) == 2:
            forward, reverse = products.values()
            tolerance = DISAGREEMENT * torch.finfo(self.dtype).eps * float(reverse.norm())
            crosswise = [float((rows[0] @ p[1] - rows[1] @ p[0]).abs()) for p in (forward, reverse)]
            if float((forward - reverse).norm()) > tolerance and crosswise[1] < crosswise[0]:
                return "reverse"
        return next(iter(products))


def pullback(function: Callable[[Any], Any], point: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The value function(point), and u -> J'u with the Jacobian J there."""
    value, transpose = vjp(function, point)[:2]
    return value, lambda u: transpose(u)[0]


def bytes_per_sample(problem: Problem, batch: Batch) -> int:
    """What autograd saves for one more sample: inputs count, parameters and buffers do not."""
    if batch.size == 1:
        return max(1, saved_bytes(problem, batch))
    return max(1, saved_bytes(problem, batch.part(0, 2)) - saved_bytes(problem, batch.part(0, 1)))


def saved_bytes(problem: Problem, batch: Batch) -> int:
    """Bytes of the storages that one evaluation saves for its gradient."""
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
            problem.share(theta, batch)
    finally:
        alive.clear()  # the graph holds its hooks, and they hold this list
    return sum(saved.values())


def _unused(_: int) -> Tensor:
    raise RuntimeError("the graph of a measurement has no backward pass")
