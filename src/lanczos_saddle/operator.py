"""A symmetric linear operator, known by its products.

Everything above this floor sees four names: ``shape``, ``dtype``, ``device`` and ``@``. A dense symmetric
``torch.Tensor`` already has them. Behavior is added by wrapping, never by subclassing:

    Shifted(A, t)         (A - t I) v
    Restricted(A, index)  A[index, index] v
    Projected(A, Z)       (I - Z Z') A (I - Z Z') v,  Z'Z = I
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lanczos_saddle.symmetric import symmetrize


@runtime_checkable
class Operator(Protocol):
    """A symmetric N x N operator: ``A @ v`` for v of shape (N,) or (N, k), in ``A.dtype`` on ``A.device``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, N)."""

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of vectors and products."""

    @property
    def device(self) -> torch.device:
        """Where vectors live."""

    def __matmul__(self, v: Tensor, /) -> Tensor:
        """A v, in the shape of v."""


def check_vector(v: Tensor, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a vector or block that does not fit the operator; raises ValueError."""
    if not isinstance(v, Tensor):
        raise ValueError(f"an operator multiplies torch tensors; got {type(v).__name__}")
    if v.ndim not in (1, 2) or v.shape[0] != size:
        raise ValueError(f"the operator multiplies shapes ({size},) and ({size}, k); got {tuple(v.shape)}")
    if v.dtype != dtype or v.device != device:
        raise ValueError(
            f"the operator works in {dtype} on {device}; got {v.dtype} on {v.device}: "
            "convert with v.to(A.device, A.dtype)"
        )


@dataclass(frozen=True)
class Shifted:
    """(A - t I): the eigenvalues of A move down by t."""

    base: Operator
    shift: float

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.base @ v - self.shift * v


@dataclass(frozen=True)
class Restricted:
    """The principal submatrix A[index, index]; exact for the spectrum of A where all other rows are zero."""

    base: Operator
    index: Tensor  # (M,) int64, ascending

    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, M)."""
        return (len(self.index), len(self.index))

    def __matmul__(self, v: Tensor, /) -> Tensor:
        full = v.new_zeros(self.base.shape[0], *v.shape[1:])
        full[self.index] = v
        return (self.base @ full)[self.index]


@dataclass(frozen=True)
class Projected:
    """(I - Z Z') A (I - Z Z') with orthonormal Z (N, z): known null vectors taken out at every product."""

    base: Operator
    nulls: Tensor  # (N, z), orthonormal columns

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def project(self, v: Tensor) -> Tensor:
        """(I - Z Z') v."""
        return v - self.nulls @ (self.nulls.mT @ v)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.project(self.base @ self.project(v))


@dataclass(frozen=True)
class FromFunction:
    """An operator from a function of tensors, (N, k) -> (N, k); single vectors pass as one column."""

    function: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return (self.size, self.size)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.size, self.dtype, self.device)
        block = v if v.ndim == 2 else v[:, None]
        product = self.function(block)
        product = product.detach() if isinstance(product, Tensor) else product
        if not isinstance(product, Tensor) or product.shape != block.shape:
            got = tuple(product.shape) if hasattr(product, "shape") else type(product).__name__
            raise ValueError(
                f"the callable must return a tensor of the shape it was given, {tuple(block.shape)}; got {got}"
            )
        return product if v.ndim == 2 else product[:, 0]


def as_operator(
    source: Any, size: int | None = None, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Operator:
    """Turn what people hold into an `Operator`.

    Accepted: a square tensor (dense or sparse, symmetric) or NumPy / CuPy array; a scipy or CuPy sparse matrix or
    ``LinearOperator``; anything with ``shape`` and ``@`` (curvlinops, `Hessian`, ...); a callable with its
    ``size``, from (N, k) tensors to (N, k) tensors. Symmetry is the caller's promise: `check_operator` tests it.

    Raises ValueError when the source is not square, not real floating point, or not one of these.
    """
    if isinstance(source, Tensor):
        _require_square(source.shape)
        dense = source.detach().to(dtype=dtype, device=device)
        if not dense.is_floating_point():
            raise ValueError(f"a matrix must be real floating point; got {dense.dtype}: convert it first")
        if dense.layout != torch.strided:  # products alone: what is made for dense tensors reads their entries
            return FromFunction(lambda v: dense @ v, len(dense), dense.dtype, dense.device)
        return dense
    if isinstance(source, np.ndarray):
        return as_operator(torch.from_numpy(np.ascontiguousarray(source)), dtype=dtype, device=device)
    if _is_cupy(source) and hasattr(source, "__dlpack__"):
        return as_operator(from_dlpack(source), dtype=dtype, device=device)
    if hasattr(source, "shape") and hasattr(source, "__matmul__"):
        _require_square(source.shape)
        if _speaks_torch(source):
            return source if dtype is None and device is None else _converted(source, dtype, device)
        return _from_arrays(source, dtype, device)
    if callable(source):
        if size is None or size < 1:
            raise ValueError(f"a callable needs its size: as_operator(function, N) with N >= 1; got N = {size}")
        return FromFunction(source, size, dtype or torch.get_default_dtype(), _place(device or "cpu"))
    raise ValueError(
        f"as_operator takes a matrix, a linear operator with shape and @, or (callable, N); got {type(source).__name__}"
    )


def fidelity(operator: Operator) -> Any:
    """What was found when the operator was compared with the function it is of; None for one that is of no function.

    Raises ValueError where they differ.
    """
    return getattr(operator, "fidelity", None)


def arithmetic(operator: Operator) -> torch.dtype:
    """The least precise type that products compute in: a model may cast to float32 inside."""
    inside: torch.dtype = getattr(operator, "arithmetic", operator.dtype)
    return max(inside, operator.dtype, key=lambda t: torch.finfo(t).eps)


def in_float64(operator: Operator) -> Operator | None:
    """The same operator with float64 products, where it can be had and is not what we hold; else None.

    Dense tensors are converted, to their symmetric part where they are symmetric up to rounding; operators of a
    `problem` (`Hessian`, `GaussNewton`) make another one of themselves.
    """
    if operator.dtype == torch.float64 or not (isinstance(operator, Tensor) or hasattr(operator, "problem")):
        return None
    if isinstance(operator, Tensor):
        return _symmetric(operator)
    convert: Any = operator
    converted: Operator = convert.to(torch.float64)
    return converted


def _symmetric(matrix: Tensor) -> Tensor:
    """The matrix in float64; its symmetric part, where it is symmetric up to the rounding of its own type."""
    exact = matrix.to(torch.float64)
    rounding = float(torch.finfo(matrix.dtype).eps) ** 0.5
    if not bool(exact.isfinite().all()):
        return exact
    skew, size = symmetrize(exact)
    return exact if skew <= rounding * size else matrix.to(torch.float64)


def unit_products(operator: Operator, coordinates: Tensor, block: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(j, H e_j for every coordinate of j as columns), `block` coordinates at a time; raises ValueError for a shape."""
    for part in torch.split(coordinates, block):
        identity = torch.zeros(operator.shape[0], len(part), dtype=operator.dtype, device=operator.device)
        identity[part, torch.arange(len(part), device=operator.device)] = 1
        product = operator @ identity
        if product.shape != identity.shape:
            raise ValueError(
                f"a product must have the shape of its block, {tuple(identity.shape)}; got {tuple(product.shape)}"
            )
        yield part, product


def precise(operator: Operator) -> Operator:
    """The operator with float64 products where it can be had (`in_float64`), else as it is."""
    converted = in_float64(operator)
    return operator if converted is None else converted  # a tensor has no truth value


def to_scipy(operator: Operator) -> LinearOperator:
    """The operator as a scipy ``LinearOperator`` on NumPy arrays in host memory; one product a call."""
    dtype = _numpy_dtype(operator.dtype)

    def product(v: np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(np.ascontiguousarray(v, dtype=dtype), device=operator.device)
        return (operator @ tensor).cpu().numpy()

    return LinearOperator(
        shape=(operator.shape[0],) * 2, matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=dtype
    )


def _converted(base: Operator, dtype: torch.dtype | None, device: torch.device | str | None) -> FromFunction:
    """The base operator on vectors of another type or device."""
    dtype, device = dtype or base.dtype, _place(device or base.device)
    return FromFunction(
        lambda v: (base @ v.to(base.device, base.dtype)).to(device, dtype), base.shape[0], dtype, device
    )


def _from_arrays(source: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> FromFunction:
    """NumPy-speaking (scipy) or CuPy-speaking operators; CuPy shares memory through DLPack."""
    own = torch.from_numpy(np.empty(0, dtype=source.dtype or np.float64)).dtype
    if _is_cupy(source):
        import cupy

        place = torch.device("cuda", int(cupy.cuda.runtime.getDevice()))

        def product(v: Tensor) -> Tensor:
            return from_dlpack(source @ cupy.from_dlpack(v.contiguous()))
    else:
        place = torch.device("cpu")

        def product(v: Tensor) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(source @ v.numpy()))

    if not own.is_floating_point:
        raise ValueError(f"an operator must be real floating point; got {source.dtype}: convert it first")
    base = FromFunction(lambda v: product(v).to(own), source.shape[0], own, place)
    return base if dtype is None and device is None else _converted(base, dtype, device)


def _place(device: torch.device | str) -> torch.device:
    """The device with its index: tensors on "cuda" say "cuda:0"."""
    return torch.empty(0, device=device).device


def _require_square(shape: Any) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise ValueError(f"a symmetric operator is square, (N, N) with N >= 1; got shape {tuple(shape)}")


def _speaks_torch(source: Any) -> bool:
    return isinstance(getattr(source, "dtype", None), torch.dtype) and hasattr(source, "device")


def _is_cupy(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] in {"cupy", "cupyx"}


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype
