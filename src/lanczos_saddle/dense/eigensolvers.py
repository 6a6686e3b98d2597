"""All eigenvalues of one dense symmetric float64 matrix (N, N): ascending, (N,) on the CPU, by who has room for what.

    from_a_copy   a CPU, two matrices (torch: MKL's dsyevd)
    in_place      a CPU, one matrix, twice the time (LAPACK dsyev)
    on_cuda       a CUDA device, about three matrices (torch, or CuPy)

All raise ArithmeticError, or torch's own, where the iteration does not converge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from scipy.linalg import lapack
from torch import Tensor

from lanczos_saddle.machine.progress import stage, watched
from lanczos_saddle.machine.rates import matrix_product, median_seconds

CUDA_LIMIT = 26_754  # 3 N^2 < 2^31: before CUDA 13, torch's workspace for eigvalsh overflows 32 bits above it


FROM_A_COPY, IN_PLACE = 1.7, 2.9
"""Seconds, as operations of a large matrix product for each of N^3 (measured at N = 6,000 and 10,000, one thread)."""


LDL = 0.5
"""The same for LAPACK's factorization L D L' (measured at N = 2,000 and 4,000, one thread)."""

LONG, SIDE = 10_000, 512
"""N from which the time is foretold to whoever watches, from a product of two such matrices: 0.1 % of what follows."""


def expected_seconds(size: int, share: float, place: torch.device) -> float:
    """About what `share` N^3 takes, where it is long, on a CPU, and somebody watches; else 0."""
    if not watched() or place.type != "cpu" or size < LONG:
        return 0.0
    a = torch.ones(SIDE, SIDE, dtype=torch.float64)
    torch.mm(a, a)  # to warm up
    began = time.perf_counter()
    torch.mm(a, a)
    return share * size**3 * (time.perf_counter() - began) / (2 * SIDE**3)


@contextmanager
def solving(name: str, size: int, share: float, place: torch.device) -> Iterator[None]:
    """A stage of one long call, which cannot say how far it is: of `share` N^3."""
    with stage(name, unit="", seconds=expected_seconds(size, share, place) or None):
        yield


def foretold_seconds(size: int, *, copied: bool) -> float:
    """About what all eigenvalues take on this CPU, from the rate of a matrix product that is made now."""
    multiply, flops = matrix_product(0, torch.float64)
    return (FROM_A_COPY if copied else IN_PLACE) * size**3 * median_seconds(multiply, torch.device("cpu")) / flops


def from_a_copy(matrix: Tensor) -> Tensor:
    """All eigenvalues from a copy; MKL's dsyevd, which torch calls, reduces in two stages rich in matrix products."""
    try:
        values: Tensor = torch.linalg.eigvalsh(matrix)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ArithmeticError(f"torch.linalg.eigvalsh failed: {error}") from error
    return values


def in_place(matrix: Tensor) -> Tensor:
    """All eigenvalues in place; of LAPACK's drivers dsyev asks for the least workspace."""
    work = int(lapack.dsyev_lwork(len(matrix), lower=1)[0])
    values, _, info = lapack.dsyev(matrix.numpy().T, compute_v=0, lower=1, lwork=work, overwrite_a=1)
    if info:
        raise ArithmeticError(f"LAPACK dsyev left {info} off-diagonal elements unconverged")
    return torch.from_numpy(values)


def on_cuda(size: int) -> Callable[[Tensor], Tensor]:
    """The eigvalsh of torch, or of CuPy where torch's sizes are 32-bit; chosen before assembling."""
    if size <= CUDA_LIMIT or int((torch.version.cuda or "0").partition(".")[0]) >= 13:
        return lambda matrix: torch.linalg.eigvalsh(matrix).cpu()
    try:
        import cupy
    except ImportError:
        raise ValueError(
            f"torch.linalg.eigvalsh takes at most N = {CUDA_LIMIT} before CUDA 13; got N = {size}: "
            "install CuPy (lanczos-saddle[cuda]), or use inertia or the matrix-free counts"
        ) from None
    return lambda matrix: torch.utils.dlpack.from_dlpack(cupy.linalg.eigvalsh(cupy.from_dlpack(matrix))).cpu()
