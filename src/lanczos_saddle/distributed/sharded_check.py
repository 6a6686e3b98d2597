"""Are products with weights over ranks those of the user's model and loss? On a few samples of all ranks together.

Where every rank was given the whole model, rank 0 makes the `Hessian` of one process of the same samples, which is
compared with differences of gradients of the user's own code (`networks.comparison`); values, gradients and products
over ranks, each rank with a part of the samples, must be the same to rounding.

Where no rank has the model, there is a chain, each link against one that knows less of the machinery of slices:

    weights     as layers collect them                 against the file or the sharded parameters they came from
    values      with layers that are evaluated anew    against the user's modules as they are, with collected weights
    gradients   along a direction in which every layer weighs the same   against differences of these values
    products    against differences of these gradients, parameter by parameter
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lanczos_saddle.distributed.over_ranks import require_one_value
from lanczos_saddle.networks.batches import Batch, joined
from lanczos_saddle.networks.comparison.differences import NEARBY, SMALL
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.shards.units import Parts
from lanczos_saddle.operators.fidelity import Fidelity

if TYPE_CHECKING:
    from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
    from lanczos_saddle.distributed.weight_sources import Weights

FEW = 8
"""Samples of all ranks together."""

ALIKE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relative difference from one process, whose sums are taken in another order."""

STEPS = {torch.float64: (1e-8, 1e-5), torch.float32: (2e-3,)}
"""Of differences of gradients, relative to the size of the parameters: within the shorter one there are few kinks."""

GOOD = {torch.float64: 1e-5, torch.float32: 5e-2}
"""Relative difference of products and differences that agree."""

SLOPED = {torch.float64: (1e-6, 1e-5), torch.float32: (5e-3, 5e-2)}
"""(step, relative difference) of slopes."""

Whole = tuple[torch.nn.Module, Callable[..., Any], Mapping[str, Any]]
"""(model, loss, options of `Hessian`)."""

CHAIN = (
    "no rank has the whole model: products were compared with differences of gradients, gradients with differences of "
    "values, and values with those of the model's modules at collected weights"
)


def checked(matrix: ShardedHessian, source: Weights, given: Whole) -> Fidelity:
    """What the comparison showed; called by all ranks. Raises ValueError on all of them where products are others."""
    group = matrix.group
    matrix.check_sums()
    own, together = _few(matrix)
    judge = matrix
    if matrix.dtype != torch.float64 and matrix.offers(torch.float64):
        judge = matrix.to(torch.float64)
    own = None if own is None else judge.loss.weighed(own.to(judge.device, judge.dtype))
    batches = [] if own is None or own.weight <= 0 else [own]
    _require_one_function(judge, together)
    if source.whole:
        found = _against_one(judge, batches, together, given)
    else:
        _require_weights(matrix, source)
        found = _chain(judge, batches)
    samples = sum(group.gathered(0 if own is None else own.size))
    arithmetic = str(judge.dtype).removeprefix("torch.")
    return replace(found, samples=samples, arithmetic=arithmetic)


def _few(matrix: ShardedHessian) -> tuple[Batch | None, Batch]:
    """(this rank's part, all) of some samples that every rank has a part of, where they can be cut."""
    group, cpu = matrix.group, torch.device("cpu")
    count = max(1, FEW // group.size)
    data = matrix.loss.data
    own = group.attempted(lambda: None if data is None else data.spread(count).to(cpu, matrix.dtype))
    said = [batch for batch in group.gathered(own) if batch is not None]
    together = joined(said) if len(said) > 1 else said[0]
    if together is None:  # of different shapes
        together = said[0]
    if not together.divisible:
        return (together if group.rank == 0 else None), together
    rows = torch.tensor(range(group.rank, together.size, group.size), dtype=torch.int64)  # none on the last ranks
    return (together.chosen(rows) if len(rows) else None), together


def _require_one_function(judge: ShardedHessian, few: Batch) -> None:
    """Raises ValueError on all ranks where one has another loss on the same samples."""
    group = judge.group
    batch = group.attempted(lambda: judge.loss.weighed(few.to(judge.device, judge.dtype)))
    if group.largest(batch.weight > 0)[0]:
        value = float(judge.exchange.together(lambda: judge.loss.plain_value(judge.parts, batch, batch)))
        require_one_value(group, batch, (value, ALIKE[judge.dtype] * abs(value)))


def _directions(judge: ShardedHessian, seed: int) -> Tensor:
    """Two vectors of Gaussian entries, this rank's coordinates (n_r, 2); other numbers on every rank."""
    generator = torch.Generator().manual_seed(1000 * seed + judge.group.rank)
    size = judge.own.stop - judge.own.start
    return torch.randn(size, 2, generator=generator, dtype=torch.float64).to(judge.device, judge.dtype)


def _product(judge: ShardedHessian, batches: Iterable[Batch], rows: Tensor) -> Tensor:
    """Rows of the undivided product on these samples."""
    return judge.exchange.together(lambda: judge.multiplied(rows, batches, len(rows)))


def _against_one(judge: ShardedHessian, batches: list[Batch], few: Batch, given: Whole) -> Fidelity:
    """Against the matrix of one process, which rank 0 makes."""
    group = judge.group
    v = _directions(judge, 0)
    product = torch.cat([_product(judge, batches, v.mT), _product(judge, batches, v.mT[:1])])
    value, gradient = judge.gradient_own(batches)
    rows = judge.whole(torch.cat([product, gradient[None], v.mT]), everywhere=False)

    def compared() -> Fidelity | None:
        if rows is None:
            return None
        model, loss, options = given
        data = [(few.inputs, few.targets)]
        own = Hessian(model, loss, data, dtype=judge.dtype, device=judge.device, **options)
        shown = own.fidelity
        weight = own.problem.weight
        expected = own @ rows[4:].mT.contiguous()
        errors = {
            "products": _worst(judge, rows[:3] / weight, torch.stack([*expected.mT, expected[:, 0]])),
            "gradients": _worst(judge, rows[3:4] / weight, own.problem.gradient()[None]),
        }
        mean, there = float(value) / weight, float(own.problem.value())
        value_error = abs(mean - there) / max(abs(there), 1e-300)
        errors["values"] = (value_error, "the loss")
        for what, (error, where) in errors.items():
            if not error <= ALIKE[judge.dtype]:
                raise ValueError(_refusal(what, "those of one process", error, where))
        return replace(shown, mode="layers", error=max(shown.error, errors["products"][0]), value_error=value_error)

    shown = group.attempted(compared)
    told: Fidelity = group.gathered(shown)[0]
    return told


def _worst(judge: ShardedHessian, found: Tensor, expected: Tensor) -> tuple[float, str]:
    """(relative difference, parameter) where rows of two blocks (k, N) are furthest apart; NaN is the worst."""
    whole = float(expected.norm())
    worst, where = 0.0, ""
    for name, part in judge.layout.ranges.items():
        size = max(float(expected[:, part].norm()), SMALL * whole, 1e-300)
        error = float((found[:, part] - expected[:, part]).norm()) / size
        if not error <= worst:
            worst, where = error, name
    return worst, where


def _chain(judge: ShardedHessian, batches: list[Batch]) -> Fidelity:
    """Values, gradients and products, each against what knows less."""
    value, gradient = judge.gradient_own(batches)
    plainly = _plain_value(judge, batches, judge.parts)
    value_error = _relative(float(value), plainly)
    _require(judge, "values", "those of the model's modules as they are", value_error, ALIKE[judge.dtype])
    slope_error = _slope_error(judge, batches, gradient)
    _require(judge, "gradients", "slopes of the loss", slope_error, SLOPED[judge.dtype][1])
    error, where = _difference_error(judge, batches)
    status = "agrees"
    if not error <= GOOD[judge.dtype]:  # a kink at this very point has none of two nearby
        generator = torch.Generator().manual_seed(77 + judge.group.rank)
        away = torch.randn(len(judge.theta_own()), generator=generator, dtype=torch.float64).to(judge.theta_own())
        nearby = judge.at_own(judge.theta_own() + NEARBY * _size(judge) * away)
        error, where = _difference_error(nearby, batches)
        status = "kinks"
    _require(judge, "products", "differences of gradients", error, GOOD[judge.dtype], where)
    return Fidelity(status, "layers", error, GOOD[judge.dtype], value_error, slope_error, 0, "", (CHAIN,))


def _require_weights(matrix: ShardedHessian, source: Weights) -> None:
    """Raises ValueError on all ranks where a layer collects other numbers than there are."""
    group, exchange = matrix.group, matrix.exchange
    for index, unit in enumerate(matrix.loss.assembly.units):
        for plan, parts in zip((2 * index, 2 * index + 1), (matrix.parts.moving, matrix.parts.frozen), strict=True):
            names = [name for name in unit.names if name in parts]
            rows = [parts[name][None] for name in names]
            found = exchange.together(lambda plan=plan, rows=rows: exchange.collect(plan, rows) if rows else [])  # type: ignore[misc]
            for name, collected in zip(names, found, strict=True):
                group.attempted(lambda name=name, own=collected[0]: _require_weight(source, name, own))  # type: ignore[misc]


def _require_weight(source: Weights, name: str, own: Tensor) -> None:
    if not torch.equal(own, source.read(name).to(own)):
        raise ValueError(_refusal("weights", "those that they came from", float("nan"), name))


def _require(judge: ShardedHessian, what: str, other: str, error: float, most: float, where: str = "") -> None:
    """Raises ValueError on all ranks where they are apart."""

    def check() -> None:
        if not error <= most:
            raise ValueError(_refusal(what, other, error, where))

    judge.group.attempted(check)


def _refusal(what: str, other: str, error: float, where: str) -> str:
    place = f", most in {where!r}" if where else ""
    return (
        f"{what} of weights over ranks must be {other}; they differ by {error:.1e} of their size{place}: a layer that "
        "reads tensors beside its inputs (attributes, closures, globals), or a loss that reads parameters, is not what "
        "is evaluated here: pass them as inputs, or share the samples alone, data_parallel(Hessian(model, loss, "
        "share(data))). fidelity=False counts it all the same"
    )


def _relative(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), 1e-300)


def _plain_value(judge: ShardedHessian, batches: Iterable[Batch], parts: Parts) -> float:
    """The sum of all shares by the user's modules, without a graph."""

    def work() -> Tensor:
        value = torch.zeros((), dtype=judge.dtype, device=judge.device)
        with judge.loss.evaluating():
            for batch in judge.rounds(batches):
                value = value + judge.loss.plain_value(parts, batch, judge.lent)
        return value

    value = judge.exchange.together(work)
    judge.group.summed(value, everywhere=True)
    return float(value)


def _size(judge: ShardedHessian) -> float:
    """The root mean square of all parameters; 1 where they are zero."""
    found = float(_summed(judge, judge.theta_own().square().sum())) / max(1, judge.shape[0])
    return found**0.5 or 1.0


def _summed(judge: ShardedHessian, number: Tensor) -> Tensor:
    number = number.clone()
    judge.group.summed(number, everywhere=True)
    return number


def _norms(judge: ShardedHessian, own: Tensor) -> Tensor:
    """Of every parameter the norm of a vector's part in it, over all ranks."""
    return _summed(judge, torch.stack([part.square().sum() for part in judge.split(own).values()])).sqrt()


def _moved(judge: ShardedHessian, own: Tensor) -> Parts:
    return Parts(judge.split(judge.theta_own() + own), judge.parts.frozen)


def _slope_error(judge: ShardedHessian, batches: list[Batch], gradient: Tensor) -> float:
    """The relative difference of <gradient, v> and of values along v, in which the slopes of all parameters count."""
    norms = _norms(judge, gradient)
    sizes = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
    along = judge.split(gradient)
    noise = judge.split(_directions(judge, 2)[:, 0])
    v = torch.cat(
        [scale * (g * scale + 0.1 * z) for scale, g, z in zip(sizes, along.values(), noise.values(), strict=True)]
    )
    v_size = float(_summed(judge, v.square().sum())) ** 0.5
    if v_size == 0:
        return 0.0
    v = v / v_size * judge.shape[0] ** 0.5
    exactly = float(_summed(judge, gradient @ v))
    step = SLOPED[judge.dtype][0] * _size(judge)
    up, down = (_plain_value(judge, batches, _moved(judge, s * v)) for s in (step, -step))
    return _relative((up - down) / (2 * step), exactly)


def _difference_error(judge: ShardedHessian, batches: list[Batch]) -> tuple[float, str]:
    """The least relative difference of products and differences of gradients with any of the steps; the parameter."""
    v = _directions(judge, 1)
    product = _product(judge, batches, v.mT)[0]
    single = _product(judge, batches, v.mT[:1])[0]
    names = list(judge.parts.moving)
    best, where = float("inf"), ""
    for relative in STEPS[judge.dtype]:
        step = relative * _size(judge)
        up, down = (judge.gradient_own(batches, _moved(judge, s * v[:, 0]))[1] for s in (step, -step))
        difference = (up - down) / (2 * step)
        sizes = _norms(judge, difference)
        floor = SMALL * float(sizes.norm())
        apart = torch.maximum(_norms(judge, product - difference), _norms(judge, single - difference))
        errors = (apart / sizes.clamp(min=max(floor, 1e-300))).nan_to_num(nan=float("inf"))
        worst = int(errors.argmax())
        if float(errors[worst]) < best:
            best, where = float(errors[worst]), names[worst]
    return best, where
