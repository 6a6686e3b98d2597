"""Ways to count from the whole matrix: all eigenvalues, inertia at both thresholds, inertia from one triangle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lanczos_saddle.counting.exact import INERTIA_SIZE
from lanczos_saddle.counting.planning import DEAD
from lanczos_saddle.dense import one_triangle, triangle_ldl
from lanczos_saddle.dense.blocked_ldl import BLOCK
from lanczos_saddle.dense.eigensolvers import FROM_A_COPY, IN_PLACE
from lanczos_saddle.dense.exact import VECTORS
from lanczos_saddle.dense.triangle import triangle_bytes
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.footprints import FLOAT, WIDTH
from lanczos_saddle.forecast.known import Known, Sketch, Way
from lanczos_saddle.forecast.ranks import Load

FACTORED = 1.6
"""Flops of large products that LAPACK's LDL' costs, over N^3 / 3: half of it is not in matrix products."""

TRIANGLE = "inertia, one triangle"


def exact(known: Known) -> Iterator[Way]:
    """All eigenvalues, inertia at both thresholds, and inertia from one triangle."""
    size, free = known.size, known.free
    alone = known.sharing.ranks == 1
    assembly = footprints.assembling(known.operator, known.block, alone=alone)
    matrix, work = FLOAT * size**2, FLOAT * size * min(VECTORS, 2 * size)
    made = "its matrix in closed form" if assembly.closed else f"its matrix by {assembly.products} products"
    assembled = {"assembled matrix": matrix, "assembly": assembly.beside}
    products = known.first - DEAD + assembly.products
    load = Load(block=WIDTH)
    thresholds = 2 * (1 + len(known.options.beside))
    largest = int((free / FLOAT) ** 0.5)
    smaller = f"N = {largest} fits: count fewer parameters, or "
    ample = matrix + work + sum(known.kept.values()) + matrix <= free
    copied = {"assembled matrix": matrix, "factor": matrix * ample + work}
    yield known.way(
        Sketch(
            "eigenvalues",
            'method="exact"' if size <= INERTIA_SIZE else "exact_eigenvalues(H)",
            [assembled, copied],
            products,
            _plus(_assembled(known, assembly), (FROM_A_COPY if ample else IN_PLACE) * size**3, known),
            smaller + "take inertia from one triangle",
            ends=made,
            load=load,
        )
    )
    if size > INERTIA_SIZE:
        yield known.way(
            Sketch(
                "inertia",
                'method="exact"',
                [assembled, {"assembled matrix": matrix, "factor": work}],
                products,
                _plus(_assembled(known, assembly), thresholds * FACTORED * size**3 / 3, known),
                smaller + "take inertia from one triangle, lanczos-saddle inertia --directory",
                ends=made,
                load=load,
            )
        )
    if alone:
        yield triangular(known, assembly, thresholds)


def triangular(known: Known, assembly: footprints.Assembly, thresholds: int) -> Way:
    """Inertia from one triangle, in memory or in a file."""
    size, directory = known.size, known.directory
    spare = known.free - sum(known.kept.values())
    layout = one_triangle.plan_layout(size, thresholds, 2**62, directory)
    try:
        layout, there = one_triangle.plan_layout(size, thresholds, max(0, spare), directory), True
    except ValueError:
        there = False
    held = layout.memory - one_triangle.work_bytes(size)
    blocks = min(one_triangle.BLOCKS, 2 * triangle_bytes(size)) if assembly.closed else 0
    source = 0 if layout.source else triangle_bytes(size)
    phases = [
        {"assembled matrix": source, "assembly": blocks + assembly.beside},
        {"assembled matrix": source, "factor": held - source + factoring_bytes(size)},
    ]
    seconds = _assembled(known, assembly)
    if seconds is not None:
        seconds += one_triangle.foretold_seconds(layout, thresholds, known.flops)
    where = "" if directory is None else f" --directory {directory}"
    instead = "name a directory for a file" if directory is None else "count matrix-free"
    way = known.way(
        Sketch(
            TRIANGLE,
            f"lanczos-saddle inertia --at{where}",
            phases,
            assembly.products,
            seconds,
            instead,
            ends="in memory" if not layout.disk else "H or L in a file",
            disk=layout.disk,
            begins=False,
        )
    )
    return way if there else replace(way, fits=False, instead=instead)


def factoring_bytes(size: int) -> int:
    """Beside triangles while one is factored: a window, blocks and their copies (`one_triangle.work_bytes`)."""
    width, window = min(size, BLOCK), min(size, triangle_ldl.WINDOW + 2 * BLOCK)
    return FLOAT * (size * (window + 6 * width) - window**2 // 2)


def _assembled(known: Known, assembly: footprints.Assembly) -> float | None:
    """Seconds until a matrix is there."""
    product, before = known.product_seconds(WIDTH), known.beginning_seconds()
    if product is None or before is None:
        return None
    return before + (assembly.flops / known.flops) + assembly.products * product


def _plus(seconds: float | None, flops: float, known: Known) -> float | None:
    return None if seconds is None else seconds + flops / known.flops
