"""The Hessian of a network of whose weights, and of whose samples, each rank has a part: H = sum_r w_r H_r / sum_r w_r.

    product_own     a rank's coordinates of H V from its own of V: nobody has the whole of anything
    H @ V           the same of whole vectors, which all ranks have

A layer's parameters are whole on every rank while it is evaluated, and let go again: in one product four times, with
those of k directions once (`networks.shards.layers`). What stays are a rank's own coordinates, the inputs and slopes of
all layers for a chunk of samples, and one layer with its k directions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.distributed.group import Group, RankFailed, RankLost
from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.distributed.sharded_weights import Layout, Plan, RankExchange
from lanczos_saddle.distributed.weight_sources import Weights, plain
from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import Batch, Batches, joined
from lanczos_saddle.networks.curvature import MEMORY
from lanczos_saddle.networks.footprint import Footprint
from lanczos_saddle.networks.objective import SAMPLES, TRIAL
from lanczos_saddle.networks.refusals import once_only
from lanczos_saddle.networks.shards.placeholders import Touched, refuse_hooks, without_parameters
from lanczos_saddle.networks.shards.sliced_loss import SlicedLoss
from lanczos_saddle.networks.shards.units import Assembly, Parts, Unit, enlarged, units_of
from lanczos_saddle.operators.fidelity import Fidelity, off
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.knowledge import NOTHING, Knowledge


class ShardedHessian(OverRanks):
    """The Hessian of all ranks' samples at weights that are cut over the ranks, an `Operator` (N, N).

    ``H @ v`` is called by all ranks with the same whole v; `product_own` by all, each with its own coordinates. The
    questions of this package are called by all ranks, and worked out by rank 0, with whole vectors.
    """

    memory = MEMORY
    found: Fidelity = off("layers")
    parts: Parts
    loss: SlicedLoss
    lent: Batch  # a sample of some rank's, for those that have none or no more
    beside: Batch | None  # a few samples of the next rank's

    def __init__(self, group: Group, sizes: Mapping[str, int], dtype: torch.dtype, device: torch.device) -> None:
        self.layout = Layout.even(sizes, group.size)
        facts = {"size": self.layout.total, "dtype": dtype, "arithmetic": dtype, "device": device, "kind": "Hessian"}
        super().__init__(None, group, {**facts, "theta": torch.empty(0, dtype=dtype, device=device)})
        self.exchange = RankExchange(group)
        self._saved = 1  # bytes that a graph keeps for a sample

    @property
    def own(self) -> slice:
        """The coordinates of this rank."""
        return self.layout.own(self.group.rank)

    def take(self, model: torch.nn.Module, source: Weights) -> None:
        """Copy this rank's parts of the parameters, and the model without any; called by all ranks."""
        group, rank = self.group, self.group.rank
        rest = {name: p.numel() for name, p in source.own.items() if name not in self.layout.sizes}
        self.frozen = Layout.even(rest, group.size)
        kept = [
            group.attempted(lambda layout=layout: source.kept(layout, rank, self.dtype, self.device))  # type: ignore[misc]
            for layout in (self.layout, self.frozen)
        ]
        self.parts = Parts(*kept)

        def bare() -> torch.nn.Module:
            with plain(model):
                refuse_hooks(model)
                return without_parameters(model, self.dtype, self.device, source.buffers)

        self.bare = group.attempted(bare)
        self.shapes = {name: p.shape for name, p in source.own.items()}

    def settle(self, loss: Any, data: Any, collate: Any, batch_weight: Any) -> None:
        """Find out which modules are layers, and what a sample takes; called by all ranks."""
        group = self.group
        batches = group.attempted(
            lambda: None if data is None else Batches(data, self.dtype, self.device, collate=collate)
        )
        few = group.attempted(lambda: None if batches is None else batches.spread(TRIAL))
        said = group.gathered(None if few is None else few.to(torch.device("cpu"), self.dtype))
        self.beside = said[(group.rank + 1) % group.size]
        lent = [b for b in said if b]
        if not lent:
            raise ValueError("some rank must have samples; got None on all of them: pass its share where it has")

        def made(units: Sequence[Unit]) -> SlicedLoss:
            return SlicedLoss(self._assembly(units), loss, batches, batch_weight, self.dtype, self.device)

        whole: list[str] = []
        while True:
            units = units_of(self.bare, whole)
            self.loss = group.attempted(lambda units=units: made(units))  # type: ignore[misc]
            self.lent = group.attempted(lambda: self._one_that_weighs(lent[0]))
            touched = self.exchange.together(self.tried)
            if touched is None:
                break
            name = enlarged(self.bare, touched)
            if name in whole:
                raise ValueError(f"layer {name!r} keeps parameters beside its own, {touched.name!r}: it cannot be cut")
            whole.append(name)
        self._saved = self.exchange.together(self._measured)
        self.exchange.together(self._steady)
        own = group.attempted(lambda: sum(b.weight for b in self.loss.batches(SAMPLES)))
        self._total = float(sum(group.gathered(own)))
        if self._total <= 0:
            raise ValueError("the samples must have a positive total weight; got 0: are all targets ignored?")
        self.plan(1)

    def _one_that_weighs(self, few: Batch) -> Batch:
        """A sample whose targets are not ignored: the mean over no target is NaN, even 0 times."""
        few = few.to(self.device, self.dtype)
        singles = (few.part(i, i + 1) for i in range(few.size if few.divisible else 1))
        return next((one for one in singles if self.loss.weighed(one).weight > 0), few)

    def _assembly(self, units: Sequence[Unit]) -> Assembly:
        """The model, its layers and what is exchanged for each."""
        self.exchange.names = [unit.name for unit in units]
        self.exchange.plans = []
        for unit in units:
            for layout in (self.layout, self.frozen):
                self.exchange.plans.append(Plan.of([n for n in unit.names if n in layout.sizes], layout))
        return Assembly(self.bare, units, self.exchange, self.shapes)

    def _trial(self) -> Batch:
        """A few samples of this rank's, or those that are lent."""
        loss = self.loss
        few = self.lent if loss.data is None else loss.data.spread(2)
        few = loss.weighed(few)
        return few if few.weight > 0 else loss.weighed(self.lent)

    def tried(self) -> Touched | None:
        """One evaluation; the parameter that it used outside of its layer, if any."""
        with self.loss.evaluating():
            try:
                self.loss.share(self.parts, self._trial())
            except Touched as touched:
                return touched
        return None

    def _measured(self) -> int:
        with self.loss.evaluating():
            return self.loss.saved_per_sample(self.parts, self._trial())

    def _steady(self) -> None:
        """Raises ValueError where an evaluation is not finite, another one when repeated, or does not add up."""
        with self.loss.evaluating():
            batch = self._trial()
            self.loss.look(self.parts, batch)
            self.loss.look(self.parts, self._with_next(batch))
            self.loss.by_columns = not self._multiplies(batch)

    def check_sums(self) -> None:
        """Every batch and the one before it have together the sum of their shares; called by all ranks.

        Asked of means of unknown weight: two evaluations of all the data; of each rank's first batch two parts.
        """
        if self.group.largest(self.loss.guessed)[0]:
            limit = max(1, min(SAMPLES, self.plan(1)[0] // 2))
            self.exchange.together(lambda: self._sums(limit))

    def _sums(self, limit: int) -> None:
        last: Batch | None = None
        with self.loss.evaluating():
            for batch in self.rounds(self.loss.batches(limit)):
                if last is None and batch is not None and batch.divisible and batch.size > 1:
                    cut = max(1, batch.size // 3)
                    last, batch = (self.loss.weighed(b) for b in (batch.part(0, cut), batch.part(cut, batch.size)))
                self.loss.look_at_pair(self.parts, last, batch, self.lent)
                last = batch

    def _with_next(self, batch: Batch) -> Batch:
        """The batch and as many samples of the next rank's, which may weigh more, where they can be put together."""
        if self.beside is None:
            return batch
        both = joined([batch, self.beside.to(self.device, self.dtype).part(0, min(batch.size, self.beside.size))])
        found = batch if both is None else self.loss.weighed(both)
        return found if found.weight > 0 else batch

    def _multiplies(self, batch: Batch) -> bool:
        """Whether a block's second sweep can be made at once, which all ranks find alike."""
        rows = torch.ones(2, self.own.stop - self.own.start, dtype=self.dtype, device=self.device)
        try:
            with self.loss.first_sweep(self.parts, batch, batch) as (_, slopes, leaves):
                self.loss.second_sweep(slopes, leaves, rows, torch.zeros_like(rows))
        except RuntimeError as error:
            if isinstance(error, RankFailed | RankLost):
                raise
            if "vmap" in str(error):
                return False
            if isinstance(error, NotImplementedError):
                raise once_only(error) from error
            raise
        return True

    def plan(self, columns: int) -> tuple[int, int]:
        """(samples a chunk, columns a group) for a block, within `memory`; the latter the same on all ranks.

        Raises ValueError where one sample and one column need more.
        """
        need, (samples, width) = self.footprint.plain(1, 1), self._chunk(columns)
        if need > self.memory:
            raise ValueError(
                f"memory must hold one sample and the largest layer with one column, {need} bytes here; got "
                f"memory={self.memory}: raise it"
            )
        return samples, -self.group.largest(-width)[0]

    def _chunk(self, columns: int) -> tuple[int, int]:
        return self.footprint.chunk(columns, self.memory, False, self.device.type != "cuda")

    @property
    def footprint(self) -> Footprint:
        """Bytes that a sample and a layer with its direction need."""
        largest = max(sum(plan.sizes) for plan in self.exchange.plans)
        return Footprint(self._saved, largest * self.dtype.itemsize)

    @differentiable
    def product_own(self, v: Tensor) -> Tensor:
        """This rank's coordinates (n_r, k) of H V from its own of V, or (n_r,) of one vector; called by all ranks.

        Cost: a pass over the samples; for every chunk each layer is collected four times, its k directions once, and
        its slopes are summed over the ranks three times, k of them twice.
        """
        rows = self.group.attempted(lambda: self._rows(v))
        samples, width = self.plan(len(rows))
        with turn():
            found = self.exchange.together(lambda: self.multiplied(rows, self.loss.batches(samples), width))
        found /= self.total()
        return found.mT if v.ndim == 2 else found[0]

    def _rows(self, v: Tensor) -> Tensor:
        size = self.own.stop - self.own.start
        if v.ndim not in (1, 2) or len(v) != size or v.dtype != self.dtype or v.device != self.device:
            raise ValueError(
                f"a rank multiplies its own coordinates, ({size},) or ({size}, k) in {self.dtype} on {self.device}; "
                f"got {tuple(v.shape)} in {v.dtype} on {v.device}"
            )
        return v.detach().reshape(size, v.shape[1] if v.ndim == 2 else 1).mT.contiguous()

    def multiplied(self, rows: Tensor, batches: Iterable[Batch], width: int) -> Tensor:
        """Rows of sum_b H_b V over the batches of all ranks, undivided; within `together`."""
        total = torch.zeros_like(rows)
        with self.loss.evaluating():
            for batch in self.rounds(batches):
                with self.loss.first_sweep(self.parts, batch, self.lent) as (_, slopes, leaves):
                    for start in range(0, len(rows), width):
                        some = slice(start, start + width)
                        self.loss.second_sweep(slopes, leaves, rows[some], total[some])
        return total

    def rounds(self, batches: Iterable[Batch]) -> Iterator[Batch | None]:
        """This rank's batches, and None for as long as another rank has more."""
        own = iter(batches)
        while True:
            batch = next(own, None)
            if not self.exchange.more(batch is not None):
                return
            yield batch

    @differentiable
    def product(self, v: Tensor, *, everywhere: bool) -> Tensor:
        """A v in the shape of v, of vectors that all ranks have; on rank 0 alone where not `everywhere`."""
        columns = v if v.ndim == 2 else v[:, None]
        rows = self.whole(self.product_own(columns[self.own]).mT, everywhere=everywhere)
        if rows is None:
            return v
        return rows.mT if v.ndim == 2 else rows[0]

    def local(self, v: Tensor) -> Tensor:
        """Rows (k, N) that make sum_r w_r H V when ranks add them up: this rank's coordinates; called by all."""
        columns = v if v.ndim == 2 else v[:, None]
        rows = v.new_zeros(columns.shape[1], self.shape[0])
        rows[:, self.own] = self.product_own(columns[self.own]).mT * self.total()
        return rows

    def whole(self, rows: Tensor, *, everywhere: bool) -> Tensor | None:
        """Vectors (k, N) from this rank's coordinates (k, n_r), on all ranks or on rank 0; called by all."""
        group, cuts = self.group, self.layout.cuts
        sizes = [stop - start for start, stop in pairwise(cuts)]
        part = rows.new_zeros(len(rows), max(sizes))
        part[:, : rows.shape[1]] = rows
        parts = group.collected(part)
        found = None if parts is None else torch.cat([p[:, :n] for p, n in zip(parts, sizes, strict=True)], dim=1)
        if everywhere:
            found = rows.new_empty(len(rows), self.shape[0]) if found is None else found.contiguous()
            group.given(found)
        return found

    def gradient_own(self, batches: Iterable[Batch], parts: Parts | None = None) -> tuple[Tensor, Tensor]:
        """(sum_b s_b over all ranks (0-d), its slope in this rank's coordinates); called by all ranks."""
        parts = self.parts if parts is None else parts

        def work() -> tuple[Tensor, Tensor]:
            size = self.own.stop - self.own.start
            slope = torch.zeros(size, dtype=self.dtype, device=self.device)
            value = torch.zeros((), dtype=self.dtype, device=self.device)
            with self.loss.evaluating():
                for batch in self.rounds(batches):
                    one, other = self.loss.gradient(parts, batch, self.lent)
                    value, slope = value + one, slope + other
            return value, slope

        with turn():
            value, slope = self.exchange.together(work)
        self.group.summed(value, everywhere=True)
        return value, slope

    def slope(self) -> tuple[float, float]:
        """(norm of the gradient, loss) of all samples together; called by all ranks."""
        value, slope = self.gradient_own(self.loss.batches(self.plan(1)[0]))
        square = (slope / self.total()).square().sum()
        self.group.summed(square, everywhere=True)
        return float(square.sqrt()), float(value) / self.total()

    def total(self) -> float:
        """The weight of all samples, sum_r w_r."""
        assert self._total is not None
        return self._total

    def to(self, dtype: torch.dtype) -> ShardedHessian:
        """The same matrix, with products in another floating-point type; called by all ranks."""
        other = copy.copy(self)
        other.dtype = other.arithmetic = dtype
        other.exchange = RankExchange(self.group)
        other.parts = Parts(
            *({n: t.to(dtype) for n, t in kept.items()} for kept in (self.parts.moving, self.parts.frozen))
        )
        other.lent = self.lent.to(self.device, dtype)
        other.theta = self.theta.to(dtype)
        other._saved = self._saved * torch.finfo(dtype).bits // torch.finfo(self.dtype).bits
        names = [unit.name for unit in self.loss.assembly.units if unit.whole]

        def made() -> SlicedLoss:
            other.bare = without_parameters(self.bare, dtype, self.device, {})
            return self.loss.to(dtype, other._assembly(units_of(other.bare, names)))

        other.loss = self.group.attempted(made)
        return other

    def at(self, theta: Tensor) -> ShardedHessian:
        """The same matrix at other parameters theta (N,), the same on all ranks; called by all ranks."""
        return self.at_own(theta[self.own].clone())

    def at_own(self, slice_: Tensor) -> ShardedHessian:
        """The same matrix at other parameters, of which this is the rank's slice."""
        other = copy.copy(self)
        other.parts = Parts(self.split(slice_), self.parts.frozen)
        return other

    def split(self, slice_: Tensor) -> dict[str, Tensor]:
        """A slice (n_r,) by parameters."""
        sizes = [t.numel() for t in self.parts.moving.values()]
        return dict(zip(self.parts.moving, torch.split(slice_, sizes), strict=True))

    def theta_own(self) -> Tensor:
        """This rank's coordinates of theta (n_r,)."""
        return torch.cat(list(self.parts.moving.values()))

    def collected_theta(self) -> Tensor:
        """Theta (N,) on rank 0; called by all ranks."""
        found = self.whole(self.theta_own()[None], everywhere=False)
        return self.theta if found is None else found[0]

    def offers(self, dtype: torch.dtype) -> bool:
        """Whether the function evaluates in that type; called by all ranks."""
        if dtype == self.dtype:
            return True
        try:
            other = self.to(dtype)
            other.exchange.together(other.tried)
        except (ValueError, RankFailed):
            return False
        return True

    def compared(self) -> Fidelity:
        """What was found when the matrix was made."""
        return self.found

    def another_way(self) -> bool:
        """There is one."""
        return False

    def known(self, point: Callable[[], tuple[float, float]] | None) -> Knowledge:
        """Where the gradient and the loss are to be had; nothing is proved of layers that nobody has whole."""
        return replace(NOTHING, curvature="hessian", point=point)

    def _agree_on_mode(self) -> None:
        """There is one."""
