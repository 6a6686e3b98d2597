"""Recurrences of many probes, each on one rank: rank r of R runs columns r, r + R, ... of a matrix that it has whole.

While the recurrences go on, ranks exchange no vector: rank 0 says how deep, and at a look it gets the coefficients,
2 k numbers a probe. Vectors travel once at the start and at the end, where Cauchy's bounds, or the error of the run,
ask for the basis. The arithmetic of a probe is that of one process, to the rounding of blocks of another width.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.spread_basis import Asks
from lanczos_saddle.krylov.basis import Rows, forms, slices
from lanczos_saddle.krylov.lanczos import STATE, Lanczos, Tridiagonalization
from lanczos_saddle.krylov.witness import Sums, Watched, Witness
from lanczos_saddle.machine.progress import made
from lanczos_saddle.machine.states import Streamed, read_state, write_state
from lanczos_saddle.operators.mixed import Mixed
from lanczos_saddle.operators.operator import Operator, Projected, Restricted, Shifted
from lanczos_saddle.operators.recorded import Recorded
from lanczos_saddle.operators.scaling import Scaled

SMALL = ("alpha", "beta", "norms", "scale", "lengths")
"""Of a state: numbers by probe. `current`, `previous` and `basis` are vectors."""

FIELDS: dict[type, tuple[str, ...]] = {
    Restricted: ("index",),
    Projected: ("nulls",),
    Shifted: ("shift",),
    Scaled: ("exponent",),
    Mixed: ("known", "images"),
    Watched: (),
}
"""What is made of a matrix before a run, and by what beside it."""


def recipe(operator: Any, base: object) -> tuple[list[tuple[type, tuple[Any, ...]]], list[Witness]] | None:
    """(how the operator is made of `base`, innermost first; who sums its products up); None where ranks cannot."""
    steps, witnesses = [], []
    while operator is not base:
        if isinstance(operator, Recorded):  # which keeps what is made before these runs
            operator = operator.base
            continue
        names = FIELDS.get(type(operator))
        if names is None or (isinstance(operator, Watched) and not isinstance(operator.into, Witness)):
            return None
        if isinstance(operator, Watched):
            witnesses.append(operator.into)
        steps.append((type(operator), tuple(_sent(getattr(operator, name)) for name in names)))
        operator = operator.base
    return steps[::-1], witnesses[::-1]  # type: ignore[return-value]


def _sent(field: Any) -> Any:
    return field.cpu() if isinstance(field, Tensor) else field


class Part:
    """One rank's recurrences. Methods are called by all ranks, with vectors of all probes on rank 0 alone."""

    def __init__(
        self,
        group: Group,
        matrix: Operator,
        steps: Sequence[tuple[type, tuple[Any, ...]]],
        columns: int,
        **options: Any,
    ) -> None:
        self.group, self.columns, self.options = group, columns, options
        self.mine = range(group.rank, columns, group.size)
        self.witnesses: list[Witness] = []
        self.failure: Exception | None = None
        operator: Any = matrix
        for kind, fields in steps:
            if kind is Watched:
                self.witnesses.append(Witness())
                operator = self.witnesses[-1].watch(operator)
                self._afresh(self.witnesses[-1])
            else:
                operator = kind(operator, *(f.to(matrix.device) if isinstance(f, Tensor) else f for f in fields))
        self.operator: Operator = operator
        self.run: Lanczos | None = None

    def begin(self, probes: Tensor | None = None) -> None:
        """From start vectors (N, m)."""
        own = self._dealt(None if probes is None else probes.mT, torch.float64)
        if len(own):
            self.run = self.group.attempted(lambda: Lanczos(self.operator, own.mT, **self.options))
        else:
            self.group.attempted(lambda: None)

    def advance(self, steps: int) -> None:
        """To that depth; says nothing to the others, and keeps what was raised."""
        if self.run is None or self.failure is not None:
            return
        try:
            self.run.advance(steps)
        except Exception as error:
            self.failure = error

    def coefficients(self) -> list[Any]:
        """What each rank knows: (Tridiagonalization, numbers of the state, failed, block products), None of none."""

        def own() -> Any:
            if self.failure is not None:
                raise self.failure
            if self.run is None:
                return None
            failed = self.run.failed
            if failed == 1:
                return None, {}, failed, self.run.products
            small = {name: self.run.state()[name].cpu() for name in SMALL}
            return self.run.tridiagonalization(), small, failed, self.run.products

        return self.group.gathered(self.group.attempted(own))

    def witnessed(self) -> list[tuple[Tensor, Tensor, list[int]]]:
        """By witness its sums over all other ranks, on rank 0; they begin anew."""
        found = []
        for witness in self.witnesses:
            assert witness.sums is not None
            vectors, weight = witness.sums.vectors.clone(), witness.sums.weight.clone()[None]
            if self.group.rank == 0:
                vectors.zero_()
                weight.zero_()
            products = witness.sums.products - self._offset
            said = self.group.gathered((products, witness.sums.widest) if self.group.rank else (0, 0))
            self.group.summed(vectors, everywhere=False)
            self.group.summed(weight, everywhere=False)
            found.append((vectors, weight[0], [sum(p for p, _ in said), max(w for _, w in said)]))
            if self.group.rank:
                self._afresh(witness)
        return found

    def vectors(self, name: str, steps: int) -> Tensor:
        """`current` or `previous` after so many steps, (m, N) on rank 0."""
        return self._together(None if self.run is None else self._vectors(self.run, name, steps))

    def row(self, j: int) -> Tensor:
        """Vector j of every probe, (m, N) on rank 0."""
        return self._together(None if self.run is None else self._rows(self.run).rows[:, j])

    def forms(self, lengths: dict[int, int], steps: int, nulls: Tensor | None = None) -> Any:
        """As `Basis.forms`, on rank 0."""
        mine = {i: length for i, length in lengths.items() if i in self.mine}
        widest = max(sum(lengths[i] + 1 for i in range(r, self.columns, self.group.size) if i in lengths)
                     for r in range(self.group.size))  # fmt: skip
        order = [i for r in range(self.group.size) for i in range(r, self.columns, self.group.size) if i in lengths]
        following = None if self.run is None else self._vectors(self.run, "current", steps)

        def rows(part: slice) -> Tensor:
            own = torch.zeros(widest, part.stop - part.start, dtype=torch.float64, device=self.operator.device)
            end = 0
            for i, length in mine.items():
                assert self.run is not None
                assert following is not None
                own[end : end + length] = self._rows(self.run).rows[self.mine.index(i), :length, part]
                own[end + length] = following[self.mine.index(i), part]
                end += length + 1
            parts = self.group.collected(own)
            if parts is None:
                return own
            pieces, ends = {}, [0] * self.group.size
            for i in order:
                r, length = i % self.group.size, lengths[i] + 1
                pieces[i] = parts[r][ends[r] : ends[r] + length]
                ends[r] += length
            return torch.cat([pieces[i] for i in lengths])

        if self.group.rank == 0:
            assert nulls is not None
            return forms(lengths, rows, nulls, self.operator.shape[0])
        for part in slices(self.operator.shape[0]):
            rows(part)
        return None

    def combined(self, i: int, coefficients: Tensor) -> Tensor:
        """V_i'c (N, r) float64 on rank 0."""
        found = torch.zeros(self.operator.shape[0], coefficients.shape[1], dtype=torch.float64, device=self._device)
        if i in self.mine and self.run is not None:
            found = self.run.kept.combined(self.mine.index(i), coefficients.to(self._device)).contiguous()
        self.group.summed(found, everywhere=False)
        return found

    def inner(self, i: int, count: int, columns: int, u: Tensor | None = None) -> Tensor:
        """V_i u (count, r) on rank 0."""
        given = torch.empty(self.operator.shape[0], columns, dtype=torch.float64, device=self._device)
        if u is not None:
            given.copy_(u)
        self.group.given(given)
        found = torch.zeros(count, columns, dtype=torch.float64, device=self._device)
        if i in self.mine and self.run is not None:
            found = self.run.kept.inner(self.mine.index(i), count, given).contiguous()
        self.group.summed(found, everywhere=False)
        return found

    def resume(
        self, small: Mapping[str, Tensor], kept: int, path: Path, noise: float | None, state: Any = None
    ) -> None:
        """Go on with a state that rank 0 has."""
        size = self.operator.shape[0]
        image = torch.empty(size, dtype=torch.float64, device=self._device)
        if state is not None:
            image.copy_(state["image"])
        self.group.given(image)
        whole = {name: None if state is None else state[name] for name in ("current", "previous")}
        own = {name: self._dealt(rows, torch.float64) for name, rows in whole.items()}
        own |= {name: tensor[self.mine.start :: self.mine.step].to(self._device) for name, tensor in small.items()}
        if self.run is not None:
            run, known = self.run, {**own, "image": image if self.group.rank == 0 else None}
            self.group.attempted(lambda: run.require_same(known, path, noise))
            run.take(known)
        else:
            self.group.attempted(lambda: None)
        for j in range(kept):
            rows = self._dealt(None if state is None else state["basis"][:, j], self.operator.dtype)
            if self.run is not None:
                self.run.kept.put(j, rows)

    @property
    def _device(self) -> torch.device:
        return self.operator.device

    @property
    def _offset(self) -> int:
        return 997 * self.group.rank  # other random numbers than those of other ranks

    def _afresh(self, witness: Witness) -> None:
        """Nothing is summed up yet."""
        assert witness.sums is not None
        none = torch.zeros_like(witness.sums.vectors)
        witness.sums = Sums(none, none.new_zeros(()), self._offset, 0)

    def _rows(self, run: Lanczos) -> Rows:
        assert isinstance(run.kept, Rows)
        return run.kept

    def _vectors(self, run: Lanczos, name: str, steps: int) -> Tensor:
        """Those of this rank; where it went deeper than others, which failed, from the basis."""
        if name == "current" and run.steps > steps:
            return self._rows(run).rows[:, steps].to(torch.float64)
        found: Tensor = run.state()[name]
        return found

    def _dealt(self, rows: Tensor | None, dtype: torch.dtype) -> Tensor:
        """This rank's rows of (m, N) on rank 0."""
        most = -(-self.columns // self.group.size)
        own = torch.zeros(most, self.operator.shape[0], dtype=dtype, device=self._device)
        parts = None
        if rows is not None:
            parts = [torch.zeros_like(own) for _ in range(self.group.size)]
            for r, part in enumerate(parts):
                mine = rows[r :: self.group.size]
                part[: len(mine)] = mine
        self.group.scattered(own, parts)
        return own[: len(self.mine)]

    def _together(self, own: Tensor | None) -> Tensor:
        """(m, N) on rank 0, of the rows of all."""
        most, known = -(-self.columns // self.group.size), own
        kind = self.group.gathered(None if known is None else known.dtype)[0]
        padded = torch.zeros(most, self.operator.shape[0], dtype=kind, device=self._device)
        if known is not None:
            padded[: len(known)] = known
        parts = self.group.collected(padded)
        if parts is None:
            return padded
        return torch.stack(parts, dim=1).flatten(0, 1)[: self.columns]


class ProbeRun:
    """What `Lanczos` is to a count, on rank 0, of recurrences on all ranks."""

    def __init__(
        self, asks: Asks, number: int, part: Part, operator: Operator, witnesses: Sequence[Witness], keeps: bool
    ) -> None:
        self._asks, self._number, self._part = asks, number, part
        self.operator, self.probes, self.reorthogonalize = operator, part.columns, keeps
        self.steps = 0
        self.failed = 0
        self._even = True  # whether all ranks are equally deep
        self._known: tuple[int, Tridiagonalization, dict[str, Tensor], int] | None = None
        self.kept = ProbeBasis(self)
        for theirs, own in zip(witnesses, part.witnesses, strict=True):
            theirs.elsewhere.append(partial(self._witnessed, theirs, own))

    def __del__(self) -> None:
        self._asks.dropped(self._number)

    def ask(self, name: str, *arguments: Any, own: Sequence[Any] = ()) -> Any:
        """All ranks do this; `own` is what rank 0 has for it alone."""
        with self._asks.asked(self._number, name, *arguments):
            return getattr(self._part, name)(*arguments, *own)

    def begin(self, probes: Tensor) -> None:
        """From start vectors (N, m)."""
        self.ask("begin", own=(probes,))

    def advance(self, steps: int) -> None:
        """As `Lanczos.advance`; rank 0 does its own part while the others do theirs, and an interrupt waits for it."""
        if self.failed:
            return
        run = self._part.run
        assert run is not None  # rank 0 has the first probe
        try:
            self.ask("advance", steps)
        finally:  # an interrupt comes when all have made the step
            made((self.probes - run.probes) * (run.steps - self.steps))  # those of the others
            self.steps = run.steps
        if run.operator.device.type == "cpu" and run.failed:
            self._look()

    def extend(self, steps: int) -> Tridiagonalization:
        """As `Lanczos.extend`."""
        self.advance(steps)
        return self.tridiagonalization()

    def tridiagonalization(self) -> Tridiagonalization:
        """The coefficients of all probes."""
        return self._look()[0]

    def _look(self) -> tuple[Tridiagonalization, dict[str, Tensor]]:
        if self._known is None or self._known[0] != self.steps:
            said = self.ask("coefficients")
            held = [each for each in said if each is not None]
            self.failed = min((failed for _, _, failed, _ in held if failed), default=0)
            if self.failed:
                self.steps = self.failed - 1
            if self.steps == 0:
                raise ValueError(
                    "every product H @ v must be finite; the first of the recurrence gave NaN or infinity: look for "
                    "them in the weights and the data, or use float64"
                )
            order = np.argsort(np.concatenate([np.arange(r, self.probes, len(said)) for r in range(len(said))]))
            runs = [run.truncated(self.steps) for run, *_ in held]
            whole = Tridiagonalization(
                *(np.concatenate([getattr(run, name) for run in runs])[order] for name in runs[0].__dataclass_fields__)
            )
            place = torch.as_tensor(order)
            depth = {"alpha": slice(self.steps), "beta": slice(self.steps)}
            small = {}
            for name in SMALL:
                parts = [numbers[name][:, depth[name]] if name in depth else numbers[name] for _, numbers, *_ in held]
                small[name] = torch.cat(parts)[place]
            self._even = all(run.steps == self.steps for run, *_ in held)
            self._known = self.steps, whole, small, sum(products for *_, products in held)
        return self._known[1], self._known[2]

    @property
    def products(self) -> int:
        """Products made on all ranks."""
        return self.probes * self.steps if self._known is None or not self.failed else self._known[3]

    @property
    def ending(self) -> str:
        """Why there are no more steps, where a product was not finite; else nothing."""
        if not self.failed:
            return ""
        return (
            f"a product of step {self.failed} was not finite: the intervals are those of the {self.failed - 1} steps "
            "before it"
        )

    @property
    def current(self) -> Tensor:
        """(m, N): the directions of the residuals, gathered."""
        found: Tensor = self.ask("vectors", "current", self.steps)
        return found

    following = current

    @property
    def basis(self) -> Tensor:
        """(m, k, N), gathered."""
        return self.kept.whole(self.steps if self.reorthogonalize else 0)

    def save(
        self, path: str | Path, facts: Mapping[str, Any] | None = None, beside: Mapping[str, Tensor] | None = None
    ) -> None:
        """As `Lanczos.save`, the same file. Raises OSError for a run that has ended in a product that is not finite."""
        _, small = self._look()
        if not self._even:
            raise OSError("ranks have gone to different depths, since a product was not finite")
        run = self._part.run
        assert run is not None
        state: dict[str, Any] = {name: small[name] for name in SMALL}
        state |= {name: self.ask("vectors", name, self.steps) for name in ("current", "previous")}
        state |= {"image": run.state()["image"], "basis": self.kept.saved(self.steps if self.reorthogonalize else 0)}
        write_state(path, {**(beside or {}), **state}, facts or {})

    def resume(self, path: str | Path, *, noise: float | None = None) -> dict[str, Tensor]:
        """As `Lanczos.resume`, of a file that one process or any number of ranks wrote."""
        state = read_state(path, STATE, self.operator.device, ("basis",))
        basis, steps = state["basis"], state["alpha"].shape[1]
        kept = steps if self.reorthogonalize else 0
        shape = (self.probes, self.operator.shape[0])
        if state["current"].shape != shape or basis.shape[1] != kept or basis.dtype != self.operator.dtype:
            raise ValueError(
                f"{path} holds another kind of run (dimension, probes, type or reorthogonalization): "
                "repeat the settings it was started with, or name another file"
            )
        small = {name: state[name].cpu() for name in SMALL}
        self.ask("resume", small, kept, Path(path), noise, own=(state,))
        self.steps = steps
        return {name: tensor for name, tensor in state.items() if name not in STATE}

    def _witnessed(self, theirs: Witness, own: Witness) -> None:
        """Add what all ranks summed up to what a count verifies in the end."""
        index = self._part.witnesses.index(own)
        vectors, weight, (products, widest) = self.ask("witnessed")[index]
        assert own.sums is not None
        assert theirs.sums is not None
        for sums in (Sums(vectors, weight, products, widest), own.sums):
            before = theirs.sums
            theirs.sums = Sums(
                before.vectors + sums.vectors,
                before.weight + sums.weight,
                before.products + sums.products,
                max(before.widest, sums.widest),
            )
        own.sums = replace(own.sums, vectors=torch.zeros_like(vectors), weight=torch.zeros_like(weight), products=0)


class ProbeBasis:
    """The `Basis` of such a run."""

    streamed = ("basis",)

    def __init__(self, run: ProbeRun) -> None:
        self._run: ProbeRun = weakref.proxy(run)

    def combined(self, i: int, coefficients: Tensor, at: Tensor | None = None) -> Tensor:
        """V_i'c (N, r) float64 for c (k, r) float64, or its rows `at`."""
        found: Tensor = self._run.ask("combined", i, coefficients.cpu())
        return found if at is None else found[at]

    def inner(self, i: int, count: int, u: Tensor) -> Tensor:
        """V_i u (count, r) float64 for u (N, r) float64."""
        found: Tensor = self._run.ask("inner", i, count, u.shape[1], own=(u,))
        return found

    def forms(self, lengths: dict[int, int], following: Tensor, nulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(W W', W U, U'U) in float64, for W the first vectors of each probe, so many, and its `following` (m, N)."""
        del following  # each rank has its own
        found: tuple[Tensor, Tensor, Tensor] = self._run.ask("forms", lengths, self._run.steps, own=(nulls,))
        return found

    def whole(self, count: int) -> Tensor:
        """(m, count, N): the first vectors of all probes, gathered."""
        run = self._run
        found = torch.empty(
            run.probes, count, run.operator.shape[0], dtype=run.operator.dtype, device=run.operator.device
        )
        for j in range(count):
            found[:, j] = run.ask("row", j)
        return found

    def saved(self, count: int) -> Streamed:
        """The first vectors as a state keeps them, gathered one after the other."""
        run = self._run
        shape = (run.probes, count, run.operator.shape[0])
        return Streamed(shape, run.operator.dtype, lambda j: run.ask("row", j))
