"""Bytes, by part, of every way to count: closed forms in N, probes m, steps k and what one product takes.

    beginning    8 N HELD and a product, or four vectors and a product in a block of four       (`krylov.preflight`)
    a run        (3 m + SINGLE) N float64, and a product in a block of m
    its basis    m k N numbers of the operator's type; bounds from it in the end: 5 c^2 + c SLICE numbers, c = m k
    deflation    p vectors: five blocks (N, p) that stay, four more while they are made; the basis they come from
    an S         three blocks (N, r), r directions
    elimination  11 blocks (N_1, N - N_1)
    a matrix     8 N^2; all eigenvalues take a copy where memory is ample, inertia takes 512 vectors

What is held at the same time is a phase; the peak is that of the widest one. Weights and data are there before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lanczos_saddle.certificates.cauchy import LARGEST
from lanczos_saddle.counting.eliminated import BLOCKS
from lanczos_saddle.counting.planning import DEAD, SINGLE
from lanczos_saddle.dense.exact import CHECKED, REPEATED
from lanczos_saddle.krylov.basis import SLICE
from lanczos_saddle.krylov.preflight import HELD, VECTORS
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.structure import by_layers, closed_form
from lanczos_saddle.structure.layers import recognize, separable

FLOAT = 8

LIBRARIES = 14 * 2**20
"""Code and tables of libraries that a first count brings into memory, where that is not measured."""

FACTOR_RANGE = (0.02, 8.0)
"""Measured bytes of a product over foretold ones, beyond which the measurement has seen something else."""

RUNNING = 3
"""Blocks of probes held beside a product: current, previous, next."""

STAYING, MADE = 5, 4
"""Blocks of deflated vectors: as they were found and joined, with their products, and an orthonormal basis; and what
makes that."""

WIDTH = 64
"""Columns of a block of products that assemble a matrix (`dense.exact.assemble`)."""

CONGRUENT = 6
"""Blocks of probes beside a product with S'(H - tI)S."""

Parts = Mapping[str, int]


@dataclass(frozen=True)
class Multiplying:
    """Bytes of a product with a block of k columns beside the block itself, its result among them."""

    foretold: Callable[[int], int]
    kept: int = 0  # primal results kept from product to product
    factor: float = 1.0  # measured over foretold, where chunks and groups are foretold
    scratch: int = 0  # measured beyond foretold in blocks of `columns`, where only the result is
    columns: int = 1

    def __call__(self, columns: int) -> int:
        """So many columns at once; scratch is taken to be the same in fewer, and to grow with more."""
        beside = int(self.scratch * max(1.0, columns / self.columns))
        return int(self.factor * self.foretold(columns)) + beside

    def measured(self, size: int, columns: int, chunked: bool) -> Multiplying:
        """So many bytes in blocks of `columns`; `chunked`: whether chunks and groups were foretold."""
        expected = max(1, self.foretold(columns))
        if chunked:
            return replace(self, factor=min(max(size / expected, FACTOR_RANGE[0]), FACTOR_RANGE[1]))
        return replace(self, scratch=max(0, size - expected), columns=columns)


def multiplying(operator: Operator, share: int | None = None) -> Multiplying:
    """As foretold: of a curvature matrix by its `footprint`, of others the result alone.

    `share`: of so many samples where others have the rest.
    """
    size, item = operator.shape[0], operator.dtype.itemsize
    if not isinstance(operator, Curvature):
        return Multiplying(lambda columns: columns * size * item)
    folds = operator.mode != "autograd"
    known = operator.problem.samples if share is None else share

    def foretold(columns: int) -> int:
        samples, group = operator.plan(columns)
        samples = samples if known is None else min(samples, known)
        own = operator.footprint.folded if folds else operator.footprint.plain
        return own(samples, group) + 2 * columns * size * item

    kept = 0 if known is None or not folds else min(operator.memory // 2, operator.footprint.kept(known))
    return Multiplying(foretold, kept)


def beginning(size: int, product: Callable[[int], int]) -> dict[str, int]:
    """The preflight: its recurrence, or its block of products where that takes more."""
    vector = FLOAT * size
    block = {"vectors": VECTORS * vector, "products": product(VECTORS)}
    recurrence = {"vectors": HELD * vector, "products": product(1)}
    return max(block, recurrence, key=lambda parts: sum(parts.values()))


def run(size: int, probes: int, product: Callable[[int], int]) -> dict[str, int]:
    """A recurrence of so many probes without a basis, at a step."""
    return {"vectors": (RUNNING * probes + SINGLE) * FLOAT * size, "products": product(probes)}


def bounds(size: int, columns: int, held: int | None = None) -> int:
    """Cauchy's bounds from c basis vectors: 5 c^2 + c SLICE numbers, or where c > N 5 c N + 3 N^2.

    `held`: so many of the coordinates are here.
    """
    c, here = min(columns, LARGEST), size if held is None else held
    return FLOAT * (5 * c * size + 3 * size**2 if c > size else 5 * c**2 + c * min(SLICE, here))


def forms(held: int, columns: int) -> int:
    """What a rank sums up for them of its coordinates: c^2 + c SLICE numbers."""
    c = min(columns, LARGEST)
    return FLOAT * (c**2 + c * min(SLICE, held))


def with_basis(
    size: int, probes: int, steps: int, item: int, product: Callable[[int], int], whole: int | None = None
) -> list[dict[str, int]]:
    """A run whose basis is kept: at its last step, and when bounds are read from it. `whole`: N, `size` of it here."""
    parts, basis = run(size, probes, product), {"basis": probes * steps * size * item}
    ending = bounds(size if whole is None else whole, probes * steps, size)
    return [{**parts, **basis}, {"vectors": parts["vectors"], **basis, "bounds": ending}]


def noise(sums: int, known: int, *, basis: bool) -> tuple[int, int]:
    """Vectors for the noise of a run: at a step, and when it is measured by blocks of so many columns.

    Two of each column that is `known` beforehand. Without a basis sums of vectors and of products, and those that will
    be in their place; in the end the sums, one of them again, its product and the difference.
    """
    return 2 * known + (0 if basis else 4 * sums), 2 * known + (3 if basis else 5) * sums


def deflating(size: int, scouted: int, vectors: int, item: int) -> tuple[dict[str, int], dict[str, int]]:
    """(while vectors are taken out, what stays of that)."""
    basis = {"basis of the pilot": scouted * size * item}
    made, staying = (FLOAT * size * vectors * blocks for blocks in (STAYING + MADE, STAYING))
    return {**basis, "deflated vectors": made}, {**basis, "deflated vectors": staying}


def factors(operator: Any, size: int, rank: int) -> dict[str, int]:
    """An S: Kronecker factors of the linear layers, and three blocks of `rank` directions."""
    sides = [(m.in_features + (m.bias is not None), m.out_features) for m in linear(operator)]
    numbers = sum(a * a + b * b + a * b for a, b in sides)
    return {"factor": FLOAT * (3 * numbers + 3 * rank * size)}


def linear(operator: Any) -> list[Any]:
    """The linear layers whose weights are counted."""
    from lanczos_saddle.preconditioning.ekfac import linear_layers

    return list(linear_layers(operator.problem).values())


def eliminating(eliminated: int, remaining: int) -> dict[str, int]:
    """Blocks (N_1, N - N_1): 9, and two for a threshold."""
    return {"factor": (BLOCKS + 2) * FLOAT * eliminated * remaining}


@dataclass(frozen=True)
class Assembly:
    """How a matrix comes about."""

    closed: bool  # in closed form, else by N products
    beside: int  # bytes at once beside the matrix
    products: int
    flops: float  # of the closed form


def assembling(operator: Any, product: Callable[[int], int], *, alone: bool = True) -> Assembly:
    """In closed form where the network is recognized, in float64; else N products in blocks of `WIDTH`.

    Several ranks (not `alone`) make products, whatever the network is.
    """
    size = operator.shape[0]
    layers = recognize(operator.problem) if alone and isinstance(operator, Curvature) else []
    if layers:
        per = FLOAT * closed_form.numbers_per_sample(layers, diagonal=separable(operator.problem, layers))
        limit = max(1, operator.memory // per)
        known = operator.problem.samples
        samples = limit if known is None else min(limit, known)
        return Assembly(True, per * samples, CHECKED // 2, float(size) ** 2 * (known or samples))
    width = min(WIDTH, size)
    beside = product(width) + width * size * FLOAT
    if alone and by_layers.blocks(operator, torch.float64, width) is not None:
        return Assembly(False, beside, size + CHECKED // 2, 0.0)
    return Assembly(False, beside, size + DEAD + REPEATED, 0.0)
