"""A symmetric linear operator, known by its products.

Everything above this floor sees four names: ``shape``, ``dtype``, ``device`` and ``@``. A dense symmetric
``torch.Tensor`` already has them. Behavior is added by wrapping, never by subclassing:

    Shifted(A, t)         (A - t I) v
    Restricted(A, index)  A[index, index] v
    Projected(A, Z)       (I - Z Z') A (I - Z Z') v,  Z'Z = I
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lanczos_saddle.operators.array_products import cupy_product, host_product, unknown_product
from lanczos_saddle.operators.conversions import (
    Convertible,
    cupy_operator,
    curvlinops_operator,
    numpy_dtype,
    pylops_operator,
    scipy_operator,
)
from lanczos_saddle.operators.hermitian import Hermitian, real_function, real_matrix
from lanczos_saddle.operators.matrices import KEPT, is_matrix, stored, torch_type
from lanczos_saddle.operators.matrix_files import load_matrix
from lanczos_saddle.operators.symmetric import symmetrize
from lanczos_saddle.operators.vectors import zeros


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
class Shifted(Convertible):
    """(A - t I): the eigenvalues of A move down by t. What is known of the function A is of stays known."""

    base: Operator
    shift: float

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return self.base @ v - self.shift * v


@dataclass(frozen=True)
class Restricted(Convertible):
    """The principal submatrix A[index, index]; exact for the spectrum of A where all other rows are zero."""

    base: Operator
    index: Tensor  # (M,) int64, ascending

    space = property(lambda self: getattr(self.index, "space", None))
    dtype = property(lambda self: self.base.dtype)
    device = property(lambda self: self.base.device)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, M)."""
        return (len(self.index), len(self.index))

    def __matmul__(self, v: Tensor, /) -> Tensor:
        full = zeros(self.base, self.base.shape[0], *v.shape[1:], dim=0, dtype=v.dtype)
        full[self.index] = v
        return (self.base @ full)[self.index]


@dataclass(frozen=True)
class Projected(Convertible):
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


HALF = (torch.float16, torch.bfloat16)
"""Types of three digits: a function that returns them by chance is told so."""


@dataclass(frozen=True)
class FromFunction(Convertible):
    """An operator from a function of tensors, (N, k) -> (N, k); single vectors pass as one column.

    The function is given a copy, which it may write into, and what it returns is copied, so that it may use its buffer
    again. Arrays that it returns are taken for tensors, real numbers of any type.
    """

    function: Callable[[Tensor], Any]
    size: int
    dtype: torch.dtype
    device: torch.device
    complex_function: bool = False  # the real form of one: linearity over complex numbers is not yet known

    @property
    def shape(self) -> tuple[int, int]:
        """(N, N)."""
        return (self.size, self.size)

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.size, self.dtype, self.device)
        block = v if v.ndim == 2 else v[:, None]
        product = self._taken(self.function(block.clone()), block.shape)
        return product if v.ndim == 2 else product[:, 0]

    def _taken(self, product: Any, shape: tuple[int, ...]) -> Tensor:
        """A copy of what the function returned, in the operator's type; raises ValueError where it does not fit."""
        if scipy.sparse.issparse(product):
            product = product.toarray()
        if not isinstance(product, Tensor) and hasattr(product, "__array__"):
            if getattr(product, "dtype", None) == np.float16:
                product = torch.from_numpy(np.asarray(product))
            else:
                product = stored(np.asarray(product))
        if isinstance(product, Tensor) and product.layout != torch.strided:
            product = product.to_dense()
        if not isinstance(product, Tensor) or product.shape != shape:
            got = tuple(product.shape) if hasattr(product, "shape") else type(product).__name__
            raise ValueError(
                f"the callable must return a tensor or an array of the shape it was given, {tuple(shape)}; got {got}"
            )
        if product.is_complex() and not self.dtype.is_complex:
            raise ValueError(
                f"the products of a real operator must be real; got {product.dtype}: a complex Hermitian operator is "
                "counted with dtype=torch.complex128"
            )
        if product.dtype in HALF:
            raise ValueError(
                f"products must have the digits of the vectors, {self.dtype}; got {product.dtype}, which has three: "
                "compute them in float32 or float64"
            )
        return product.detach().to(self.device, self.dtype, copy=True)


def as_operator(
    source: Any, size: int | None = None, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Operator:
    """Turn what people hold into a real `Operator` in float32 or float64.

    Accepted: a square matrix (tensor, NumPy or CuPy array, data frame, dense or sparse, numbers of any type: what is
    neither float32 nor float64 becomes float64); a scipy or CuPy ``LinearOperator``; anything with ``shape`` and ``@``
    (curvlinops, PyLops, `Hessian`, ...); a callable with its ``size``, from (N, k) tensors to (N, k) tensors or arrays;
    the name of a matrix file (.mtx, .npz, .npy), which `load_matrix` reads, in float64 unless a `dtype` is asked for.
    Symmetry is the caller's promise: `check_operator` tests it. Other people's operators are given copies of vectors,
    and what they return is copied.

    What is complex, with an imaginary part other than 0, is taken for Hermitian and comes back as its real form
    (`Hermitian`), (2N, 2N), whatever the real or complex `dtype`.

    Raises ValueError when the source is not square, not made of numbers, or not one of these.
    """
    wanted = None if dtype is None else _wanted(dtype)
    device = None if device is None else _place(device)
    if isinstance(source, str | Path):
        source = _from_file(source, wanted)
    if _is_cupy(source) and hasattr(source, "__dlpack__"):
        source = from_dlpack(source)
    if is_matrix(source):
        return _from_matrix(stored(source), wanted, device)
    if hasattr(source, "shape") and hasattr(source, "__matmul__"):
        _require_square(source.shape)
        if isinstance(source, Hermitian):
            return cast(Operator, Hermitian(as_operator(source.real, dtype=dtype, device=device)))
        if _is_ours(source):
            real = None if wanted is None else wanted.to_real()
            return cast(Operator, source) if real is None and device is None else _converted(source, real, device)
        return _from_products(source, wanted, device)
    if callable(source):
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ValueError(f"a callable needs its size: as_operator(function, N) with N >= 1; got N = {size}")
        place = device or torch.device("cpu")
        return _real(FromFunction(source, int(size), wanted or torch.get_default_dtype(), place))
    raise ValueError(
        "as_operator takes a matrix, a linear operator with shape and @, a matrix file, or (callable, N); "
        f"got {type(source).__name__}"
        + (": np.array(A) makes a matrix of lists" if isinstance(source, list | tuple) else "")
    )


def _unshifted(operator: Operator) -> Operator:
    """A of A - t I, which is of the same function and computes in the same way; others as they are."""
    return operator.base if isinstance(operator, Shifted) else operator


def fidelity(operator: Operator) -> Any:
    """What was found when the operator was compared with the function it is of; None for one that is of no function.

    Raises ValueError where they differ.
    """
    return getattr(_unshifted(operator), "fidelity", None)


def another_way(operator: Operator) -> bool:
    """Whether the operator multiplies in another way from now on: one that knows several, and has not tried all."""
    change: Any = getattr(_unshifted(operator), "another_way", None)
    return change is not None and bool(change())


def arithmetic(operator: Operator) -> torch.dtype:
    """The least precise type that products compute in: a model may cast to float32 inside."""
    inside: torch.dtype = getattr(_unshifted(operator), "arithmetic", operator.dtype)
    return max(inside, operator.dtype, key=lambda t: torch.finfo(t).eps)


def has_float64(operator: Operator) -> bool:
    """Whether `in_float64` gives another operator: not where a model evaluates in its own type only."""
    if operator.dtype == torch.float64:
        return False
    if isinstance(operator, Shifted):
        return has_float64(operator.base)
    if isinstance(operator, Tensor):
        return True
    offers: Any = getattr(getattr(operator, "problem", None), "offers", None)
    return offers is not None and bool(offers(torch.float64))


def of_network(operator: object) -> bool:
    """Whether it is a curvature matrix of a `problem`: it can be had in float64, and may have rows of zeros."""
    return hasattr(operator, "problem")


def in_float64(operator: Operator) -> Operator | None:
    """The same operator with float64 products, where it can be had and is not what we hold; else None.

    Dense tensors are converted, to their symmetric part where they are symmetric up to rounding; operators of a
    `problem` (`Hessian`, `GaussNewton`) make another one of themselves.
    """
    if not has_float64(operator):
        return None
    if isinstance(operator, Shifted):
        return Shifted(precise(operator.base), operator.shift)
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


def to_scipy(operator: Any) -> LinearOperator:
    """Anything `as_operator` takes as a scipy ``LinearOperator`` on NumPy arrays in host memory; one product a call.

    Its dtype is that of the products, complex for a complex Hermitian one; vectors of another type are converted. It
    has matvec, matmat, rmatvec and rmatmat: SciPy's eigsh, lobpcg and svds, PRIMME and others take it.
    """
    return scipy_operator(as_operator(operator))


def to_cupy(operator: Any) -> Any:
    """An operator on CUDA as a ``cupyx.scipy.sparse.linalg.LinearOperator``: CuPy arrays, handed over by DLPack.

    Nothing is copied to the host. Raises ValueError for an operator in host memory, ModuleNotFoundError without CuPy.
    Tested on arrays in host memory, through the same hand-over; not on a GPU.
    """
    return cupy_operator(as_operator(operator))


def to_pylops(operator: Any) -> Any:
    """Anything `as_operator` takes as a ``pylops.LinearOperator`` on NumPy arrays, to be composed with others.

    Raises ModuleNotFoundError without PyLops.
    """
    return pylops_operator(as_operator(operator))


def to_curvlinops(operator: Any, shapes: Sequence[Sequence[int]] | None = None) -> Any:
    """Anything `as_operator` takes as a self-adjoint ``PyTorchLinearOperator`` of curvlinops 3.

    It multiplies torch tensors (N,) and (N, k), and lists of tensors in `shapes`: those of the parameters for a
    curvature matrix, one vector (N,) otherwise. Raises ValueError for shapes that have not N numbers in all,
    ModuleNotFoundError without curvlinops.
    """
    return curvlinops_operator(as_operator(operator), shapes)


def _converted(base: Operator, dtype: torch.dtype | None, device: torch.device | None) -> FromFunction:
    """The base operator on vectors of another type or device."""
    dtype, device = dtype or base.dtype, device or base.device
    return FromFunction(
        lambda v: (base @ v.to(base.device, base.dtype)).to(device, dtype),
        base.shape[0],
        dtype,
        device,
        getattr(base, "complex_function", False),
    )


def _from_file(path: str | Path, wanted: torch.dtype | None) -> Any:
    """The matrix of a file, its numbers in the type of the products: stored float32 is multiplied in float64."""
    matrix = load_matrix(path)
    real = wanted or torch.float64
    return matrix.astype(numpy_dtype(real.to_complex() if matrix.dtype.kind == "c" else real.to_real()), copy=False)


def _from_matrix(matrix: Any, wanted: torch.dtype | None, device: torch.device | None) -> Operator:
    """A dense tensor as it is, a sparse one by its products; complex ones in real form, or real where B = 0."""
    _require_square(matrix.shape)
    if isinstance(matrix, Tensor) and matrix.layout == torch.strided:
        if matrix.is_complex():
            if bool((matrix.imag != 0).any()):
                double = real_matrix(matrix)
                real = double.dtype if wanted is None else wanted.to_real()
                return cast(Operator, Hermitian(double.to(dtype=real, device=device)))
            matrix = matrix.real.contiguous()
        plain: Tensor = matrix.to(dtype=wanted and wanted.to_real(), device=device)
        return plain
    entries = matrix.values() if isinstance(matrix, Tensor) else matrix.data
    if torch_type(matrix.dtype).is_complex and not (entries.imag != 0).any():
        matrix = matrix.real  # of CSR and of coordinates alike
    return _from_products(matrix, wanted, device)


def _from_products(source: Any, wanted: torch.dtype | None, device: torch.device | None) -> Operator:
    """What is known by its products alone: speaks torch, NumPy, CuPy, or does not say."""
    given = getattr(source, "dtype", None)
    own = torch.float64 if given is None else torch_type(given)
    if _speaks_torch(source):
        place, product = _place(source.device), _torch_product(source)
    elif _is_cupy(source):
        product, place = cupy_product(source)
    else:
        known = given is not None or isinstance(source, LinearOperator)
        place, product = torch.device("cpu"), (host_product if known else unknown_product)(source)
    base = _real(FromFunction(product, source.shape[0], own, place))
    if wanted is None and device is None:
        return base
    real = None if wanted is None else wanted.to_real()
    if isinstance(base, Hermitian):
        return cast(Operator, Hermitian(_converted(base.real, real, device)))
    return _converted(base, real, device)


def _torch_product(source: Any) -> Callable[[Tensor], Any]:
    """v -> source @ v of what says that it multiplies torch tensors; ValueError where it does not take their type."""
    given = source.dtype
    if given in HALF:
        return lambda v: (source @ v.to(given)).to(torch.float64)

    def product(v: Tensor) -> Any:
        try:
            return source @ v
        except RuntimeError as error:
            if "dtype" not in str(error) and "ScalarType" not in str(error):
                raise
            why = " ".join(str(error).split())[:120]
            raise ValueError(
                f"an operator must multiply vectors in float32 or float64, those of its dtype; {type(source).__name__} "
                f"of {given} does not take {v.dtype} ({why}): convert them in its product, or its numbers before"
            ) from error

    return product


def _real(base: FromFunction) -> Operator:
    """The operator itself, or the real form of a complex one."""
    if not base.dtype.is_complex:
        return base
    product = real_function(lambda v: base @ v, base.dtype)
    return cast(Operator, Hermitian(FromFunction(product, 2 * base.size, base.dtype.to_real(), base.device, True)))


def _wanted(dtype: Any) -> torch.dtype:
    """A type to work in; raises ValueError for one that is none."""
    found = dtype if isinstance(dtype, torch.dtype) else torch_type(dtype)
    if found not in KEPT:
        raise ValueError(f"an operator works in torch.float32 or torch.float64; got dtype={dtype}: pass one of them")
    return found


def _is_ours(source: Any) -> bool:
    """Whether its products are known to be fresh: an operator of this package, or one made of its `problem`."""
    return type(source).__module__.partition(".")[0] == __name__.partition(".")[0] or of_network(source)


def _place(device: torch.device | str) -> torch.device:
    """The device with its index: tensors on "cuda" say "cuda:0"; raises ValueError for one that is not there."""
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        why = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ValueError(f'device must be one that torch has here, "cpu" say; got {device!r} ({why})') from error
    if place.type == "meta":
        raise ValueError('device must be one that holds numbers, "cpu" say; got "meta"')
    return place


def _require_square(shape: Any) -> None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        raise ValueError(f"a symmetric operator is square, (N, N) with N >= 1; got shape {tuple(shape)}")


def _speaks_torch(source: Any) -> bool:
    return isinstance(getattr(source, "dtype", None), torch.dtype) and hasattr(source, "device")


def _is_cupy(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] in {"cupy", "cupyx"}
