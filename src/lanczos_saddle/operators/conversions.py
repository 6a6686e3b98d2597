"""Our operators as those of other libraries: one product of theirs is one of ours.

    scipy_operator         NumPy arrays in host memory; SciPy, PRIMME and whatever else takes a ``LinearOperator``
    cupy_operator          CuPy arrays in the same GPU memory (DLPack), for cupyx
    pylops_operator        the one of SciPy, in PyLops' own class
    curvlinops_operator    torch tensors, or lists of them in the shapes of parameters

A library is imported when it is asked for. The way back is `as_operator`, which takes all of these. A complex Hermitian
operator comes back complex, (N, N).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from lanczos_saddle.machine.extras import require
from lanczos_saddle.operators.hermitian import Hermitian, complex_vectors, real_vectors


class Convertible:
    """Methods of every operator of this package that is not a tensor; functions of the same names take anything."""

    def to_scipy(self) -> LinearOperator:
        """A scipy ``LinearOperator`` on NumPy arrays in host memory; see `to_scipy`."""
        return scipy_operator(self)

    def to_cupy(self) -> Any:
        """A ``cupyx.scipy.sparse.linalg.LinearOperator`` on arrays in the operator's own memory; see `to_cupy`."""
        return cupy_operator(self)

    def to_pylops(self) -> Any:
        """A ``pylops.LinearOperator`` on NumPy arrays; see `to_pylops`."""
        return pylops_operator(self)

    def to_curvlinops(self, shapes: Sequence[Sequence[int]] | None = None) -> Any:
        """A self-adjoint ``PyTorchLinearOperator`` of curvlinops; see `to_curvlinops`."""
        return curvlinops_operator(self, shapes)


def scipy_operator(operator: Any) -> LinearOperator:
    """As `to_scipy` says."""
    dtype, size, multiply = numpy_dtype(complex_type(operator)), complex_size(operator), complex_product(operator)

    def product(v: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if np.iscomplexobj(v) and dtype.kind != "c":  # of a real matrix, by its parts
            return product(np.real(v)) + 1j * product(np.imag(v))
        tensor = torch.as_tensor(np.require(v, dtype, ["C", "W"]), device=operator.device)
        found: np.ndarray[Any, Any] = multiply(tensor).detach().cpu().numpy()
        return found

    # symmetric: the transposed products are the same
    return LinearOperator(
        shape=(size, size), matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=dtype
    )


def cupy_operator(operator: Any) -> Any:
    """As `to_cupy` says."""
    if operator.device.type != "cuda":
        raise ValueError(
            f"CuPy multiplies in GPU memory; the operator is on {operator.device}: move it, "
            'as_operator(operator, device="cuda"), or Hessian(..., device="cuda")'
        )
    require("cupy", "cuda")
    import cupy
    from cupyx.scipy.sparse.linalg import LinearOperator as CupyOperator

    dtype, size, multiply = numpy_dtype(complex_type(operator)), complex_size(operator), complex_product(operator)
    return CupyOperator((size, size), **shared_products(multiply, cupy, dtype), dtype=dtype)


def shared_products(multiply: Callable[[Tensor], Tensor], library: Any, dtype: Any) -> dict[str, Any]:
    """The products of an operator, for arrays of a library that speaks DLPack: memory is handed over, not copied."""

    def product(v: Any) -> Any:
        given = from_dlpack(library.ascontiguousarray(v, dtype=dtype))
        return library.from_dlpack(multiply(given).detach().contiguous())

    return dict.fromkeys(("matvec", "rmatvec", "matmat"), product)


def pylops_operator(operator: Any) -> Any:
    """As `to_pylops` says."""
    require("pylops", "connect")
    import pylops

    return pylops.LinearOperator(scipy_operator(operator))


def curvlinops_operator(operator: Any, shapes: Sequence[Sequence[int]] | None = None) -> Any:
    """As `to_curvlinops` says."""
    require("curvlinops", "connect")
    from curvlinops._torch_base import PyTorchLinearOperator

    size, multiply = complex_size(operator), complex_product(operator)
    kind = complex_type(operator)
    place: torch.device = operator.device
    parts = [tuple(shape) for shape in shapes] if shapes is not None else parameter_shapes(operator)
    if sum(int(np.prod(part)) for part in parts) != size:
        raise ValueError(f"shapes must have N = {size} numbers in all; got {parts}: one shape a parameter")

    class Ours(PyTorchLinearOperator):  # type: ignore[misc]
        """The same products, for lists of tensors and for tensors."""

        SELF_ADJOINT = True

        @property
        def dtype(self) -> torch.dtype:
            """Of vectors and products."""
            return kind

        @property
        def device(self) -> torch.device:
            """Where vectors live."""
            return place

        def _matmat(self, blocks: list[Tensor]) -> list[Tensor]:
            columns = blocks[0].shape[-1]
            product = multiply(torch.cat([block.reshape(-1, columns) for block in blocks]))
            split = torch.split(product, [int(np.prod(part)) for part in parts])
            return [block.reshape(*part, columns) for block, part in zip(split, parts, strict=True)]

    return Ours(parts, parts)


def parameter_shapes(operator: Any) -> list[tuple[int, ...]]:
    """The shapes of the parameters that a curvature matrix is of; one vector for all else."""
    found = getattr(getattr(operator, "problem", None), "shapes", None)
    return [tuple(shape) for shape in found.values()] if found else [(complex_size(operator),)]


def complex_size(operator: Any) -> int:
    """N, of the complex matrix where the operator is the real form of one."""
    return operator.complex_size if isinstance(operator, Hermitian) else int(operator.shape[0])


def complex_type(operator: Any) -> torch.dtype:
    """The type of its vectors, complex where the operator is the real form of a complex one."""
    kind: torch.dtype = operator.dtype
    return kind.to_complex() if isinstance(operator, Hermitian) else kind


def complex_product(operator: Any) -> Callable[[Tensor], Tensor]:
    """v -> H v for v (N,) or (N, k), of the complex matrix where the operator is the real form of one."""
    if not isinstance(operator, Hermitian):
        return lambda v: operator @ v
    return lambda v: complex_vectors(operator @ real_vectors(v))


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's name of a type of torch."""
    return torch.empty(0, dtype=dtype).numpy().dtype
