"""The Hessian of a recognized network (`layers`), as one matrix, by large matrix products.

Unit i of layer l has the parameters theta_li (its row of W_l, its bias) with features x_l = [a_{l-1}; 1]. Summed over
samples, then divided by their weight:

    block (l i, l j)   sum_s K_l[i, j] x_l x_l'
    block (m i, l j)   sum_s (K_m J_ml)[i, j] x_m x_l' + delta_m[i] [D_{m-1} J_{m-1,l} e_j; 0] x_l'            m > l

About n N^2 multiplications and additions together, where N products take more than six times as many, and fewer where
many samples share the value of a feature (background pixels): with x = y + b for the median b of every feature,

    X'CX = Y'CY + (Y'C1) b' + b (Y'C1)' + (1'C1) b b',         C = diag of K[i, j] over the samples,

and Y'CY is taken one feature p at a time, over the samples with y_p != 0, for all pairs i >= j and features q >= p at
once. That is one matrix product, (pairs, samples) x (samples, features); under a loss that is a sum over outputs only
the pairs i = i of the last layer are left.

A formula is one more thing that can be wrong, so `compare` measures it against products: |(A - H) v| for ten Gaussian v
bounds |A - H|_2 as in `sylvester`. Where float32 resolves little of H, `as_exact` measures both against float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lanczos_saddle.machine.progress import stage
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import Operator, precise
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.structure.layers import Layer, Samples, curvature_times, evaluate, flat_inputs, recognize, separable

ROUNDING = 8.0
"""A closed form may differ from products by this many times what rounding does to the products themselves. Where
softmax is saturated, H is what is left of terms that cancel, to fewer digits in either way (measured: 1.3 times)."""

DENSE = 0.6  # features with a larger share of nonzeros are taken over all samples: a gather costs more


@dataclass(frozen=True)
class Agreement:
    """A matrix A beside products H v of Gaussian v."""

    error: float  # the largest |(A - H) v|
    products: int  # spent
    holds: bool  # A is as good as products are


def compare(operator: Operator, matrix: Operator, tolerance: float, *, vectors: int = 10) -> Agreement:
    """Whether A = `matrix` is the operator: |(A - H) v| <= tolerance |H v|, or else what rounding does to products.

    The second is |H (u + v) - H u - H v| of neighbors u, v, times ROUNDING; measured only where the first fails.
    Cost: `vectors` products, or twice as many.
    """
    operator, probes = recorded(operator, "H"), _probes(matrix, vectors)
    images = operator @ probes
    error = float(_norms(matrix @ probes - images).max())
    if error <= tolerance * float(_norms(images).min()):
        return Agreement(error, vectors, True)
    again, sums = probes.clone(), images + images.roll(1, 1)
    again[:, 1:] += probes.roll(1, 1)[:, 1:]
    sums[:, 0] = images[:, 0]  # one product is made a second time: what changes from pass to pass is no rounding
    defects = _norms(operator @ again - sums)
    same = float(defects[0]) <= torch.finfo(images.dtype).eps ** 0.5 * float(_norms(images).max())
    return Agreement(error, 2 * vectors, same and error <= ROUNDING * float(defects[1:].max()))


def as_exact(operator: Operator, matrix: Tensor, factor: float, *, vectors: int = 10) -> bool:
    """Whether A = `matrix` is off float64 products by at most `factor` times what the operator's own products are.

    False where there are no float64 products to be had, or where the operator's are these. Cost: `vectors` products of
    either type.
    """
    exactly = precise(operator)
    if exactly.dtype != torch.float64:
        return False
    probes = _probes(matrix, vectors)
    images = exactly @ probes.double()
    off, own = (torch.linalg.vector_norm(found - images) for found in (matrix @ probes, operator @ probes))
    return bool(off <= factor * own)


def _probes(matrix: Operator, vectors: int) -> Tensor:
    """Gaussian columns (N, vectors), of the matrix's type and on its device; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(matrix.shape[0], vectors, generator=generator, dtype=torch.float64)
    return probes.to(matrix.device, matrix.dtype)


def _norms(columns: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms


def fill(operator: object, matrix: Tensor, *, progress: bool = False) -> bool:
    """Matrix (N, N) <- the operator, exactly symmetric; False where it is not a recognized one in float64.

    False, too, where the loss cannot be differentiated twice in the outputs alone, as one that looks at parameters.
    Cost: one pass over n samples, about n N^2 flops, and `operator.memory` bytes.
    """
    if not isinstance(operator, Curvature) or type(operator) not in (Hessian, GaussNewton):
        return False
    problem = operator.problem
    layers = recognize(problem)
    if not layers or problem.dtype != matrix.dtype or problem.device != matrix.device:
        return False
    try:
        return _fill(operator, matrix, layers, progress=progress)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a loss of anybody's: products serve
        return False


def _fill(operator: Curvature, matrix: Tensor, layers: list[Layer], *, progress: bool) -> bool:
    problem = operator.problem
    matrix.zero_()
    diagonal = separable(problem, layers)
    limit = max(1, operator.memory // (matrix.element_size() * numbers_per_sample(layers, diagonal=diagonal)))
    with problem.evaluating(), stage("assembly", unit="sample", shown=progress) as told:
        for batch in problem.batches(limit):
            x = flat_inputs(problem, batch)
            if x is None:
                return False
            samples = evaluate(problem, layers, batch, x, residual=type(operator) is Hessian, diagonal=diagonal)
            _add(matrix, layers, samples)
            told.advance(batch.size)
    matrix /= problem.weight
    _complete(matrix, layers)
    return True


Between = tuple[Tensor, Tensor, Tensor]
"""K_m J_ml, delta_m and D_{m-1} J_{m-1,l} of a pair of layers."""

Block = tuple[Tensor, Tensor, Tensor]  # rows, columns, H[rows, columns]


def blocks(operator: object, dtype: torch.dtype, memory: int, *, progress: bool = False) -> Iterator[Block] | None:
    """The same, a few finished blocks at a time: every entry or its mirror image once. None where `fill` says False.

    A pass over the data for as many blocks as fit into `memory` bytes beside those of the operator; the layers are
    evaluated again in every pass. An error of the loss comes out of the iterator.
    """
    if not isinstance(operator, Curvature) or type(operator) not in (Hessian, GaussNewton):
        return None
    layers = recognize(operator.problem)
    if not layers or operator.problem.dtype != dtype:
        return None
    return _blocks(operator, layers, memory, progress)


@dataclass(frozen=True)
class Part:
    """Blocks of one layer by itself, pairs i, j of its units; or of a layer with a lower one, units i of the former."""

    low: int
    high: int
    i: Tensor
    j: Tensor
    sums: tuple[int, ...]  # their shape

    @property
    def numbers(self) -> int:
        """Of all sums."""
        return math.prod(self.sums)


def _parts(layers: list[Layer], limit: int, diagonal: bool) -> Iterator[Part]:
    """All blocks, each part of at most `limit` numbers or one block."""
    for low, layer in enumerate(layers):
        if not layer.features:
            continue
        i, j = _pairs(layer.coordinates, diagonal and low == len(layers) - 1)
        width = layer.features
        for a, b in zip(*(torch.split(x, max(1, limit // width**2)) for x in (i, j)), strict=True):
            yield Part(low, low, a, b, (len(a), width, width))
        for high in range(low + 1, len(layers)):
            if layers[high].features:
                units = torch.arange(layers[high].units, device=i.device)
                shape = layers[high].features, layer.units * width
                for a in torch.split(units, max(1, limit // math.prod(shape))):
                    yield Part(low, high, a, a, (len(a), *shape))


def _blocks(operator: Curvature, layers: list[Layer], memory: int, progress: bool) -> Iterator[Block]:
    problem, waiting, held = operator.problem, list[Part](), 0
    diagonal = separable(problem, layers)
    limit = memory // problem.theta.element_size()
    parts = list(_parts(layers, limit, diagonal))
    with stage("assembly", len(parts), unit="block", shown=progress) as told:
        for part in [*parts, None]:
            if waiting and (part is None or held + part.numbers > limit):
                yield from _finished(operator, layers, waiting, diagonal)
                told.advance(len(waiting))
                waiting, held = [], 0
            if part is not None:
                waiting, held = [*waiting, part], held + part.numbers


def _finished(operator: Curvature, layers: list[Layer], parts: list[Part], diagonal: bool) -> Iterator[Block]:
    """The blocks of these parts, from one pass over the data."""
    problem = operator.problem
    sums = [problem.theta.new_zeros(part.sums) for part in parts]
    limit = max(1, operator.memory // (problem.theta.element_size() * numbers_per_sample(layers, diagonal=diagonal)))
    with problem.evaluating():
        for batch in problem.batches(limit):
            x = flat_inputs(problem, batch)
            if x is None:
                raise ValueError(f"a network of layers takes tensors (n, d); got {type(batch.inputs).__name__}")
            samples = evaluate(problem, layers, batch, x, residual=type(operator) is Hessian, diagonal=diagonal)
            _sum(sums, parts, layers, samples)
    for part, total in zip(parts, sums, strict=True):
        total /= problem.weight
        rows, columns = layers[part.high].coordinates, layers[part.low].coordinates
        for i, j, block in zip(part.i.tolist(), part.j.tolist(), total, strict=True):
            if part.low == part.high:
                yield rows[i], columns[j], block.triu() + block.triu(1).mT
            else:
                yield rows[i], columns.reshape(-1), block


def _sum(sums: list[Tensor], parts: list[Part], layers: list[Layer], samples: Samples) -> None:
    """Sums += these samples."""
    features = [layer.augmented(a) for layer, a in zip(layers, samples.inputs, strict=True)]
    for low in {part.low for part in parts}:
        mine = [(part, total) for part, total in zip(parts, sums, strict=True) if part.low == low]
        for part, total in mine:
            if part.high == low:
                for p, rows in _feature_rows(_of_pairs(samples.curvatures[low], part.i, part.j), features[low]):
                    total[:, p, p:] += rows
        above = _above(layers, low, samples) if any(part.high > low for part, _ in mine) else ()
        for high, between in above:
            for part, total in mine:
                if part.high == high:
                    for place, unit in enumerate(part.i.tolist()):
                        total[place] += _across_rows(layers[high], unit, between, (features[high], features[low]))


def numbers_per_sample(layers: list[Layer], *, diagonal: bool) -> int:
    """What one sample takes at the widest moment: while a curvature is made, a diagonal block, or one across layers."""
    units, features = [layer.units for layer in layers], [layer.features for layer in layers]
    squares = [n * n for n in units[:-1]] + [units[-1] if diagonal else units[-1] ** 2]
    beside = sum(4 * n + layer.weight.shape[1] for n, layer in zip(units, layers, strict=True))
    pairs = [n * (n + 1) // 2 for n in units[:-1]] + [units[-1] if diagonal else units[-1] * (units[-1] + 1) // 2]
    curved = [
        sum(squares[low + 1 :]) + units[low] * (3 * units[low] + units[low + 1]) for low in range(len(layers) - 1)
    ]
    blocks = [2 * p + 5 * w for p, w in zip(pairs, features, strict=True)]
    across = [
        units[low] * _numbers_across(units, features, low, high) for high in range(len(layers)) for low in range(high)
    ]
    return beside + max([*curved, sum(squares) + max([*blocks, *across])])


def _numbers_across(units: list[int], features: list[int], low: int, high: int) -> int:
    """For each unit of the lower layer, of a pair of layers: D J, J, K J and the products for a unit of the higher one.

    While those of a pair are made, those of the pair before it are still held.
    """
    used = units[high - 1] + 2 * units[high] + features[high]
    if high == low + 1:
        return used
    before = units[high - 2] + 2 * units[high - 1]
    return max(used, before + units[high - 1] + 2 * units[high])


def _add(matrix: Tensor, layers: list[Layer], samples: Samples) -> None:
    """Matrix += the sums over these samples: diagonal blocks in half, of the others those with m > l."""
    features = [layer.augmented(a) for layer, a in zip(layers, samples.inputs, strict=True)]
    for low, layer in enumerate(layers):
        if not layer.features:
            continue
        _add_diagonal(matrix, layer.coordinates, samples.curvatures[low], features[low])
        for high, between in _above(layers, low, samples):
            ends = layers[high], layer
            _add_across(matrix, ends, *between, (features[high], features[low]))


def _above(layers: list[Layer], low: int, samples: Samples) -> Iterator[tuple[int, Between]]:
    """(m, (K_m J_ml, delta_m, D_{m-1} J_{m-1,l})) for the layers m > l that are selected."""
    jacobian = None
    for high in range(low + 1, len(layers)):
        slope = samples.slopes[high - 1]
        inner = slope.diag_embed() if jacobian is None else slope[:, :, None] * jacobian  # D J
        jacobian = layers[high].weight @ inner
        if layers[high].features:
            yield high, (curvature_times(samples.curvatures[high], jacobian), samples.gradients[high], inner)


def _add_diagonal(matrix: Tensor, coordinates: Tensor, curvature: Tensor, x: Tensor) -> None:
    """Block (i, j), i >= j, += sum_s K[i, j] x_p x_q for q >= p."""
    i, j = _pairs(coordinates, curvature.ndim == 2)
    for p, block in _feature_rows(_of_pairs(curvature, i, j), x):
        matrix[coordinates[i, p][:, None], coordinates[j, p:]] += block


def _pairs(coordinates: Tensor, diagonal: bool) -> tuple[Tensor, Tensor]:
    """The units (i, j), i >= j, of a layer whose blocks are not zero."""
    count, device = len(coordinates), coordinates.device
    if diagonal:
        return (torch.arange(count, device=device),) * 2
    i, j = torch.tril_indices(count, count, device=device)
    return i, j


def _of_pairs(curvature: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """K[i, j] (s, pairs)."""
    return curvature[:, i] if curvature.ndim == 2 else curvature[:, i, j]


def _feature_rows(pairs: Tensor, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(p, sum_s K[i, j] x_p x_q for q >= p (pairs, w - p)), feature by feature."""
    base = _background(x)
    y = x - base
    mean, total = pairs.mT @ y, pairs.sum(0)[:, None]  # Y'C1 (pairs, w), 1'C1 (pairs, 1)
    order = (y == 0).to(torch.uint8).argsort(dim=0, stable=True)  # samples with y_p != 0 come first
    for p, count in enumerate((y != 0).sum(0).tolist()):
        block = mean[:, p, None] * base[p:] + base[p] * (mean[:, p:] + total * base[p:])
        if count:
            weights, tail, scale = pairs, y[:, p:], y[:, p : p + 1]
            if count < DENSE * len(y):
                rows = order[:count, p]
                weights, tail, scale = (part.index_select(0, rows) for part in (weights, tail, scale))
            if weights.shape[1] < tail.shape[1]:
                weights = weights * scale
            else:
                tail = tail * scale
            block.addmm_(weights.mT, tail)
        yield p, block


def _background(x: Tensor) -> Tensor:
    """(w,) the value of a feature in most samples where that is worth a shift, else 0."""
    median = x.median(dim=0).values
    return torch.where((x == median).sum(0) > (1 - DENSE) * len(x), median, 0.0)


def _add_across(
    matrix: Tensor,
    ends: tuple[Layer, Layer],
    outer: Tensor,
    gradient: Tensor,
    inner: Tensor,
    features: tuple[Tensor, Tensor],
) -> None:
    """Block (m i, l j) += sum_s (outer[i, j] x_m + gradient[i] [inner e_j; 0]) x_l'."""
    high, low = ends
    columns = low.coordinates.reshape(-1)
    for i, rows in enumerate(high.coordinates):
        matrix[rows[:, None], columns] += _across_rows(high, i, (outer, gradient, inner), features)


def _across_rows(
    high: Layer, i: int, between: tuple[Tensor, Tensor, Tensor], features: tuple[Tensor, Tensor]
) -> Tensor:
    """The sum of block (m i, l j) for unit i and all j (w_m, n_l w_l)."""
    (outer, gradient, inner), (x_high, x_low) = between, features
    weights = x_high[:, :, None] * outer[:, i, None, :]  # (s, w_m, n_l)
    if high.inner:
        weights[:, : inner.shape[1]].addcmul_(gradient[:, i, None, None], inner)
    block = weights.reshape(len(x_low), -1).mT @ x_low
    return block.reshape(x_high.shape[1], -1)


def _complete(matrix: Tensor, layers: list[Layer]) -> None:
    """The rest by symmetry."""
    for low, layer in enumerate(layers):
        for i, rows in enumerate(layer.coordinates):
            for columns in layer.coordinates[: i + 1]:
                half = matrix[rows[:, None], columns].triu()
                block = half + half.triu(1).mT
                matrix[rows[:, None], columns] = block
                matrix[columns[:, None], rows] = block
        for high in layers[low + 1 :]:
            for rows in high.coordinates:
                for columns in layer.coordinates:
                    matrix[columns[:, None], rows] = matrix[rows[:, None], columns].mT
