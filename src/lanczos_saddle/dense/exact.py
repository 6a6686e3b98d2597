"""Exact eigenvalues and counts of a dense H: the judge of the estimates, so it shares nothing with Lanczos.

    assemble            H, one float64 matrix (N, N): in closed form where the network is recognized (`closed_form`),
                        else from products with unit vectors, symmetrized to (H + H') / 2
    exact_eigenvalues   all eigenvalues, ascending
    inertia             eigenvalues below and above t, from the signs of D in H - t I = P L D L' P'

Sylvester's law of inertia: D has as many negative (zero, positive) eigenvalues as H - t I. In floating point
P L D L' P' = H - t I + R, so by Weyl's theorem each count is exact for the eigenvalues outside t +- |R| (`sylvester`).
One N x N matrix is held at a time on a CPU, and a copy of it where all eigenvalues are asked for and memory is ample;
the bytes are checked before they are allocated.

Sources: Sylvester 1852; Bunch and Kaufman, Some stable methods for calculating inertia and solving symmetric
linear systems (1977); LAPACK dsytrf, dsyconv.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from lanczos_saddle.dense import blocked_ldl, over_ranks
from lanczos_saddle.dense.eigensolvers import (
    FROM_A_COPY,
    IN_PLACE,
    foretold_seconds,
    from_a_copy,
    in_place,
    on_cuda,
    solving,
)
from lanczos_saddle.dense.over_ranks import DenseOverRanks
from lanczos_saddle.dense.sylvester import FRACTION, LAPACK_SIZE, PROBES, Inertia, Method, Sylvester
from lanczos_saddle.machine.journal import answered
from lanczos_saddle.machine.memory import free_bytes, require_bytes
from lanczos_saddle.machine.progress import made, stage
from lanczos_saddle.operators.conversions import Convertible
from lanczos_saddle.operators.hermitian import Hermitian, check_complex_linear, require_real
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led, shared_by
from lanczos_saddle.operators.operator import (
    Operator,
    arithmetic,
    as_operator,
    fidelity,
    of_network,
    precise,
    unit_products,
)
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.scaling import exponent_to_safe, largest_entry, scale_in_place, times
from lanczos_saddle.operators.symmetric import frobenius, symmetrize
from lanczos_saddle.operators.vectors import refuse_in_slices
from lanczos_saddle.structure import by_layers, closed_form
from lanczos_saddle.structure.facts import dead_coordinates

LARGEST = torch.finfo(torch.float64).max
VECTORS = 512  # of length N, beside the matrix: LAPACK's workspace, one block of products, the probes
CLOSED = 1e-12  # |(A - H) v| / |H v| of a closed form, in float64; products are taken beyond it and their own rounding
REPEATED = 1  # the product after all columns
OVERHEAD = (
    2 * PROBES + 2 + REPEATED
)  # products beside N at most: the check of a closed form, dead coordinates, that one
CHANGED = 10.0  # |(A - H) v| / |H v| may pass the limit of symmetry so many times: one Gaussian v is no norm


@dataclass(frozen=True)
class Dense(Convertible):
    """An assembled operator; itself an operator, so it can be counted at several thresholds."""

    matrix: Tensor  # (N, N) float64, exactly symmetric
    asymmetry: float  # |A - A'|_F / |A|_F of the products, before symmetrizing
    products: int  # H @ v that were spent
    error: float  # |A - H|_2 of a closed form, except with probability 1e-11; 0 where A is made of the products

    shape = property(lambda self: self.matrix.shape)
    dtype = property(lambda self: self.matrix.dtype)
    device = property(lambda self: self.matrix.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.matrix @ v

    @property
    def norm(self) -> float:
        """|A|_F."""
        return float(torch.linalg.vector_norm(self.matrix))

    def solver(self) -> Sylvester:
        """What counts at any number of thresholds, and uses the matrix up."""
        return Sylvester(self.matrix)


@led
@differentiable
def assemble(
    operator: Operator,
    *,
    device: torch.device | None = None,
    block: int = 64,
    progress: bool = False,
    memory: int | None = None,
    overwrite: bool = False,
    tolerance: float = 0.0,
) -> Dense:
    """(A + A') / 2 with A = H I, as one float64 matrix (N, N); a dense tensor is copied, not multiplied.

    The float64 Hessian or Gauss-Newton matrix of a recognized network comes in closed form, if it agrees with ten
    products to 1e-12 or to their own rounding; that of another network from columns that begin at the diagonal
    (`by_layers`), compared in the same way; every other one from N products in blocks of `block` columns (dead
    coordinates, which two products find, are left out).

    Cost: those products, or less than a sixth of them; 8 N^2 bytes on `device` (the operator's own by default) and
    one block of products beside them. `memory`: the bytes that may be used; what is available by default.
    `overwrite` permits to work in the memory of a float64 tensor or `Dense`, whose values are then lost.

    Raises ValueError when the memory does not suffice, a product is not finite or has the wrong shape, or
    |A - A'|_F > sqrt(eps) |A|_F with eps of its arithmetic, more than rounding, and above `tolerance` (absolute).
    """
    operator = as_operator(operator)
    require_real(operator, "assemble")
    refuse_in_slices(operator, "assemble")
    place = torch.device(device or operator.device)
    if block < 1:
        raise ValueError(f"block must be at least 1, the number of columns in one product; got {block}")
    compared = fidelity(operator)
    zero = compared is not None and compared.is_zero
    source = operator.matrix if isinstance(operator, Dense) else operator
    reused = overwrite and _is_workspace(source, place)
    _require_memory(operator.shape[0], place, memory, matrices=0 if reused else 1)
    products, error = 0, 0.0
    with torch.no_grad():
        if reused and isinstance(source, Tensor):
            matrix, by_products = source.detach(), False
        else:
            matrix, products, error, by_products = _filled(source, place, block, progress)
        skew, norm = symmetrize(matrix)
        change = _change(source, matrix) if by_products else (0.0, 0.0)
        products += REPEATED * by_products
    limit, asymmetry = math.sqrt(torch.finfo(arithmetic(operator)).eps), skew / norm if norm else 0.0
    if not asymmetry <= limit and skew > tolerance and not zero:
        raise ValueError(
            f"the operator must be symmetric: |A - A'| / |A| at most {limit:.1e}, the square root of the "
            f"rounding of {operator.dtype}; got {asymmetry:.1e}: make the product deterministic or more exact"
        )
    # columns that rounding makes differ from rows by `skew` differ from themselves by as much: sqrt(N) of them
    if not zero and not change[0] <= CHANGED * max(limit * change[1], skew / operator.shape[0] ** 0.5):
        raise ValueError(
            "the operator must stay the same while it is assembled; a product made after all columns differs from "
            f"theirs by {change[0] / max(change[1], 1e-300):.1e} of its size: keep the weights, the data and the mode "
            "(model.eval()) as they are, and count again"
        )
    return Dense(matrix, asymmetry, products, error)


@led
@differentiable
def exact_eigenvalues(
    operator: Operator, *, progress: bool = False, memory: int | None = None, overwrite: bool = False
) -> Tensor:
    """All eigenvalues of (H + H') / 2, ascending, (N,) float64 on the CPU; errors of the order of eps |H|.

    Cost: an assembly, 4/3 N^3 flops. On a CPU two matrices where they fit (torch, about half the time), else in place
    (LAPACK dsyev: 8 N^2 bytes); about three matrices on CUDA (torch, or CuPy where torch is limited to 32-bit
    sizes). Arguments and errors as in `assemble`; ArithmeticError where the eigensolver does not converge.
    """
    base = as_operator(operator)
    if isinstance(base, Hermitian):
        check_complex_linear(base.real)
        return exact_eigenvalues(base.real, progress=progress, memory=memory, overwrite=overwrite)[::2].clone()
    refuse_in_slices(base, "exact_eigenvalues")
    operator = precise(base)
    size, place = operator.shape[0], _solver_device(operator)
    if place.type == "cuda":
        solve = on_cuda(size)
        _require_memory(size, place, memory, matrices=3)
    else:
        if shared_by(operator) is not None:
            _require_memory(size, place, memory, 1, ALONE)
        free = answered("free for a copy", lambda: free_bytes(place, memory))
        ample = _bytes_of(size, place, matrices=2) <= free
        solve = from_a_copy if ample else in_place
    matrix = assemble(operator, device=place, progress=progress, memory=memory, overwrite=overwrite).matrix
    exponent = exponent_to_safe(largest_entry(matrix))
    scale_in_place(matrix, exponent)
    with solving("eigenvalues", size, FROM_A_COPY if solve is from_a_copy else IN_PLACE, place):
        values = times(solve(matrix), -exponent)
    if not bool(values.isfinite().all()):
        raise ValueError(f"eigenvalues must be at most {LARGEST:.1e}; got larger ones: multiply the operator by 1/N")
    return values


def eigenvalue_plan(operator: Operator) -> str:
    """What all eigenvalues take, in words: memory, and on a CPU the time, from a matrix product that is made now."""
    size, place = operator.shape[0], _solver_device(operator)
    if place.type == "cuda":
        return f"N = {size}: {_bytes_of(size, place, matrices=3) / 2**30:.1f} GiB of {place}"
    ample = _bytes_of(size, place, matrices=2) <= free_bytes(place)
    needed = _bytes_of(size, place, matrices=2 if ample else 1) / 2**30
    minutes = foretold_seconds(size, copied=ample) / 60
    how = "from a copy" if ample else "in place"
    return f"N = {size}: eigenvalues {how}, {needed:.1f} GiB; about {minutes:.1f} minutes, the assembly not counted"


def three_counts(values: Any, tau: float) -> tuple[int, int, int]:
    """(below -tau, within [-tau, tau], above tau) of eigenvalues (N,), an array or a tensor."""
    return int((values < -tau).sum()), int((abs(values) <= tau).sum()), int((values > tau).sum())


@led
@differentiable
def inertia(
    operator: Operator,
    t: float,
    *,
    method: Method = "auto",
    generator: torch.Generator | None = None,
    progress: bool = False,
    memory: int | None = None,
    overwrite: bool = False,
) -> Inertia:
    """Eigenvalues of (H + H') / 2 below and above t, by LDL', with a certificate (`sylvester`).

    `method`: "lapack" (Bunch and Kaufman, on the host), "blocked" (matrix products on the operator's device; its GPU
    speed is not yet measured), or "auto": blocked on CUDA and where N^2 passes 2^31, LAPACK otherwise.
    Margin, separation and counts are those of the assembled matrix: what the operator's rounding did to it,
    `Dense.asymmetry` hints at, and `count_eigenvalues` adds.

    Cost: an assembly, N^3 / 3 flops, 8 N^2 bytes. For several thresholds assemble once and pass the `Dense`: it is
    copied. Where ranks share the operator and `method` is "auto", the matrix lies by columns with all R of them beyond
    N = 3000, and where rank 0 has no room: 4 N^2 / R bytes. `generator` draws the test vectors (a fixed seed by
    default). Raises as `assemble`.
    """
    t = real("t", t)
    if not math.isfinite(t):
        raise ValueError(f"a threshold must be a finite number; got {t}")
    base = as_operator(operator)
    given = base.real if isinstance(base, Hermitian) else base
    check_complex_linear(given)
    if method == "auto":
        given = _exactly(given)
        shared = over_ranks.shares(given, 1, alone=_fits(given, memory))
        if shared is not None:
            columns = over_ranks.assemble_over(shared, given, 1, generator=generator, progress=progress, tolerance=0.0)
            return columns.solver().at(t)
    dense = assemble_for(given, method, progress=progress, memory=memory, overwrite=overwrite)
    found = Sylvester(dense.matrix, method=method, generator=generator).at(t)
    return found.halved() if isinstance(base, Hermitian) else found


def assemble_for(
    operator: Operator,
    method: Method = "auto",
    *,
    progress: bool = False,
    memory: int | None = None,
    overwrite: bool = False,
    tolerance: float = 0.0,
) -> Dense:
    """The matrix in float64 where `Sylvester` wants it: on the operator's device, on the host for LAPACK.

    Raises ValueError for an unknown method, and as `assemble`.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    operator = _exactly(operator)
    place = torch.device("cpu") if method == "lapack" else _solver_device(operator)
    return assemble(operator, device=place, progress=progress, memory=memory, overwrite=overwrite, tolerance=tolerance)


def for_inertia(operator: Operator, *, progress: bool = False, tolerance: float = 0.0) -> Dense | DenseOverRanks:
    """The matrix for inertia at several thresholds, on this rank or by columns on all of them. Raises as `assemble`."""
    if isinstance(operator, DenseOverRanks):
        return operator
    operator = _exactly(operator)
    shared = over_ranks.shares(operator, 2, alone=_fits(operator))
    if shared is None:
        return assemble_for(operator, progress=progress, tolerance=tolerance)
    return over_ranks.assemble_over(shared, operator, 2, generator=None, progress=progress, tolerance=tolerance)


def _exactly(operator: Operator) -> Operator:
    """The operator with float64 products where it can be had: a judge adds no rounding of its own."""
    return precise(as_operator(operator))


def check_memory(operator: Operator, *, eigenvalues: bool) -> None:
    """Refuse a dense solve, for all eigenvalues or for inertia, that cannot fit; raises ValueError with the number."""
    if isinstance(operator, DenseOverRanks):
        return
    if not eigenvalues and over_ranks.shares(operator, 2, alone=_fits(operator)) is not None:
        return
    place = _solver_device(operator)
    matrices = 3 if eigenvalues and place.type == "cuda" else 1
    _require_memory(operator.shape[0], place, None, matrices, ALONE if shared_by(operator) else WAY_OUT)


def _fits(operator: Operator, memory: int | None = None) -> bool:
    """Whether there is room for one matrix here."""
    place = _solver_device(operator)
    return _bytes_of(operator.shape[0], place, matrices=1) <= free_bytes(place, memory)


def _solver_device(operator: Operator) -> torch.device:
    """CUDA stays on its device; everything else is solved in host memory."""
    return operator.device if operator.device.type == "cuda" else torch.device("cpu")


def _is_workspace(source: object, place: torch.device) -> bool:
    return (
        isinstance(source, Tensor)
        and source.dtype == torch.float64
        and source.device == place
        and source.is_contiguous()
    )


def _change(source: Operator, matrix: Tensor) -> tuple[float, float]:
    """(|A v - H v|, |H v|) of a unit vector v and of one product that is made now."""
    v = torch.randn(len(matrix), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = (v / v.norm()).to(source.device, source.dtype)
    image = (source @ v).detach().to(matrix)
    made(1)
    return frobenius(matrix @ v.to(matrix) - image), frobenius(image)


def closed_matrix(operator: Operator) -> tuple[Dense | None, int]:
    """(the matrix in closed form, products spent) of a recognized operator in float64, if ten products agree.

    Cost: about N^2 operations a sample, at most `CHECKED` products; nothing for what is not recognized.
    """
    size = operator.shape[0]
    with torch.no_grad():
        matrix = torch.empty(size, size, dtype=torch.float64, device=operator.device)
        if not closed_form.fill(operator, matrix):
            return None, 0
        found = closed_form.compare(operator, matrix, CLOSED, vectors=PROBES)
    dense = Dense(matrix, 0.0, found.products, found.error / FRACTION) if found.holds else None
    return dense, found.products


CHECKED = 2 * PROBES
"""Products that a closed form is compared with, at most."""


def _filled(source: Operator, place: torch.device, block: int, progress: bool) -> tuple[Tensor, int, float, bool]:
    """(a new float64 matrix with the operator, products spent, error of a closed form, whether made of products)."""
    size = source.shape[0]
    matrix = torch.empty(size, size, dtype=torch.float64, device=place)
    if isinstance(source, Tensor):
        return matrix.copy_(source), 0, 0.0, False
    spent = 0
    if closed_form.fill(source, matrix, progress=progress):
        found = closed_form.compare(source, matrix, CLOSED, vectors=PROBES)
        if found.holds:
            return matrix, found.products, found.error / FRACTION, False
        spent = found.products
    if _fill_by_layers(source, matrix, block, progress):
        found = closed_form.compare(source, matrix, CLOSED, vectors=PROBES)
        spent += source.shape[0] + found.products
        if found.holds:
            return matrix, spent, found.error / FRACTION, False
    return matrix, spent + _fill_by_products(source, matrix, block, progress), 0.0, True


def _fill_by_layers(source: Operator, matrix: Tensor, block: int, progress: bool) -> bool:
    """Columns from the diagonal down (`by_layers`), and their mirror image; False where these are not to be had."""
    blocks = by_layers.blocks(source, matrix.dtype, block)
    if blocks is None or source.device != matrix.device:
        return False
    try:
        with stage("assembly", len(matrix), unit="column", shown=progress) as told:
            for rows, columns, part in blocks:
                matrix[rows[:, None], columns] = part
                matrix[columns[:, None], rows] = part.mT
                told.advance(len(columns))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model of anybody's: products serve
        return False
    return bool(matrix.isfinite().all())


def _fill_by_products(source: Operator, matrix: Tensor, block: int, progress: bool) -> int:
    """The columns of the operator (written as rows: it is symmetric); returns the products spent."""
    size, spent = len(matrix), 0
    living = torch.arange(size, device=source.device)
    if of_network(source):
        living, spent = (~dead_coordinates(recorded(source, "H"))).nonzero().squeeze(1), 2
        matrix.zero_()
    with stage("assembly", len(living), shown=progress):
        for part, product in unit_products(recorded(source, "H"), living, block):
            if not bool(product.isfinite().all()):
                bad = int(part[int((~product.isfinite()).any(dim=0).nonzero()[0])])
                raise ValueError(
                    f"products must be finite; got NaN or infinity in column {bad} of {size}: check weights and data"
                )
            matrix[part.to(matrix.device)] = product.mT.to(matrix)
            made(len(part))
    return spent + len(living)


def _bytes_of(size: int, place: torch.device, matrices: int) -> int:
    """What a dense solve takes with so many matrices (N, N)."""
    vectors = VECTORS if place.type == "cpu" and size <= LAPACK_SIZE else blocked_ldl.VECTORS
    return 8 * size * (matrices * size + min(vectors, 2 * size))


WAY_OUT = "count matrix-free, or restrict the operator to the coordinates that act (Restricted)"

ALONE = (
    "eigenvalues are worked out by rank 0 alone; inertia lies by columns with all ranks: inertia(H, t), or "
    "count_eigenvalues(H, threshold=..., method='exact'); in a shell `inertia PROBLEM --at T`"
)
"""The way out of eigenvalues that one of several ranks has no room for."""


def _require_memory(size: int, place: torch.device, memory: int | None, matrices: int, way_out: str = WAY_OUT) -> None:
    """Refuse before allocating; raises ValueError with the number."""
    needed = _bytes_of(size, place, matrices)
    require_bytes(needed, place, f"a dense solve at N = {size} on {place}", way_out, limit=memory)
