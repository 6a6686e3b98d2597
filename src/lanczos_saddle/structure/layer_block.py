"""A v for the positive semidefinite block A of one layer (`structure.convex_block`), as two large matrix products.

For a sample with input x of the layer, z = W x + b its output, and later biases c, the outputs of the network are
affine in (z, c) on each linear piece. With K (C, h + m) their Jacobian in (z, c) and S (C, C) the Hessian of the loss,

    A v = sum_samples  G' K' S K G v / weight,   G v = [V x + v_b; v_c]

so a block of k columns takes one product (n, d) (d, h k) for V x, one (d, n) (n, h k) for the transpose, and small ones
in between: what a product by autograd takes three times as many operations for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vjp, vmap

from lanczos_saddle.networks.objective import TRIAL
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.knowledge import ConvexBlock
from lanczos_saddle.operators.operator import check_vector

WORK = 48 * 2**20
"""Bytes of the largest temporary of a chunk of samples: near the processor's cache, and large enough for a GPU."""


class LayerBlock:
    """The block A (N_1, N_1) of the Hessian of a problem, an `Operator`.

    The block must come from `convex_block(problem)`. `supports` says whether layer inputs and outputs are 2-D.
    Cost of k columns: 4 n d h k operations and 4 n C (h + C) k small ones. Memory: about four temporaries of `WORK`
    bytes and three blocks (N_1, k).
    """

    def __init__(self, problem: Problem, block: ConvexBlock) -> None:
        self.problem, self.block = problem, block
        children = list(problem.model._modules.items())  # named_children leaves out a module that is used again
        at = [name for name, _ in children].index(block.layer)
        self._head, self._layer, self._tail = children[:at], children[at], children[at + 1 :]
        self._later = [n for n in block.names if n.rpartition(".")[0] != block.layer]
        self._bias = f"{block.layer}.bias" in block.names
        self._weight = f"{block.layer}.weight" in block.names
        self._state = {**problem.frozen, **problem.unflatten(problem.theta)}
        self.units = int(self._state[f"{block.layer}.weight"].shape[0])

    @classmethod
    def supports(cls, problem: Problem, block: ConvexBlock) -> bool:
        """Whether the layer's inputs and the network's outputs are 2-D: one row a sample."""
        if problem.output_dimensions != 2:
            return False
        with problem.evaluating():
            batch = next(problem.batches(TRIAL))
            self = cls(problem, block)
            inputs: Tensor = self._through(self._head, batch.inputs, self._state)
            return inputs.ndim == 2

    @property
    def shape(self) -> tuple[int, int]:
        """(N_1, N_1)."""
        return (len(self.block.index),) * 2

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of vectors and products."""
        return self.problem.dtype

    @property
    def device(self) -> torch.device:
        """Where vectors live."""
        return self.problem.device

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.shape[0], self.dtype, self.device)
        columns = v if v.ndim == 2 else v[:, None]
        with torch.no_grad():
            product = self._product(columns)
        return product if v.ndim == 2 else product[:, 0]

    def _product(self, v: Tensor) -> Tensor:
        k, h, total = v.shape[1], self.units, torch.zeros_like(v)
        if k == 0:
            return total
        wide = self._state[f"{self.block.layer}.weight"].shape[1]
        weights = h * wide if self._weight else 0
        rows = weights + (h if self._bias else 0)
        incoming = v[:weights].reshape(-1, wide, k).permute(1, 0, 2).reshape(wide, -1) if self._weight else None
        gathered = torch.zeros_like(incoming) if incoming is not None else None  # (d, h k)
        for x, jacobian, bend in self._pieces(max(8, WORK // (8 * h * k))):
            inner = x.new_zeros(len(x), h, k)  # G v, the part of the layer's own outputs
            if incoming is not None:
                inner = (x @ incoming).reshape(len(x), h, k)
            if self._bias:
                inner = inner + v[weights:rows]
            bent = torch.bmm(jacobian[:, :, :h], inner)
            if self._later:
                bent = bent + jacobian[:, :, h:] @ v[rows:]
            bent = torch.bmm(bend, bent)
            outer = torch.bmm(jacobian[:, :, :h].mT, bent)  # (n, h, k)
            if gathered is not None:
                gathered.addmm_(x.mT, outer.reshape(len(x), h * k))
            if self._bias:
                total[weights:rows] += outer.sum(dim=0)
            if self._later:
                total[rows:] += jacobian[:, :, h:].reshape(-1, v.shape[0] - rows).mT @ bent.reshape(-1, k)
        if gathered is not None:
            total[:weights] = gathered.reshape(wide, h, k).permute(1, 0, 2).reshape(weights, k)
        return total / self.problem.weight

    def _pieces(self, samples: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """X (n, d), K (n, C, h + m) and S (n, C, C) for chunks of samples; S holds the weight of the batch."""
        later = [self._state[name] for name in self._later]
        with self.problem.evaluating():
            for batch in self.problem.batches(samples):
                x = self._through(self._head, batch.inputs, self._state)
                z = self._through([self._layer], x, self._state)
                widened = [c.expand(len(z), -1) for c in later]  # one copy a sample, to be told apart

                def outputs(z: Tensor, *biases: Tensor) -> Any:
                    return vmap(self._tail_of)(z, *biases)

                f, pull = vjp(outputs, z, *widened)[:2]
                unit = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
                rows = _along(pull, f, unit)  # (n, C, h + m)
                bend = vjp(grad(partial(self.problem.share_of, batch=batch)), f)[1]  # in reverse mode: always there
                # samples do not interact, so one derivative along e_c serves all of them
                yield x, rows, _along(bend, f, unit)

    def _tail_of(self, z: Tensor, *biases: Tensor) -> Any:
        state = {**self._state, **dict(zip(self._later, biases, strict=True))}
        return self._through(self._tail, z[None], state)[0]

    @staticmethod
    def _through(children: list[tuple[str, Any]], x: Any, state: dict[str, Tensor]) -> Any:
        for name, module in children:
            own = {k[len(name) + 1 :]: t for k, t in state.items() if k.startswith(f"{name}.")}
            x = functional_call(module, own, (x,))
        return x


def _along(pull: Callable[[Tensor], tuple[Tensor, ...]], outputs: Tensor, unit: Tensor) -> Tensor:
    """(n, C, sum of widths): pull(e_c) for the unit vectors e_c of the outputs, the same for every sample."""
    rows: Tensor = vmap(lambda e: torch.cat(pull(e.expand_as(outputs)), dim=1))(unit)
    return rows.transpose(0, 1).contiguous()
