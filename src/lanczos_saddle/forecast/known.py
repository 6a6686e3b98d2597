"""What is known before a count, and one way to count by it: the widest of its phases, its products, its seconds.

    seconds of a run  =  the beginning  +  m k (a step of one column)  +  m k^2 N bytes of basis / (rate of reading)
                         +  N (m k)^2 / (rate of a matrix product)

Steps are timed in a block of the width that is planned; the rates of the machine are measured where a way needs them.
On several ranks products and basis are shared (`ranks`), vectors and weights perhaps, and vectors go between them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lanczos_saddle.certificates.cauchy import LARGEST
from lanczos_saddle.counting.options import Options
from lanczos_saddle.counting.planning import DEAD, FINAL
from lanczos_saddle.counting.run_noise import LEAST_SUMS, MOST, SHARE, beforehand, worth
from lanczos_saddle.defaults import STEPS
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.footprints import FLOAT, Multiplying
from lanczos_saddle.forecast.ranks import Imagined, Load, Sharing, first_rank
from lanczos_saddle.forecast.rehearsal import Rehearsal, wait
from lanczos_saddle.forecast.shards import Shards
from lanczos_saddle.krylov.preflight import HELD, VECTORS, preflight_products
from lanczos_saddle.krylov.run_error import COLUMNS, SUMS
from lanczos_saddle.machine.rates import matrix_product, reading
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.operators.knowledge import Knowledge
from lanczos_saddle.operators.operator import Operator, in_float64

Parts = Mapping[str, int]


@dataclass(frozen=True)
class Way:
    """One way to count, and what it takes."""

    name: str
    how: str  # what asks for it
    parts: Parts  # bytes by part of its widest phase, beyond the problem; on several ranks those of rank 0
    peak: int  # their sum: the most memory, beyond the problem
    others: Parts  # of each other rank, the fullest; nothing where there is one process
    other_peak: int
    disk: int  # bytes
    products: int  # H @ v in all, to where the run is foretold to stop
    most_products: int  # at most
    rank_products: int  # columns that the rank with the most of them multiplies, each with the samples that it has
    seconds: float | None  # None where no product was timed
    fastest: float | None  # by the fastest and the slowest of the products that were timed
    slowest: float | None
    width: int | None  # foretold, of the widest interval, in counts; None where it is not known
    ends: str  # why it stops, or why the width is not known
    probes: int  # 0 for exact counts
    steps: int  # at most; memory is for all of them
    fits: bool
    instead: str  # what would fit, where it does not


@dataclass(frozen=True)
class Sketch:
    """A way before it is known what else it holds and whether it fits."""

    name: str
    how: str
    phases: list[dict[str, int]]
    products: int
    seconds: float | None
    instead: str
    most_products: int = 0  # where these are more
    width: int | None = 0
    ends: str = ""
    probes: int = 0
    steps: int = 0
    disk: int = 0
    begins: bool = True  # as a count does
    load: Load = field(default_factory=Load)


@dataclass(frozen=True)
class Known:
    """What is known of the matrix, the machine and the question."""

    operator: Operator
    options: Options
    knowledge: Knowledge
    free: int  # bytes that may be used, by each rank
    directory: Path | None
    product: Multiplying  # of all samples and columns; `block` is that of a rank
    made: Rehearsal
    most: int | None  # a proved bound on the negative eigenvalues
    samples: int | None = None
    sharing: Sharing = field(default_factory=Sharing)
    shards: Shards | None = None  # where weights are cut
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """N."""
        return self.operator.shape[0]

    @property
    def drawn(self) -> int:
        """The dimension in which probes are drawn: N without dead coordinates, where these are known."""
        return self.size if self.made.pilot is None else self.made.pilot.target.shape[0]

    @property
    def seen(self) -> Any:
        """The operator, as a count on the ranks sees it."""
        return self.operator if self.sharing.ranks == 1 else Imagined(self.operator, self.sharing)

    @property
    def item(self) -> int:
        """Bytes of a number of the operator's type."""
        return self.operator.dtype.itemsize

    @property
    def first(self) -> int:
        """Products before and after a run."""
        spent = {name: n for name, n in self.made.spent.items() if name not in ("timing", "pilot")}
        search = 8 if self.options.relative_threshold is not None else 0
        begun = sum(spent.values()) if self.made.pilot else preflight_products(self.operator) + DEAD + search
        return begun + FINAL + self.noise[0]

    @cached_property
    def noise(self) -> tuple[int, int]:
        """(products that measure the noise of a run in float32, at most; columns known beforehand)."""
        pilot, most = self.made.pilot, self.options.max_products
        if pilot is None:
            return 0, 0
        room = float("inf") if most is None else max(0, most - sum(pilot.spent.values())) // SHARE
        depth = min(self.options.steps or STEPS, self.drawn)
        if in_float64(self.operator) is None or not worth(pilot.check, pilot.threshold, depth, room):
            return 0, 0
        columns = beforehand(pilot.check, pilot.threshold, (self.drawn, self.free), room)
        return MOST + 2 * columns, columns

    def measuring(self, *, basis: bool) -> tuple[int, int]:
        """Bytes that the noise of a run takes beside its vectors: at a step, and when it is measured in the end.

        In the end the matrix in float64 keeps and holds what its products take, by what was measured of others.
        """
        most, columns = self.noise
        exact = in_float64(self.operator) if most else None
        if exact is None:
            return 0, 0
        vector, samples = FLOAT * self.sharing.held(self.drawn), self.sharing.samples_of(self.samples)
        sums = COLUMNS if basis else max(LEAST_SUMS, min(SUMS, self.free // (32 * vector)))
        own = footprints.multiplying(exact, samples)
        if self.shards is not None:
            own = self.shards.in_float64().multiplying(self.shard, samples)
        weights = exact.nbytes if isinstance(exact, torch.Tensor) else FLOAT * self.shard
        product = self.on_rank(replace(own, factor=self.product.factor), sums, FLOAT)
        step, end = footprints.noise(sums, columns, basis=basis)
        return step * vector, end * vector + weights + int(own.kept * self.recorded) + product

    @property
    def recorded(self) -> float:
        """What products keep, over what was foretold that they do."""
        if self.made.kept is None or not self.product.kept:
            return 1.0
        return min(1.0, max(0, self.made.kept - footprints.LIBRARIES) / self.product.kept)

    @property
    def left(self) -> int | None:
        """Products that a budget leaves."""
        most = self.options.max_products
        return None if most is None else max(0, most - self.first)

    @cached_property
    def flops(self) -> float:
        """Operations a second of a large matrix product, made now."""
        multiply, flops = matrix_product(0, torch.float64)
        return flops / _seconds(multiply, torch.device("cpu"))

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of a matrix that is read, made now."""
        call, read = reading(self.operator.device)
        return read / _seconds(call, self.operator.device)

    @property
    def shard(self) -> int:
        """Coordinates of the parameters that the fullest rank has."""
        return -(-self.size // self.sharing.weights)

    @cached_property
    def own(self) -> Multiplying:
        """A product with the samples of the fullest rank, and with what it has of the weights, in whole columns."""
        if self.sharing.ranks == 1:
            return self.product
        samples = self.sharing.samples_of(self.samples)
        shared = footprints.multiplying(self.operator, samples)
        if self.shards is not None:
            shared = self.shards.multiplying(self.shard, samples)
        return replace(shared, factor=self.product.factor, scratch=self.product.scratch, columns=self.product.columns)

    def block(self, columns: int) -> int:
        """Bytes of a block product on the fullest rank."""
        return self.on_rank(self.own, columns, self.item)

    def on_rank(self, own: Multiplying, columns: int, item: int, *, first: bool = True) -> int:
        """The same of what a rank multiplies by itself, `own`, in numbers of `item` bytes; on rank 0, or on another.

        Slices are gathered before whole weights multiply them, and are what is kept of the product. What weights in
        parts multiply is cut from whole vectors, as columns and then as rows, and on rank 0 put together.
        """
        sharing, vector = self.sharing, item * self.size
        if sharing.weights > 1 and sharing.vectors == 1:
            part = columns * item * self.shard
            together = 2 * part + 2 * columns * vector if first else 0
            copied = columns * vector if first and item < FLOAT else 0
            return copied + max(2 * part + own(columns), together)
        if sharing.vectors == 1 or sharing.weights > 1:
            return own(sharing.columns_of(columns))
        if not isinstance(self.operator, Curvature):
            return -(-own(columns) // sharing.vectors)
        some = sharing.at_once(columns, vector)
        return some * vector + own(some) + columns * item * sharing.held(self.size)

    @cached_property
    def kept(self) -> dict[str, int]:
        """What stays from the first products on."""
        if self.made.kept is None or self.shards is not None:
            return {"libraries": footprints.LIBRARIES, "kept by products": self.own.kept}
        if self.sharing.ranks == 1:
            return {"libraries and what products keep": self.made.kept}
        products = max(0, self.made.kept - footprints.LIBRARIES)  # of fewer samples they keep less
        mine = products * self.own.kept // self.product.kept if self.product.kept else products
        return {"libraries and what products keep": footprints.LIBRARIES + mine}  # in processes that are new

    def begun(self) -> dict[str, int]:
        """The widest moment of the beginning."""
        if self.made.began is not None and self.sharing.ranks == 1:
            kept = min(self.made.kept or 0, self.made.began)
            vectors = min(HELD * FLOAT * self.size, self.made.began - kept)
            rest = self.made.began - kept - vectors
            return {"libraries and what products keep": kept, "vectors": vectors, "products": rest}
        return {"libraries": footprints.LIBRARIES, **footprints.beginning(self.sharing.held(self.size), self.block)}

    def way(self, sketch: Sketch) -> Way:
        """The widest of its phases, all of which hold what is kept, or of the beginning."""
        phases = [first_rank(self.sharing, parts, self.size, sketch.load) for parts in sketch.phases]
        widest = [{**self.kept, **parts} for parts in phases] + ([self.begun()] if sketch.begins else [])
        parts = max(widest, key=lambda one: sum(one.values()))
        low, high = (1.0, 1.0) if self.made.pace is None else self.made.pace.spread
        others = self._others(sketch)
        peak, other, seconds = sum(parts.values()), sum(others.values()), sketch.seconds
        fits = max(peak, other) <= self.free
        return Way(
            sketch.name,
            sketch.how,
            parts,
            peak,
            others,
            other,
            sketch.disk,
            sketch.products,
            max(sketch.products, sketch.most_products),
            self._of_a_rank(sketch),
            seconds,
            None if seconds is None else seconds * low,
            None if seconds is None else seconds * high,
            sketch.width,
            sketch.ends,
            sketch.probes,
            sketch.steps,
            fits,
            "" if fits else sketch.instead,
        )

    def _others(self, sketch: Sketch) -> dict[str, int]:
        """What each rank but the first holds: no recurrences but those that are dealt out, or its slices of all."""
        load = sketch.load
        if self.sharing.ranks == 1:
            return {}
        if self.sharing.vectors > 1:
            said = [{**parts, "bounds": load.forms} if "bounds" in parts else parts for parts in sketch.phases]
            return max([self.begun(), *({**self.kept, **parts} for parts in said)], key=lambda one: sum(one.values()))
        mine = load.recurrences
        parts = footprints.run(self.size, mine, self.own) if mine else self._given(load.block)
        basis = load.basis if mine else -(-load.basis // self.sharing.basis)
        taken = load.vectors * FLOAT * self.size if mine else 0
        found = {**self.kept, **parts, "basis": basis, "deflated vectors": taken}
        return max(found, {**self.kept, **self._given(VECTORS)}, key=lambda one: sum(one.values()))

    def _given(self, block: int) -> dict[str, int]:
        """Of a block that rank 0 has multiplied, on another rank."""
        given = self.sharing.columns_of(block) * self.size * self.item
        return {"vectors": given, "products": self.on_rank(self.own, block, self.item, first=False)}

    def _of_a_rank(self, sketch: Sketch) -> int:
        """Columns that rank 0 multiplies: no other rank has more."""
        load, alone = sketch.load, min(self.first, sketch.products)
        blocks = sketch.products - alone
        if load.recurrences:
            return alone + -(-blocks * load.recurrences // max(1, sketch.probes))
        return alone + -(-blocks * self.sharing.columns_of(load.block) // max(1, load.block))

    def product_seconds(self, block: int) -> float | None:
        """Of a column of a block of so many."""
        pace, sharing = self.made.pace, self.sharing
        if pace is None or sharing.ranks == 1:
            return None if pace is None else pace.product
        between: float = 2 * self.item  # given, and collected or summed up
        if sharing.vectors > 1 and (self.shards is not None or not isinstance(self.operator, Curvature)):
            between = 0
        if self.shards is not None:
            between += self.item * self.shards.talk(block, sharing.samples_of(self.samples))
        return pace.product * sharing.work_of(self.samples, block) + self._talk(between)

    def step_seconds(self, probes: int, *, basis: bool, dealt: bool) -> float | None:
        """Of a column of a step."""
        pace, product, sharing = self.made.pace, self.product_seconds(probes), self.sharing
        if pace is None or product is None or sharing.ranks == 1:
            return None if pace is None else pace.step
        mine = sharing.dealt(probes)
        if dealt and mine < probes:
            return pace.step * mine / probes
        kept = self._talk(self.item + 2 * FLOAT) if basis and sharing.basis > 1 else 0.0
        return product + max(0.0, pace.step - pace.product) / sharing.vectors + kept

    def _talk(self, numbers: float) -> float:
        """Seconds in which a vector goes between ranks, so many bytes for each coordinate."""
        return numbers * self.size / self.sharing.link

    def beginning_seconds(self) -> float | None:
        """What goes before a run: as it was, or so many products."""
        pace, product = self.made.pace, self.product_seconds(1)
        if pace is None or product is None:
            return None
        extra = max(0.0, pace.first - pace.step * pace.columns)
        if self.made.pilot is None:
            return self.first * product + extra
        piloted = self.made.spent.get("pilot", 0) * pace.product  # a count may make none
        begun = max(0.0, self.made.seconds - piloted) + extra
        shared = min(begun, (self.first - FINAL) * pace.product)
        return begun - shared * (1 - product / pace.product) + FINAL * product

    def run_seconds(self, probes: int, steps: int, *, basis: bool, pilot: int = 0, dealt: bool = True) -> float | None:
        """Of the beginning and a run."""
        before, step = self.beginning_seconds(), self.step_seconds(probes, basis=basis, dealt=dealt)
        single = self.step_seconds(1, basis=basis, dealt=False)
        if before is None or step is None or single is None:
            return None
        total = before + probes * steps * step + pilot * single
        if basis and probes * steps:
            total += probes * steps**2 * self.drawn * self.item / self.bandwidth / self.sharing.ranks
            total += self.drawn * min(probes * steps, LARGEST) ** 2 / self.flops / self.sharing.vectors
        return total


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median of three calls after one to warm up; memory is not looked at."""
    found = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
