"""The loss of this rank's samples as a function of this rank's parts of the parameters, called by all ranks together.

    s_b(parts)      outputs and loss by the user's modules, each with its parameters while it is evaluated
    first sweep     the slopes of sum_r s_b in this rank's parts, with a graph
    second sweep    their derivative along blocks of directions, given and found in parts: H_b V

By plain autograd: the second sweep of a block at once where torch's vmap knows all operations, else column by column.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import vmap

from lanczos_saddle.networks.batches import Batch, Batches, joined, map_tensors, tensors
from lanczos_saddle.networks.losses import IGNORED, BatchLoss
from lanczos_saddle.networks.objective import Objective, derivatives
from lanczos_saddle.networks.parameters import refuse_randomness
from lanczos_saddle.networks.placement import flat, pristine
from lanczos_saddle.networks.problem import SIGNED, called
from lanczos_saddle.networks.refusals import changing
from lanczos_saddle.networks.shards.units import Assembly, Parts


class SlicedLoss:
    """Of one rank; `data` is None where it has no samples."""

    lifting = False
    dense = written_out = True
    by_columns = False  # whether a block's second sweep is made column by column

    def __init__(
        self,
        assembly: Assembly,
        loss: Callable[..., Any],
        data: Batches | None,
        batch_weight: Callable[[Any], float | Tensor] | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.assembly, self.data, self.dtype, self.device = assembly, data, dtype, device
        self.loss = own_copy(loss, dtype, device)
        module = self.loss if isinstance(self.loss, nn.Module) else None
        state = {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.batch_loss = BatchLoss(self.loss, batch_weight, state)
        self.roots = (assembly.model,) if module is None else (assembly.model, module)
        self.guessed = False  # whether the weight of a mean is a guess, which ignored targets would make wrong
        for root in self.roots:
            refuse_randomness(root)

    def evaluating(self) -> AbstractContextManager[None]:
        """The state for a pass, as of every objective."""
        return Objective.evaluating(cast(Objective, self))

    def to(self, dtype: torch.dtype, assembly: Assembly) -> SlicedLoss:
        """The same loss in another type, of a model in that type."""
        data = None if self.data is None else self.data.to(dtype)
        other = SlicedLoss(assembly, self.loss, data, self.batch_loss.batch_weight, dtype, self.device)
        other.guessed, other.by_columns = self.guessed, self.by_columns
        return other

    def look(self, parts: Parts, batch: Batch) -> None:
        """Raises ValueError where an evaluation is not finite, is another one when repeated, or does not add up."""
        with pristine(self.roots), self.assembly.assembled(parts):
            outputs = self._outputs(batch)
        self.guessed = self.batch_loss.weight_is_guessed(outputs, batch.targets)
        one, other = (float(self.share(parts, batch)) for _ in range(2))
        eps = torch.finfo(self.dtype).eps
        if not math.isfinite(one):
            raise ValueError(f"the loss must be finite; got {one} on {batch.size} samples")
        if not abs(one - other) <= 1e3 * eps * (abs(one) + batch.weight):
            raise ValueError(
                changing("the model and the loss must be deterministic", one / batch.weight, other / batch.weight, ())
            )
        cut = batch.size // 2 if batch.divisible else 0
        halves = [self.weighed(b) for b in (batch.part(0, cut), batch.part(cut, batch.size))] if cut else [batch] * 2
        shares = [float(self.share(parts, half)) if half.weight > 0 else self._idle(parts, batch) for half in halves]
        if cut:
            self._require_sum(one, sum(shares), batch)

    def _require_sum(self, share: float, sum_of_parts: float, batch: Batch) -> None:
        """Raises ValueError where the share of a batch is not that of its parts."""
        eps = torch.finfo(self.dtype).eps
        if not abs(share - sum_of_parts) <= eps**0.5 * abs(share) + 100 * eps * batch.weight:
            raise ValueError(
                f"the loss must add up over the parts of a batch; got {share} for {batch.size} samples and "
                f"{sum_of_parts} in parts: return a mean or one value per sample; a mean over tokens, or with class "
                "weights, needs batch_weight=lambda targets: (what they weigh)"
            )

    def look_at_pair(self, parts: Parts, one: Batch | None, other: Batch | None, lent: Batch) -> None:
        """Raises ValueError where two batches together, if they can be put together, have another share than apart."""
        both = None if one is None or other is None else joined([one, other])
        whole = None if both is None else self.weighed(both)
        shares = [float(self.plain_value(parts, batch, lent)) for batch in (whole, one, other)]
        if whole is not None:
            self._require_sum(shares[0], shares[1] + shares[2], whole)

    def _idle(self, parts: Parts, batch: Batch) -> float:
        """0, after an evaluation like those of the other ranks."""
        self.share(parts, batch)
        return 0.0

    def share(self, parts: Parts, batch: Batch) -> Tensor:
        """s_b (0-d)."""
        with pristine(self.roots), self.assembly.assembled(parts):
            return self._called(batch)

    def _called(self, batch: Batch) -> Tensor:
        return self.batch_loss.share(self._outputs(batch), batch.targets, batch.size, batch.weight)

    def _outputs(self, batch: Batch) -> Any:
        return called(self.assembly.model, map_tensors(torch.detach, batch.inputs))

    def weighed(self, batch: Batch) -> Batch:
        """The batch with what it weighs; raises ValueError where that is not known."""
        if self.guessed and any(t.dtype in SIGNED and bool((t == IGNORED).any()) for t in tensors(batch.targets)):
            raise ValueError(
                f"a mean over targets some of which are ignored needs its weight; got targets of {IGNORED} and a loss "
                f"of unknown rule: pass batch_weight=lambda targets: (targets != {IGNORED}).sum(), or "
                "batch_weight=len where these are values like others"
            )
        return replace(batch, weight=self.batch_loss.weight(batch.targets, batch.size))

    def batches(self, limit: int) -> Iterator[Batch]:
        """One pass: batches of at most so many samples with their weights; those of weight 0 are left out."""
        for batch in () if self.data is None else self.data(limit):
            found = self.weighed(batch)
            if found.weight > 0:
                yield found

    @contextmanager
    def first_sweep(
        self, parts: Parts, batch: Batch | None, lent: Batch
    ) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """(s_b, slopes in the parts that move, with a graph; these parts). Without a batch, 0 of what is lent.

        The second sweep is made within the block: a checkpoint of the user's evaluates again during it.
        """
        leaves = {name: part.detach().requires_grad_() for name, part in parts.moving.items()}
        there = Parts(leaves, parts.frozen)
        with pristine(self.roots), self.assembly.assembled(there), torch.enable_grad():
            value = self._called(lent if batch is None else batch)
            value = value * 0.0 if batch is None else value
            found = list(leaves.values())
            yield value, derivatives(value, found, keep=True), found

    def second_sweep(self, slopes: Sequence[Tensor], leaves: Sequence[Tensor], rows: Tensor, total: Tensor) -> None:
        """Adds rows (k, m) of H_b V to the total, for rows of V; m the coordinates of this rank."""
        sizes = [leaf.numel() for leaf in leaves]
        directions, sums = torch.split(rows, sizes, dim=1), torch.split(total, sizes, dim=1)
        kept = [i for i, slope in enumerate(slopes) if slope.requires_grad]
        if not kept:
            return
        known, along = [slopes[i] for i in kept], [directions[i] for i in kept]
        if len(rows) > 1 and not self.by_columns:
            for part, found in zip(sums, vmap(lambda *some: _pulled(known, leaves, some))(*along), strict=True):
                part += found
            return
        for j in range(len(rows)):
            for part, found in zip(sums, _pulled(known, leaves, [d[j] for d in along]), strict=True):
                part[j] += found

    def gradient(self, parts: Parts, batch: Batch | None, lent: Batch) -> tuple[Tensor, Tensor]:
        """(s_b, its slope in this rank's coordinates (m,))."""
        with self.first_sweep(parts, batch, lent) as (value, slopes, _):
            return value.detach(), flat(slope.detach() for slope in slopes)

    def plain_value(self, parts: Parts, batch: Batch | None, lent: Batch) -> Tensor:
        """s_b by the user's modules as they are, without a graph or a function of ours around them."""
        other = copy.copy(self)
        other.assembly = copy.copy(self.assembly)
        other.assembly.functional = False
        with torch.no_grad():
            value = other.share(parts, lent if batch is None else batch)
        return value * 0.0 if batch is None else value

    def saved_per_sample(self, parts: Parts, batch: Batch) -> int:
        """Bytes that a graph keeps for one more sample."""
        one, two = self._saved(parts, batch.part(0, 1)), self._saved(parts, batch.part(0, min(2, batch.size)))
        return max(1, two - one if batch.divisible and batch.size > 1 else one)

    def _saved(self, parts: Parts, batch: Batch) -> int:
        leaves = {name: part.detach().requires_grad_() for name, part in parts.moving.items()}
        ours = {t.untyped_storage().data_ptr() for t in (*leaves.values(), *self.assembly.model.buffers())}
        saved: dict[int, int] = {}
        alive = []

        def measure(t: Tensor) -> int:
            place = t.untyped_storage().data_ptr()
            if place not in ours:
                saved[place] = t.untyped_storage().nbytes()
            alive.append(t)
            return place

        with torch.enable_grad(), saved_tensors_hooks(measure, _unused):
            self.share(Parts(leaves, parts.frozen), batch)
        alive.clear()
        return sum(saved.values())


def _unused(_: int) -> Tensor:
    raise ValueError(
        "weights over ranks take models that make no derivatives in forward; this one does: data_parallel and "
        "vector_parallel, with whole weights on every rank, take it"
    )


def _pulled(slopes: Sequence[Tensor], leaves: Sequence[Tensor], directions: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The slopes of <slopes, directions> in the leaves."""
    found: Any = torch.autograd.grad(
        list(slopes), list(leaves), list(directions), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return tuple(t.detach() for t in found)


def own_copy(loss: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> Callable[..., Any]:
    """A loss that is a module, copied and converted. Raises ValueError for parameters of its own that are trained."""
    if not isinstance(loss, nn.Module):
        return loss
    trained = [name for name, p in loss.named_parameters() if p.requires_grad]
    if trained:
        raise ValueError(
            f"the loss must have no parameters of its own that are trained; got {trained}: they would be left out of "
            "theta. Freeze them, loss.requires_grad_(False), or make them part of the model"
        )
    return copy.deepcopy(loss).to(device, dtype)
