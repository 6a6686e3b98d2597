"""Inertia of matrices whose square does not fit: one triangle in memory, or in a file (`triangle`, `triangle_ldl`).

    thresholds   H            L                   memory beside the work   disk
    one          in place     in place            T                        0
    more         memory       memory              2 T                      0
    more         a file       memory              T                        T
    any          a file       a file, one: same   0                        2 T, one: T

T = 4 N^2 bytes; the first row of these that fits is taken. The work is about 8 N (WINDOW + 4 BLOCK) bytes, and the
blocks of a closed form. Cost of a threshold: N^3 / 3 flops, and 8 N^3 / (6 WINDOW) bytes read where L is in a file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lanczos_saddle.dense import triangle_ldl
from lanczos_saddle.dense.blocked_ldl import BLOCK
from lanczos_saddle.dense.sylvester import FRACTION, PROBES, Inertia, Sylvester
from lanczos_saddle.dense.triangle import FLOAT, Triangle, triangle_bytes
from lanczos_saddle.machine.memory import free_bytes
from lanczos_saddle.machine.progress import Stage, made, stage
from lanczos_saddle.machine.rates import matrix_product, median_seconds
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.operator import Operator, as_operator, precise, unit_products
from lanczos_saddle.operators.symmetric import frobenius
from lanczos_saddle.structure import by_layers, closed_form

CPU = torch.device("cpu")
AGREES = 1e-12  # |(A - H) v| / |H v| of what was assembled, in float64; beyond it what rounding does to products
BLOCKS = 2**30  # bytes for blocks of a closed form that are summed in one pass
COLUMNS = 64  # of one product

UPDATES, BESIDE = 1.05, 3.5
"""Flops of large products that the updates, N^3 / 3, and all that grows as N^2 BLOCK cost: measured."""

DISK, PASSES = 5e8, 10
"""Bytes a second of a disk that is not the slowest, and passes over a triangle beside those over L."""


@dataclass(frozen=True)
class Layout:
    """Where H and L lie, and what that takes."""

    size: int
    source: Path | None  # of the file of H; None in memory
    lower: Path | None  # of that of L
    in_place: bool  # L takes the place of H
    memory: int  # bytes
    disk: int

    def __str__(self) -> str:
        places = [f"a file in {path}" if path else "memory" for path in (self.source, self.lower)]
        where = f"H and then L in {places[0]}" if self.in_place else f"H in {places[0]}, L in {places[1]}"
        return f"N = {self.size}: {where}; {self.memory / 2**30:.1f} GiB of memory, {self.disk / 2**30:.1f} of disk"


@dataclass(frozen=True)
class Counted:
    """Inertia at every threshold, of the matrix that was assembled."""

    found: list[Inertia]
    products: int  # H @ v that were spent
    error: float  # |A - H|_2, except with probability 1e-11


def plan_layout(size: int, thresholds: int, memory: int | None = None, directory: Path | None = None) -> Layout:
    """The fastest layout that fits; raises ValueError with the numbers where none does.

    `memory`: the bytes that may be used, what is available by default. `directory`: where files may lie, if anywhere.
    """
    free, one, work = free_bytes(CPU, memory), triangle_bytes(size), work_bytes(size)
    single = thresholds == 1
    held = one if single else 2 * one
    layouts = [Layout(size, None, None, single, work + held, 0)]
    if directory is not None:
        if not single:
            layouts.append(Layout(size, directory, None, False, work + one, one))
        layouts.append(Layout(size, directory, directory, single, work, held))
    for layout in layouts:
        if layout.memory <= free:
            return layout
    least = layouts[-1].memory / 2**30
    way_out = "pass directory= for a file" if directory is None else "count matrix-free"
    raise ValueError(
        f"inertia at N = {size} takes {least:.2f} GiB of memory; {max(0, free) / 2**30:.2f} GiB are free: {way_out}"
    )


def work_bytes(size: int) -> int:
    """What is needed beside triangles: blocks of a closed form, then a window, a block with its copies, and all Q."""
    window = min(size, triangle_ldl.WINDOW + 2 * BLOCK)
    return max(FLOAT * size * (window + 6 * min(size, BLOCK)), min(2 * BLOCKS, 8 * triangle_bytes(size)))


def foretold_seconds(layout: Layout, thresholds: int, rate: float | None = None) -> float:
    """About what mixing and factoring take; no assembly.

    `rate`: operations a second of a large matrix product, one that is made now if not given.
    """
    if rate is None:
        multiply, flops = matrix_product(0, torch.float64)
        rate = flops / median_seconds(multiply, CPU)
    size = layout.size
    work = thresholds * (size**3 / 3 * UPDATES + BLOCK * size**2 * BESIDE)
    read = thresholds * FLOAT * size**3 / (6 * triangle_ldl.WINDOW) if layout.lower else 0.0
    passes = FLOAT * size**2 * PASSES * sum(path is not None for path in (layout.source, layout.lower))
    return work / rate + (read + passes) / DISK


@differentiable
def inertia_at(
    operator: Operator,
    thresholds: Sequence[float],
    *,
    memory: int | None = None,
    directory: Path | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[str], None] | None = None,
) -> Counted:
    """`inertia` of H at every threshold, from one triangle of it: N up to what a disk holds.

    The certificate is that of `sylvester`. Where a network is recognized its triangle comes in closed form, else from N
    products; either is compared with ten further products, which also see a lopsided operator: one triangle does not.
    `progress` is told what is done, in words; a terminal is shown the assembly, too.

    Raises ValueError where memory and disk do not suffice, products are not finite, or the triangle does not agree with
    the operator.
    """
    for t in thresholds:
        if not math.isfinite(t):
            raise ValueError(f"a threshold must be a finite number; got {t}")
    if not thresholds:
        raise ValueError("inertia needs a threshold; got none")
    operator = precise(as_operator(operator))
    require_real(operator, "inertia_at")
    layout, tell = plan_layout(operator.shape[0], len(thresholds), memory, directory), progress or (lambda _: None)
    tell(str(layout))
    triangle = Triangle(layout.size, directory=layout.source)
    lower = None if layout.in_place else Triangle(layout.size, directory=layout.lower)
    products, error = assemble_triangle(operator, triangle, progress=progress is not None and sys.stderr.isatty())
    tell(f"assembled; {products} products")
    solver = Sylvester(triangle, generator=generator, lower=lower)
    tell("mixed")
    found = []
    for t in thresholds:
        found.append(solver.at(t))
        tell(f"{found[-1]}")
    return Counted(found, products, error)


def assemble_triangle(operator: Operator, triangle: Triangle, *, progress: bool = False) -> tuple[int, float]:
    """Triangle <- H; returns (products spent, |A - H|_2 except with probability 1e-11). Raises as `inertia_at`."""
    if isinstance(operator, Tensor):
        triangle.fill(operator.to(CPU, torch.float64))
        return 0, 0.0
    spent = 0
    with torch.no_grad():
        for fill in (_in_closed_form, _by_layers, _by_products):
            made = fill(operator, triangle, progress)
            if made is None:
                continue
            agreement = closed_form.compare(operator, triangle, AGREES, vectors=PROBES)
            spent += made + agreement.products
            if agreement.holds:
                return spent, agreement.error / FRACTION
    raise ValueError(
        "the operator must be symmetric and stay the same: its products must agree with its lower triangle, mirrored, "
        f"to {AGREES:.0e} or to their own rounding; got a difference of {agreement.error:.1e} from products of size "
        f"{frobenius(operator @ torch.ones(len(triangle), 1, dtype=operator.dtype)):.1e}: make them deterministic"
    )


def _in_closed_form(operator: Operator, triangle: Triangle, progress: bool) -> int | None:
    """Products spent, none; None where the network is not recognized."""
    return 0 if _put(triangle, closed_form.blocks(operator, torch.float64, BLOCKS, progress=progress)) else None


def _by_layers(operator: Operator, triangle: Triangle, progress: bool) -> int | None:
    """Products spent, as many as columns; None where columns from the diagonal down are not to be had."""
    blocks = by_layers.blocks(operator, torch.float64, COLUMNS)
    if blocks is None:
        return None
    with stage("assembly", len(triangle), unit="column", shown=progress) as told:
        return len(triangle) if _put(triangle, _told(blocks, told)) else None


def _told(blocks: Iterable[tuple[Tensor, Tensor, Tensor]], told: Stage) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The same; each advances the stage by its columns."""
    for rows, columns, block in blocks:
        yield rows, columns, block
        told.advance(len(columns))


def _put(triangle: Triangle, blocks: Iterable[tuple[Tensor, Tensor, Tensor]] | None) -> bool:
    """Whether there were blocks to put."""
    if blocks is None:
        return False
    triangle.zero()
    try:
        for rows, columns, block in blocks:
            triangle.put(rows, columns, block.cpu())
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a loss of anybody's: products serve
        return False
    return True


def _by_products(operator: Operator, triangle: Triangle, progress: bool) -> int:
    """The columns, below the diagonal and in its tile; N products."""
    size = len(triangle)
    with stage("assembly", size, shown=progress):
        for index in range(triangle.panels):
            place, panel = triangle.place(index), triangle.panel(index)
            columns = torch.arange(place.start, place.stop, device=operator.device)
            for part, product in unit_products(operator, columns, COLUMNS):
                if not bool(product.isfinite().all()):
                    raise ValueError("products must be finite; got NaN or infinity: check weights and data")
                left = int(part[0]) - place.start
                panel[:, left : left + len(part)] = product[place.start :].to(panel)
                made(len(part))
            square = panel[: place.stop - place.start]
            square.copy_((square + square.mT) / 2)
            triangle.release(index)
    return size
