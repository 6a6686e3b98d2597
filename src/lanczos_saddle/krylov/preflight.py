"""Is this operator fit to be counted? A handful of products tells before hours are spent.

    determinism   |H v - (H v again)| / |H v|                         dropout, batch norm, sampling loaders
    asymmetry     |u'Hv - v'Hu| over |u'Hv|, root mean squares        about |H - H'|_F / |H|_F
    noise         max |(H v computed) - (H v)| / |v|                  what rounding does to one product

The noise decides how small "zero" can be (docs/method.md). An operator that can be had in float64
(``operator.to(torch.float64)``: `Hessian`, dense tensors) is compared with it; otherwise the defect of additivity
|H(sum c_i v_i) - sum c_i H v_i| is taken, which sees rounding but not a consistent error. What is let pass of the first
two counts as noise too: the recurrence takes H for symmetric, and for the same at every product.

A short recurrence from the first vector repeats its product, estimates |H|, and gives a vector along the dominant
eigenvectors, where noise is largest; the search for the largest |eigenvalue| continues it. At the end of a run one
product verifies all others (`unchanged`, `witness`): an operator that changed in between has no eigenvalues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.machine.journal import current
from lanczos_saddle.machine.memory import require_bytes
from lanczos_saddle.machine.progress import during, made
from lanczos_saddle.machine.streams import check_generator
from lanczos_saddle.machine.turns import turn
from lanczos_saddle.operators.hermitian import require_complex_linear, times_i
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import (
    Operator,
    another_way,
    arithmetic,
    as_operator,
    fidelity,
    has_float64,
    in_float64,
)
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.resolution import RESOLUTION, OperatorCheck
from lanczos_saddle.operators.scalars import real
from lanczos_saddle.operators.vectors import gaussian, held_here

VECTORS = 4
KRYLOV = 5
"""Steps of the recurrence; the first repeats a product."""

REFERENCE = 2
"""Random vectors that are compared with float64, beside the dominant one."""

PRODUCTS = VECTORS + KRYLOV + 1 + REFERENCE + 1
"""At most so many; two fewer without a float64 reference (`preflight_products`)."""

SMALLEST, LARGEST = 1e-150, 1e150
"""Squares of smaller numbers lose digits, or vanish; those of larger ones overflow."""

HELD = 14
"""Vectors (N,) held at once: four of the first block, eight of the recurrence, two that combine them."""

LINEAR = 0.01
"""Sums of products that are off by more than this share of |H| are no rounding: half precision is below it."""

CHANGED = 10.0
"""A repeated product may differ by so many times the noise; two products of one operator differ by twice at most."""


class OutOfRange(ValueError):
    """Products too large or too small for float64 norms; a power of two brings them near 1 (`scaling`)."""

    def __init__(self, magnitude: float, products: int) -> None:
        small = magnitude < 1
        super().__init__(
            f"products must not be {'smaller' if small else 'larger'} than {SMALLEST if small else LARGEST:.0e}, where "
            f"norms {'underflow' if small else 'overflow'}; the largest entry seen is {magnitude:.1e}: multiply the "
            "operator, or the loss, by a constant"
        )
        self.magnitude = magnitude
        self.products = products  # that were made for nothing


@dataclass(frozen=True)
class Preflight:
    """What the preflight measured, and what a run may go on with."""

    check: OperatorCheck
    search: Lanczos | None  # one recurrence, `KRYLOV` steps deep, from a vector that no count depends on; or dropped
    vector: Tensor  # (N,) in float64, norm 1
    image: Tensor  # (N,) H v as it was
    turns: int = 0  # how often the operator changed its way of multiplying


@led
@differentiable
def check_operator(
    operator: Any, *, threshold: float = 0.0, relative_threshold: float = 0.0, generator: torch.Generator | None = None
) -> OperatorCheck:
    """Measure determinism, symmetry and noise of anything `as_operator` takes; refuse what cannot be counted.

    Costs 11 products, 13 where there is a float64 reference. Raises ValueError when a product is not finite, and when
    two products of one vector differ, or u'Hv and v'Hu do, by more than sqrt(eps) of the operator's type: unless the
    threshold at which it will be counted, absolute or a fraction of the largest |eigenvalue|, is known and far above
    that (`resolution`).
    """
    base = as_operator(operator)
    check_generator(generator)
    threshold, relative_threshold = real("threshold", threshold), real("relative_threshold", relative_threshold)
    return preflight(base, threshold=threshold, relative_threshold=relative_threshold, generator=generator).check


def preflight_products(operator: Operator) -> int:
    """What `preflight` takes; the same for every operator of this kind and size."""
    return VECTORS + min(KRYLOV, operator.shape[0]) + 1 + (REFERENCE + 1 if has_float64(operator) else 1)


@during("preflight", lambda operator, **_: preflight_products(operator))
def preflight(
    operator: Operator,
    *,
    threshold: float = 0.0,
    relative_threshold: float = 0.0,
    generator: torch.Generator | None = None,
    basis: bool = False,
) -> Preflight:
    """As `check_operator`, with what the run goes on with. Memory: `HELD` vectors beside the operator's own.

    `basis`: whether the recurrence keeps its vectors, at every step that it will make.
    """
    compared = fidelity(operator)
    generator = generator or torch.Generator().manual_seed(0)
    size = operator.shape[0]
    needed = held_here(operator, HELD * size * 8)
    require_bytes(needed, operator.device, f"the preflight of N = {size}", "use a machine or a device with more memory")
    of_complex = getattr(operator, "complex_function", False)
    seen = _sampled(operator, generator, of_complex)
    search, krylov, repeated = _recurrence(operator, seen.vectors[:, :1], basis)
    repeats = float(_norms(repeated.sub_(seen.images[:, :1])))
    del repeated
    determinism = repeats / seen.largest if seen.largest > 0 else 0.0
    asymmetry, skew = _asymmetry(seen.form, size)
    rich, combined, largest = _dominant(search, krylov)
    krylov.clear()
    scale = max(seen.largest, largest)
    tolerance = float(torch.finfo(arithmetic(operator)).eps) ** 0.5
    if of_complex and determinism <= tolerance:
        require_complex_linear(seen.images[:, :1], seen.images[:, 1:2], tolerance)
    # E |E v|^2 = |E|_F^2 / N for random unit vectors
    defect = size**0.5 * max(repeats * (determinism > tolerance), skew * (asymmetry > tolerance))
    if RESOLUTION * defect > max(threshold, relative_threshold * scale):
        if determinism <= tolerance and another_way(operator):
            if (journal := current()) is not None:
                journal.turns += 1
            again = preflight(
                operator, threshold=threshold, relative_threshold=relative_threshold, generator=generator, basis=basis
            )
            return replace(again, turns=again.turns + 1)
        if compared is not None and compared.is_zero:
            raise ValueError(
                f"a threshold must be far above rounding; the matrix is zero within that, of norm {scale:.1e}: pass "
                f"threshold={2 * RESOLUTION * defect:.0e} or larger"
            )
        if determinism <= tolerance:
            _require_linear(operator, seen, *_noise(operator, seen, rich, combined)[:2], scale)
        _refuse(determinism, asymmetry, tolerance)
    noise, source, typical = _noise(operator, seen, rich, combined)
    if RESOLUTION * noise > max(threshold, relative_threshold * scale):
        _require_linear(operator, seen, noise, source, scale)
    noise, products = max(noise, skew, repeats), preflight_products(operator)
    check = OperatorCheck(determinism, asymmetry, noise, source, scale, products, defect, compared, typical)
    return Preflight(check, search, seen.vectors[:, 0].clone(), seen.images[:, 0].clone())


@dataclass(frozen=True)
class Sampled:
    """Products with random unit vectors, and what is kept of them."""

    vectors: Tensor  # (N, 1), or the first two where they are compared
    images: Tensor
    sums: tuple[Tensor, Tensor] | None  # (N, 1): of all vectors with signs, scaled to norm 1, and of their images
    largest: float  # norm of a product
    form: Tensor  # V'HV


def _sampled(operator: Operator, generator: torch.Generator, of_complex: bool) -> Sampled:
    """One block of products; all but what is asked for later is let go."""
    vectors = gaussian(operator, VECTORS, generator).to(operator.device)
    _to_unit(vectors)
    if of_complex:
        vectors[:, 1:2] = times_i(vectors[:, :1])
    images = _in_range(_product(operator, vectors))
    sums = None
    compared = has_float64(operator)
    if not compared:
        signs = torch.where(vectors[:, 0] @ vectors < 0, -1.0, 1.0).to(vectors)  # the sum is no shorter than a vector
        together, image = (block @ signs[:, None] for block in (vectors, images))
        norm = float(_norms(together))
        sums = together.div_(norm), image.div_(norm)
    few = slice(0, REFERENCE if compared or of_complex else 1)
    largest, form = float(_norms(images).max()), vectors.mT @ images
    return Sampled(vectors[:, few].clone(), images[:, few].clone(), sums, largest, form)


@during("check of all products", lambda *_: 1)
def unchanged(found: Preflight, operator: Operator, witness: Witness | None = None) -> str:
    """Nothing, or that a product is no longer finite; one product, of a vector of the preflight's and of the run's.

    That of the run combines all vectors that a `Witness` saw multiplied. Raises ValueError where the product differs by
    more than noise and rounding from the same combination of the products that were made: what was computed belongs to
    no operator, so that no interval is reported.
    """
    allowed = allowed_change(found.check, operator)
    vector, expected, summed = found.vector, found.image, None if witness is None else witness.scaled()
    if summed is not None:
        vector, expected, allowed = summed[0].add_(vector), summed[1].add_(expected), 2 * allowed
    image = _again(operator, vector)
    if not math.isfinite(_largest_entry(image)):
        return "a product that was finite before the run is not finite after it"
    difference = image - expected
    if not float(torch.linalg.vector_norm(difference)) <= allowed:
        _refuse_change(found, operator, difference, expected, allowed, witness)
    return ""


def allowed_change(check: OperatorCheck, operator: Operator) -> float:
    """What two products of one operator with a unit vector may differ by: noise and rounding."""
    eps = float(torch.finfo(arithmetic(operator)).eps)
    size: float = operator.shape[0] ** 0.5
    return CHANGED * (check.noise + 8 * eps * size * check.scale)


def _refuse_change(
    found: Preflight, operator: Operator, difference: Tensor, expected: Tensor, allowed: float, witness: Witness | None
) -> NoReturn:
    """Raise ValueError for an operator that is not one matrix; one product more tells when it was another."""
    rule = "the operator must stay the same while it is counted"
    change = _again(operator, found.vector) - found.image if witness is not None else difference
    if not float(torch.linalg.vector_norm(change)) <= allowed:
        relative = float(change.norm()) / max(float(found.image.norm()), SMALLEST)
        raise ValueError(
            f"{rule}; a product of the preflight, repeated at the end, differs by {relative:.1e} of its size: keep the "
            "weights, the data and the mode (model.eval()) as they are, and count again"
        )
    relative = float(difference.norm()) / max(float(expected.norm()), SMALLEST)
    widest = 1 if witness is None or witness.sums is None else witness.sums.widest
    raise ValueError(
        f"{rule}; the product of a combination of all vectors, made at the end, differs by {relative:.1e} of its size "
        f"from that combination of their products, made in blocks of up to {widest} columns: see that a block gives "
        "the products of its columns, however many, and that nothing changes in between, and count again"
    )


def _again(operator: Operator, vector: Tensor) -> Tensor:
    """One product, (N,) in float64."""
    product = (operator @ vector[:, None].to(operator.dtype)).detach().to(torch.float64)[:, 0]
    made(1)
    return product


def _recurrence(operator: Operator, start: Tensor, basis: bool = False) -> tuple[Lanczos, list[Tensor], Tensor]:
    """(a recurrence from the unit column `start`, its vectors (N,), the first product again as (N, 1))."""
    steps = min(KRYLOV, operator.shape[0])
    run = Lanczos(recorded(operator, "H"), start, reorthogonalize=basis, capacity=steps)
    vectors = [run.following[0]]
    with turn(), torch.random.fork_rng([operator.device] if operator.device.type == "cuda" else []):
        torch.manual_seed(1)  # what draws from torch's global generator shows itself
        run.advance(1)
    vectors.append(run.following[0])
    while run.steps < steps:
        run.advance(run.steps + 1)
        vectors.append(run.current[0] if run.steps >= steps - 1 else run.following[0])  # no step writes into the last
    if run.failed:
        _refuse_not_finite()
    diagonal, off = (float(c[0]) for c in run.tridiagonalization().coefficients(0))
    repeated = (diagonal * vectors[0]).add_(vectors[1], alpha=off)
    return run, vectors, repeated[:, None]


def _dominant(run: Lanczos, vectors: list[Tensor]) -> tuple[Tensor, Tensor, float]:
    """(the unit Ritz vector y of the largest |Ritz value| (N, 1), H y by the products made (N, 1), that value)."""
    diagonal, off = run.tridiagonalization().coefficients(0)
    values, rotation = eigh_tridiagonal(diagonal, off[:-1])
    chosen = int(np.abs(values).argmax())
    weights = rotation[:, chosen]
    # H Q = Q T + beta q e_k': the same combination of the products
    images = np.zeros(len(diagonal) + 1)
    images[:-1] = values[chosen] * weights
    images[-1] = off[-1] * weights[-1]
    length = len(diagonal)
    y, image = torch.zeros_like(vectors[0]), torch.zeros_like(vectors[0])
    for w, v in zip(weights.tolist(), vectors, strict=False):
        y.add_(v, alpha=w)
    for w, v in zip(images.tolist(), vectors[: length + 1], strict=True):
        image.add_(v, alpha=w)
    norm = float(torch.linalg.vector_norm(y))
    return y.div_(norm)[:, None], image.div_(norm)[:, None], float(abs(values[chosen]))


def _refuse(determinism: float, asymmetry: float, tolerance: float) -> NoReturn:
    """Raise ValueError for the defect, the first where both are there."""
    if determinism > tolerance:
        raise ValueError(
            f"two products with the same vector must agree to {tolerance:.0e}; they differ by {determinism:.1e}: "
            "switch off dropout and batch-norm updates (model.eval()) and use data that are the same at every pass"
        )
    raise ValueError(
        f"the operator must be symmetric to {tolerance:.0e}; u'Hv and v'Hu differ by {asymmetry:.1e} of their "
        "size: it is not the matrix that is meant, nor is its symmetric part; where the loss is so near zero that "
        "rounding shows, use "
        "float64 or a larger threshold"
    )


def _require_linear(operator: Operator, seen: Sampled, noise: float, source: str, scale: float) -> None:
    """Refuse what no rounding explains: products whose sums are not products of sums; one product more says why."""
    if source != "additivity" or noise <= LINEAR * scale:
        return
    again = _product(operator, seen.vectors[:, :1])
    change = float(_norms(again - seen.images[:, :1]).max()) / seen.largest if seen.largest > 0 else 0.0
    if change > LINEAR:
        raise ValueError(
            "the operator must stay the same while it is counted; a product of the preflight, repeated a few products "
            f"later, differs by {change:.1e} of its size: keep the weights, the data and the mode (model.eval()) as "
            "they are, and count again"
        )
    raise ValueError(
        f"the operator must be linear, H (u + v) = H u + H v; they differ by {noise / scale:.1e} of the largest "
        "product: let it multiply by one matrix, the same at every call, and add nothing; where the loss is so near "
        "zero that rounding shows, use float64 or a larger threshold"
    )


def _noise(operator: Operator, seen: Sampled, rich: Tensor, combined: Tensor) -> tuple[float, str, float | None]:
    """(the largest error of a product over the given unit vectors, what it was measured against, over Gaussian ones).

    The last only against float64.

    Of products that were made, of random vectors and of those that `rich` combines.
    """
    computed = _product(operator, rich)
    reference = in_float64(operator)
    if reference is not None:
        few = seen.vectors[:, :REFERENCE]
        # the reference sees the vector before it was rounded to the operator's type, as the recurrence does
        exact = recorded(reference, "H in float64") @ torch.cat([few, rich], dim=1)
        made(exact.shape[1])
        known = torch.cat([seen.images[:, : few.shape[1]], computed], dim=1)
        errors = _norms(known.sub_(exact))
        return float(errors.max()), "float64", float(errors[: few.shape[1]].max())
    assert seen.sums is not None
    vector, expected = seen.sums
    defect = float(_norms(_product(operator, vector).sub_(expected)))
    return max(defect, float(_norms(computed.sub_(combined)))), "additivity", None


def _product(operator: Operator, vectors: Tensor) -> Tensor:
    """H V in float64; raises ValueError when it is not finite."""
    product = (recorded(operator, "H") @ vectors.to(operator.dtype)).detach().to(torch.float64)
    made(product.shape[1])
    if not math.isfinite(_largest_entry(product)):
        _refuse_not_finite()
    return product


def _largest_entry(block: Tensor) -> float:
    """The largest |entry|, NaN where one is NaN; no copy."""
    return float(torch.linalg.vector_norm(block, ord=math.inf))


def _refuse_not_finite() -> NoReturn:
    raise ValueError(
        "every product H @ v must be finite; got NaN or infinity: look for them in the weights and the data, "
        "or use float64"
    )


def _in_range(images: Tensor) -> Tensor:
    """The same; raises `OutOfRange` where squares of the largest entry overflow or lose digits."""
    largest = _largest_entry(images)
    if 0 < largest < SMALLEST or largest > LARGEST:
        raise OutOfRange(largest, images.shape[1])
    return images


def _asymmetry(form: Tensor, n: int) -> tuple[float, float]:
    """(root mean square of u'Hv - v'Hu over that of u'Hv, |K v| for K = (H - H') / 2), over pairs of columns of V'HV.

    A recurrence sees K as noise: E (u'Kv)^2 = |K|_F^2 / N^2 for random unit vectors, and E |Kv|^2 = |K|_F^2 / N.
    """
    off = form - form.diagonal().diag()
    size = float(torch.linalg.matrix_norm(off))
    skew = float(torch.linalg.matrix_norm(off - off.mT))
    pairs = off.shape[0] * (off.shape[0] - 1)
    return skew / size if size > 0 else 0.0, skew / 2 * (n / pairs) ** 0.5


def _norms(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms


def _to_unit(columns: Tensor) -> None:
    """Scales columns to norm 1 in place; a zero column stays zero."""
    norms = _norms(columns)
    columns.div_(torch.where(norms > 0, norms, 1.0))
