"""A symmetric matrix in a file, as an array or a sparse matrix: whether it fits and is symmetric is asked here.

    .mtx    Matrix Market: dense or by coordinates; symmetric and hermitian ones store one triangle
    .npz    scipy.sparse.save_npz, or a NumPy archive of one array
    .npy    a NumPy array

A file is data: what would run code when it is read (pickles, arrays of objects) is refused. Sizes are read from the
header and held against the memory that is free before anything is allocated.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
import torch

from lanczos_saddle.machine.memory import require_bytes

SUFFIXES = (".mtx", ".npz", ".npy")

BLOCK = 2**24
"""Entries of a dense matrix that are compared with the transposed ones at a time."""

COPIES = 3
"""What reading and converting holds at once, in sizes of the matrix."""

DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_matrix_file(name: Any) -> bool:
    """Whether a name is that of a file which `load_matrix` reads, there or not."""
    return isinstance(name, str | Path) and str(name).lower().endswith(SUFFIXES)


def load_matrix(path: str | Path) -> Any:
    """The symmetric (or complex Hermitian) matrix of a file: a NumPy array (N, N), or a scipy CSR array.

    Numbers keep their type. Memory: three times that of the matrix while it is read.

    Raises ValueError for a file that is not there, is damaged, or holds objects; for a matrix that is not square, not
    finite, or not symmetric to sqrt(eps) of its type, with how far it is off; and for one that memory cannot hold.
    """
    path = Path(path)
    if not is_matrix_file(path):
        raise ValueError(f"a matrix file ends in {', '.join(SUFFIXES)}; got {path.name}: save it as one of them")
    if not path.is_file():
        raise ValueError(f"there is no file {path}: see that the name is right")
    read = (
        _read_npy
        if path.name.lower().endswith(".npy")
        else _read_npz
        if path.name.lower().endswith(".npz")
        else _read_mtx
    )
    try:
        matrix = read(path)
    except _Refused:
        raise
    except DAMAGE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        objects = "pickle" in why.lower() or "object" in why.lower()
        way = (
            "arrays of objects run code when they are read: save numbers, A.astype(float)"
            if objects
            else "save it again"
        )
        raise ValueError(
            f"{path.name} must hold one matrix of numbers; it cannot be read ({why[:160]}): {way}"
        ) from error
    _check_entries(matrix, path.name)
    _check_symmetry(matrix, path.name)
    return matrix


class _Refused(ValueError):
    """What was read from the header is refused, and says so itself."""


def _read_npy(path: Path) -> Any:
    with path.open("rb") as file:
        if (start := file.read(6)) and start != b"\x93NUMPY":  # read as a pickle otherwise
            raise _Refused(f"a .npy file begins with \\x93NUMPY; {path.name} begins with {start!r}: save it by np.save")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_shape(array.shape, array.nbytes, path.name)
    return np.array(array)


def _read_npz(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    _require(held, path.name)
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names = list(archive.files)
        if "format" not in names:
            if len(names) != 1:
                raise _Refused(
                    f"an archive of a matrix has one array; {path.name} has {', '.join(names[:6]) or 'none'}: save "
                    "one, np.savez(file, A), or a sparse one by scipy.sparse.save_npz"
                )
            array = archive[names[0]]
            _check_shape(array.shape, array.nbytes, path.name)
            return array
    matrix = scipy.sparse.load_npz(path)
    _check_shape(matrix.shape, 8 * matrix.shape[0] + 12 * matrix.nnz, path.name)
    if matrix.format in ("csr", "csc", "bsr"):
        matrix.check_format(full_check=True)  # indices beyond the matrix would be followed
    return scipy.sparse.csr_array(matrix)


def _read_mtx(path: Path) -> Any:
    # by name: where scipy reads a damaged file from a stream, the process ends
    rows, columns, entries, layout, kind, symmetry = scipy.io.mminfo(str(path))
    twice = 1 if symmetry == "general" else 2
    number = 16 if kind == "complex" else 8
    sparse = 8 * rows + twice * entries * (number + 16)
    _check_shape((rows, columns), number * rows * columns if layout == "array" else sparse, path.name)
    if symmetry == "skew-symmetric":
        raise _Refused(
            f"a matrix with real eigenvalues is symmetric; {path.name} is skew-symmetric, A' = -A, whose eigenvalues "
            "are imaginary: count the Hermitian i A"
        )
    matrix = scipy.io.mmread(str(path), spmatrix=False)
    return matrix if isinstance(matrix, np.ndarray) else scipy.sparse.csr_array(matrix)


def _require(needed: int, name: str) -> None:
    """Refuse what memory cannot hold; raises ValueError with the number."""
    try:
        require_bytes(COPIES * needed, torch.device("cpu"), f"reading {name}", "use a machine with more memory")
    except ValueError as error:
        raise _Refused(str(error)) from None


def _check_shape(shape: tuple[int, ...], needed: int, name: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise _Refused(f"a symmetric matrix is square, (N, N) with N >= 1; {name} has shape {tuple(shape)}")
    _require(needed, name)


def _entries(matrix: Any) -> np.ndarray[Any, Any]:
    entries: np.ndarray[Any, Any] = matrix.data if scipy.sparse.issparse(matrix) else matrix.reshape(-1, order="A")
    return entries


def _check_entries(matrix: Any, name: str) -> None:
    """Refuse what is no number, and what is not finite, with its place."""
    if matrix.dtype.kind not in "biufc":
        raise ValueError(f"a matrix must be made of numbers; {name} has {matrix.dtype}: save A.astype(float)")
    bad = ~np.isfinite(_entries(matrix))
    if not bad.any():
        return
    places = matrix.tocoo().coords if scipy.sparse.issparse(matrix) else np.nonzero(~np.isfinite(matrix))
    first = int(np.flatnonzero(bad)[0]) if scipy.sparse.issparse(matrix) else 0
    row, column = (int(axis[first]) for axis in places)
    raise ValueError(
        f"all entries of a matrix must be finite; {name} has {int(bad.sum())} that are not, one in row {row}, column "
        f"{column} (from 0): mend them where they are made"
    )


def _check_symmetry(matrix: Any, name: str) -> None:
    """Refuse a matrix that differs from its (conjugate) transpose by more than sqrt(eps) of its type."""
    wide = matrix if matrix.dtype.kind in "fc" and matrix.dtype.itemsize >= 4 else matrix.astype(np.float64)
    skew, size, worst = _skew(wide)
    limit = float(np.finfo(wide.dtype).eps) ** 0.5
    if skew <= limit * size:
        return
    complex_, kind = wide.dtype.kind == "c", "Hermitian" if wide.dtype.kind == "c" else "symmetric"
    row, column = worst
    pair = f"{wide[row, column]:.3g} at ({row}, {column}), {wide[column, row]:.3g} at ({column}, {row})"
    if row == column:
        pair = f"{wide[row, column]:.3g} at ({row}, {column}), which has to be real"
    half = scipy.sparse.issparse(matrix) and (
        scipy.sparse.triu(matrix, 1).nnz == 0 or scipy.sparse.tril(matrix, -1).nnz == 0
    )
    way = (
        "one triangle alone is stored: add the other, A + A' - diag(A), or say symmetric in the header of the file"
        if half
        else f"count its {kind} part, (A + A{'^H' if complex_ else chr(39)}) / 2, if that is what is meant"
    )
    raise ValueError(
        f"a matrix must be {kind}, |A - A{'^H' if complex_ else chr(39)}| / |A| at most {limit:.1e}; {name} is off by "
        f"{skew / size:.1e} ({pair}): {way}"
    )


def _skew(matrix: Any) -> tuple[float, float, tuple[int, int]]:
    """(|A - A^H|_F, |A|_F, where they differ most), in units of the largest |entry|: no square overflows."""
    largest = float(np.abs(_entries(matrix)).max(initial=0.0)) or 1.0
    if scipy.sparse.issparse(matrix):
        scaled = matrix / largest
        off = scipy.sparse.coo_array(scaled - scaled.conj().T)
        size = float(np.linalg.norm(scaled.data))
        if not off.nnz:
            return 0.0, size, (0, 0)
        first = int(np.abs(off.data).argmax())
        return float(np.linalg.norm(off.data)), size, (int(off.coords[0][first]), int(off.coords[1][first]))
    rows, worst = max(1, BLOCK // len(matrix)), (0, 0)
    skew, size, most = 0.0, 0.0, -1.0
    for start in range(0, len(matrix), rows):
        part = matrix[start : start + rows] / largest
        off = np.abs(part - matrix[:, start : start + rows].conj().T / largest)
        skew = math.hypot(skew, float(np.linalg.norm(off)))
        size = math.hypot(size, float(np.linalg.norm(part)))
        place = np.unravel_index(int(off.argmax()), off.shape)
        if off[place] > most:
            most, worst = float(off[place]), (start + int(place[0]), int(place[1]))
    return skew, size, worst
