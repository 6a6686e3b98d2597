"""What people hold in memory, as one of two things: a dense tensor, or a sparse scipy matrix, both real or complex.

    kept        float32, float64, complex64, complex128
    converted   bool, integers, float16, bfloat16, longdouble, other byte orders, objects that are numbers: to float64,
                or to complex128 where they are complex
    refused     text, dates, records, masked entries, tensors without values: ValueError with the way out

A data frame gives its values. Read-only memory is copied: a tensor cannot say that it must not be written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

KEPT = (torch.float32, torch.float64, torch.complex64, torch.complex128)
"""Types that are taken as they are."""

NUMPY_KEPT = {"f4": np.float32, "f8": np.float64, "c8": np.complex64, "c16": np.complex128}

WAY_OUT = "pass a matrix of numbers, A.astype(float) say"


def is_matrix(source: Any) -> bool:
    """Whether `stored` takes it: a tensor, an array, a data frame or a scipy sparse matrix."""
    return isinstance(source, Tensor | np.ndarray) or scipy.sparse.issparse(source) or hasattr(source, "to_numpy")


def stored(source: Any) -> Any:
    """A dense tensor of one of the types `KEPT`, or a scipy CSR matrix of one; raises ValueError for others."""
    if isinstance(source, Tensor):
        return _from_tensor(source.detach())
    if scipy.sparse.issparse(source):
        return _from_sparse(source)
    array = source if isinstance(source, np.ndarray) else source.to_numpy()
    return torch.from_numpy(_from_array(array))


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which a matrix of this type is multiplied: its own where it is kept, else float64 or complex128."""
    if dtype in KEPT:
        return dtype
    return torch.complex128 if dtype.is_complex else torch.float64


def torch_type(dtype: Any) -> torch.dtype:
    """The torch type of anything that names one, `working_type` taken; raises ValueError for what is no number type."""
    if isinstance(dtype, torch.dtype):
        return working_type(dtype)
    try:
        known = np.dtype(dtype)
    except TypeError:
        raise ValueError(f"a type must be one of torch or NumPy, torch.float64 say; got {dtype!r}") from None
    if known.kind not in "biufc":
        raise ValueError(f"an operator must be made of numbers; got {known}: {WAY_OUT}")
    name = known.kind + str(known.itemsize)
    kept = NUMPY_KEPT.get(name, np.complex128 if known.kind == "c" else np.float64)
    return torch.from_numpy(np.empty(0, dtype=kept)).dtype


def _from_tensor(source: Tensor) -> Any:
    """A dense tensor, or a sparse one of any layout as scipy's on the host, as coordinates elsewhere."""
    if source.is_meta or source.is_quantized or source.is_nested:
        raise ValueError(f"a matrix must hold its numbers; got a {_kind(source)} tensor: pass a dense one")
    wanted = working_type(source.dtype)
    if source.layout == torch.strided:
        return source.to(wanted)
    if source.ndim != 2:
        raise ValueError(f"a matrix has two axes; got a sparse tensor of shape {tuple(source.shape)}")
    if source.layout not in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc):
        return source.to_dense().to(wanted)
    coordinates = _coordinates(source.to(wanted))  # first: sums of what is there twice may overflow in int8
    values = coordinates.values()
    if source.device.type != "cpu":
        return torch.sparse_coo_tensor(coordinates.indices(), values, source.shape).coalesce()
    rows, columns = coordinates.indices().numpy()
    return _from_sparse(scipy.sparse.coo_array((values.numpy(), (rows, columns)), shape=tuple(source.shape)))


def _coordinates(source: Tensor) -> Tensor:
    """The tensor by coordinates; block layouts and hybrids through the dense one, since torch keeps their blocks."""
    if source.layout in (torch.sparse_bsr, torch.sparse_bsc) or source.dense_dim():
        source = source.to_dense()
    coordinates: Tensor = source.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    return coordinates


def _from_sparse(source: Any) -> Any:
    """Scipy's CSR of a type that is kept; entries that are there twice are summed in it."""
    if source.format in ("coo", "csr", "csc", "bsr", "dia"):
        source = source.astype(_numpy_type(source.dtype, source.data))
    matrix = source.tocsr() if source.ndim == 2 else source
    return matrix.astype(_numpy_type(matrix.dtype, matrix.data))


def _from_array(source: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A plain array in native byte order, writable, contiguous."""
    if isinstance(source, np.ma.MaskedArray) and np.ma.is_masked(source):
        raise ValueError("a matrix must have all its entries; got a masked array: fill it, A.filled(value), first")
    array = np.asarray(source)
    wanted = _numpy_type(array.dtype, array)
    try:
        plain = np.ascontiguousarray(array.astype(wanted, copy=False))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"a matrix must be made of numbers; got {array.dtype}: {WAY_OUT}") from None
    return plain if plain.flags.writeable else plain.copy()


def _numpy_type(dtype: np.dtype[Any], entries: Any) -> Any:
    """The NumPy type in which entries of this type are kept; objects by what they are."""
    if dtype.kind in "biufc":
        return NUMPY_KEPT.get(dtype.kind + str(dtype.itemsize), np.complex128 if dtype.kind == "c" else np.float64)
    if dtype.kind == "O":
        numbers = np.asarray(entries).ravel().tolist()
        if any(isinstance(x, str | bytes) or x is None for x in numbers):
            raise ValueError(f"a matrix must be made of numbers; got objects that are not: {WAY_OUT}")
        return np.complex128 if any(isinstance(x, complex | np.complexfloating) for x in numbers) else np.float64
    if dtype.kind == "V" and dtype.names is None:
        return np.float64  # types of other packages, bfloat16 say; refused where they are no numbers
    raise ValueError(f"a matrix must be made of numbers; got {dtype}: {WAY_OUT}")


def _kind(source: Tensor) -> str:
    return "meta" if source.is_meta else "quantized" if source.is_quantized else "nested"
