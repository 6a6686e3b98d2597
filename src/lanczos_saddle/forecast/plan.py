"""What a count will take, said before it is made: for every way memory by part, products, time and width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from lanczos_saddle.counting.count import decides_elimination, decides_exact, least_budget
from lanczos_saddle.counting.eliminated import eliminated_block
from lanczos_saddle.counting.exact import INERTIA_SIZE
from lanczos_saddle.counting.options import Asked, Options, thresholds
from lanczos_saddle.counting.planning import SINGLE, check_budget, keep_basis
from lanczos_saddle.defaults import EXACT_SIZE
from lanczos_saddle.dense.exact import CHECKED
from lanczos_saddle.forecast import footprints
from lanczos_saddle.forecast.known import Known, Way
from lanczos_saddle.forecast.ranks import Sharing, as_ranks_ask, sharing_of
from lanczos_saddle.forecast.rehearsal import WIDEST, Rehearsal, Terms, rehearse
from lanczos_saddle.forecast.shards import shards_of
from lanczos_saddle.forecast.table import GIB, lines
from lanczos_saddle.forecast.ways import OWN, every_way, shape_of_run
from lanczos_saddle.krylov.preflight import SMALLEST, OutOfRange
from lanczos_saddle.machine.measuring import settled
from lanczos_saddle.machine.memory import available_bytes, free_bytes
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.refusals import bytes_of
from lanczos_saddle.operators.hermitian import Hermitian
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.knowledge import NOTHING
from lanczos_saddle.operators.operator import Operator, as_operator
from lanczos_saddle.operators.scaling import exponent_to_one, scaled, times
from lanczos_saddle.structure.know import know
from lanczos_saddle.structure.layers import recognize


@dataclass(frozen=True)
class Forecast:
    """What every way to count takes, and which one `count_eigenvalues` would choose with the same options.

    On several ranks `ways` say what rank 0 takes, each other one, and how long all take together.
    """

    size: int  # N
    dtype: str
    device: str
    threshold: float | None  # tau; None where it is relative and no pilot was made
    free: int  # bytes that may be used beyond the problem
    held: Mapping[str, int]  # bytes of the problem itself: weights, data
    ways: tuple[Way, ...]
    missing: Mapping[str, str]  # ways that there are not, and why
    chosen: str  # the way that a count would take
    reason: str  # why
    products: Mapping[str, int]  # spent on this forecast, by purpose
    seconds_per_product: float | None  # the median, a column of a block
    seconds_range: tuple[float, float] | None  # of the fastest and of the slowest block
    columns: int  # of that block
    blocks: int  # that were timed
    ranks: int  # processes that share the count
    over: str  # what they share: "data", "probes", "vectors", "weights" or "all"
    link: float | None  # bytes a second between them, as assumed; None where there is one process

    @property
    def choice(self) -> Way | None:
        """The way that a count would take; None where what it takes is not known."""
        return self.way(self.chosen)

    def way(self, name: str) -> Way | None:
        """By its name; None where there is none."""
        return next((way for way in self.ways if way.name == name), None)

    def __str__(self) -> str:
        return "\n".join(lines(self))


@differentiable
def plan(
    operator: Any,
    *,
    memory: int | None = None,
    directory: str | Path | None = None,
    pilot: bool = True,
    ranks: int = 1,
    over: Literal["data", "probes", "vectors", "weights", "all"] = "data",
    link: float | None = None,
    **options: Unpack[Asked],
) -> Forecast:
    """What each way to count takes: memory by part, products, seconds, the width to expect, and whether it fits.

    The beginning of the count is made for real: preflight, largest |eigenvalue|, and the recurrence that foretells
    widths, by the products that a count with these options would make; then blocks of products are timed. Memory is
    measured on both, the rest is closed forms in N, probes and steps. What several ranks take follows from what one
    process takes.

    Args:
        operator: as of `count_eigenvalues`, whole, in one process.
        memory: bytes that may be used beyond the problem, which is there; what is free if not given. Of several ranks
            what each may use; if not given, they share what is free here.
        directory: where a triangle may lie that memory does not hold.
        pilot: False: only blocks are timed. Widths are then unknown, and so is what hangs on them.
        ranks: of a count on so many processes: memory of rank 0 and of each other one, products and seconds.
        over: what ranks share: "data" (`data_parallel`), "probes" (`probe_parallel`), "vectors" (`vector_parallel`; a
            matrix that is no Hessian is taken to multiply slices by itself, each rank its part), "weights"
            (`weight_parallel`) or "all" (`vector_parallel(weight_parallel(...))`).
        link: bytes a second between ranks, where there are several; 1e9 if not given, which is not measured.
        options: threshold, relative_threshold, method, confidence, precision, probes, steps, max_products,
            reorthogonalize, preconditioner, generator: as of `count_eigenvalues`. The generator is copied.

    Cost: 11 products (13 in float32), the search of the largest |eigenvalue|, 2, a recurrence of 24 steps (with a
    budget a twelfth of it, at most 160; 133 where an S may pay), and five blocks of at most 8, or 17 of them up to
    N = 20,000: `Forecast.products`.

    Validity: from N = 1e4 to 1e7 peaks of plain runs were within 20 % of measured ones, on a network of 7,510 within
    30 % (validate/plan_peaks.py); on two ranks over data, probes, weights, and vectors of a matrix within 20 %
    (validate/plan_ranks.py). Widths are foretold of spectra about even in log |lambda|; without a basis they close
    later.

    Raises:
        ValueError: where `count_eigenvalues` would before its long part; where no way fits into `memory`, with what
            would.
    """
    if hasattr(operator, "led_by_one"):
        raise ValueError(
            "a plan is made by one process, of the matrix of all samples; got one that ranks share: pass the Hessian "
            "with ranks=R, or on the command line plan --ranks R without torchrun"
        )
    if unknown := set(options) - set(Asked.__annotations__):
        raise TypeError(f"plan() got an unexpected keyword argument {min(unknown)!r}")
    base = as_operator(operator)
    one, several = thresholds(options.get("threshold"), options.get("relative_threshold"))
    generator = options.get("generator")
    copied = None if generator is None else generator.clone_state()
    asked = Options(**{**options, **one, "generator": copied})
    if several:
        asked = asked.jointly(next(iter(several.values())), base)
    limit = None if memory is None else bytes_of(memory)
    if limit is not None and limit < 1:
        raise ValueError(f"memory must be a positive number of bytes; got {limit}")
    shared = sharing_of(base, ranks, over, link)
    asked = as_ranks_ask(asked, base, shared)
    means = Means(limit, None if directory is None else Path(directory), pilot, shared)
    if isinstance(base, Hermitian):
        asked.check_complex()
        return _halved(_scaled(base.real, base.real, asked, means))
    return _scaled(operator, base, asked, means)


@dataclass(frozen=True)
class Means:
    """What there is, and what may be spent."""

    memory: int | None  # bytes that may be used; what is free if None
    directory: Path | None
    pilot: bool
    sharing: Sharing
    spent: int = 0  # products that were out of range, before


@settled()
def _scaled(operator: Any, base: Operator, options: Options, means: Means) -> Forecast:
    """The forecast, of 2^e H where squares of what H makes would overflow or vanish."""
    try:
        return _forecast(operator, base, options, means)
    except OutOfRange as found:
        exponent = exponent_to_one(found.magnitude)
        if options.made is not None or exponent == 0:
            raise
        tau = options.threshold
        options = replace(options, threshold=None if tau is None else max(times(tau, exponent), SMALLEST))
        larger = scaled(base, exponent)
        made = _forecast(larger, larger, options, replace(means, spent=found.products))
        return replace(made, threshold=None if made.threshold is None else times(made.threshold, -exponent))


def _halved(found: Forecast) -> Forecast:
    """Of a complex operator, from its real form, where every eigenvalue is there twice."""
    ways = [replace(way, width=None if way.width is None else -(-way.width // 2)) for way in found.ways]
    return replace(found, size=found.size // 2, ways=tuple(ways))


def _forecast(operator: Any, base: Operator, options: Options, means: Means) -> Forecast:
    options.check(base)
    limit, spent, sharing = means.memory, means.spent, means.sharing
    free, decided = free_bytes(base.device, limit), available_bytes(base.device) if limit is None else limit
    if limit is None:  # ranks on this machine
        free, decided = free // sharing.ranks, decided // sharing.ranks
    shards = shards_of(base) if sharing.weights > 1 and isinstance(base, Curvature) else None
    knowledge = know(operator) if shards is None else NOTHING  # of layers that nobody has whole
    samples = _samples(base)
    product = footprints.multiplying(base) if shards is None else shards.multiplying(base.shape[0], samples)
    exact = decides_exact(base, options, decided)
    eliminate = not exact and decides_elimination(knowledge, options)
    if eliminate:
        eliminated_block(knowledge)
    least, enough = (
        least + spent for least in least_budget(operator, base, exact, knowledge if eliminate else None, options)
    )
    check_budget(options.max_products, least, enough, exact, options.probes)
    _refuse_beginning(base, product, free if sharing.ranks == 1 else max(free, free_bytes(base.device)))
    most = knowledge.negative_at_most
    known = Known(base, options, knowledge, free, means.directory, product, Rehearsal(), most, samples, sharing, shards)
    terms = Terms(options, decided, most, least, spent, sliced=sharing.vectors > 1)
    made = rehearse(base, terms, pilot=means.pilot, columns=_columns(known), timed=shards)
    known = replace(known, made=made)
    size = known.drawn if shards is None else known.size
    known = replace(known, product=_measured(product, made, size, chunked=isinstance(base, Curvature)))
    ways, missing = every_way(known)
    chosen, reason = _chosen(base, known, ways, decided)
    if not any(way.fits for way in ways):
        _refuse(ways, free)
    pace = made.pace
    assert pace is not None
    return Forecast(
        base.shape[0],
        str(base.dtype).removeprefix("torch."),
        str(base.device),
        made.pilot.threshold if made.pilot else options.threshold,
        free,
        held(base),
        ways,
        missing,
        chosen,
        reason,
        made.spent,
        pace.product,
        (min(pace.products) / pace.columns, max(pace.products) / pace.columns),
        pace.columns,
        len(pace.products),
        sharing.ranks,
        sharing.over,
        None if sharing.ranks == 1 else sharing.link,
    )


def held(operator: Operator) -> dict[str, int]:
    """Bytes of the problem itself."""
    if not isinstance(operator, Curvature):
        own = (
            [t for t in vars(operator).values() if isinstance(t, torch.Tensor)] if hasattr(operator, "__dict__") else []
        )
        matrix = operator.nbytes if isinstance(operator, torch.Tensor) else sum(t.nbytes for t in own)
        return {"matrix": matrix}
    problem = operator.problem
    weights = problem.theta.nbytes + sum(t.nbytes for t in getattr(problem, "frozen", {}).values())
    resident = getattr(getattr(problem, "data", None), "resident", None)
    if resident is None:
        return {"weights": weights}
    from lanczos_saddle.networks.batches import tensors

    return {"weights": weights, "data": sum(t.nbytes for t in tensors((resident.inputs, resident.targets)))}


def _samples(operator: Operator) -> int | None:
    return operator.problem.samples if isinstance(operator, Curvature) else None


def _columns(known: Known) -> int:
    """Probes of the block that is timed: as many as a run will have, and as fit."""
    wanted = max(1, min(shape_of_run(known)[0], WIDEST, known.size))
    room = known.free - footprints.LIBRARIES - known.product.kept
    while wanted > 1 and sum(footprints.run(known.size, wanted, known.product).values()) > room:
        wanted //= 2
    return wanted


def _measured(product: footprints.Multiplying, made: Rehearsal, size: int, *, chunked: bool) -> footprints.Multiplying:
    """With the bytes that timed blocks took beside their vectors."""
    if made.ran is None or made.pace is None:
        return product
    columns = made.pace.columns
    vectors = (footprints.RUNNING * columns + SINGLE - 3) * footprints.FLOAT * size  # no vector of a preflight was held
    return product.measured(max(0, made.ran - vectors), columns, chunked)


def _chosen(base: Operator, known: Known, ways: tuple[Way, ...], decided: int) -> tuple[str, str]:
    """(the way that `count_eigenvalues` takes with these options, why)."""
    options, size, pilot = known.options, base.shape[0], known.made.pilot
    way = "eigenvalues" if size <= INERTIA_SIZE else "inertia"
    if options.method == "exact":
        return way, 'method="exact" was asked for'
    if decides_exact(base, options, decided):
        if options.max_products is None:
            return way, f"N is at most {EXACT_SIZE}, and nothing was chosen that only a recurrence has"
        return way, "all eigenvalues cost no more than is allowed"
    left = known.left
    alone = known.sharing.ranks == 1
    layers = recognize(base.problem) if alone and isinstance(base, Curvature) and base.dtype == torch.float64 else []
    if layers and options.open and left is not None and size <= EXACT_SIZE and left >= CHECKED:
        return "eigenvalues", "its matrix has a closed form"
    if decides_elimination(known.knowledge, options):
        asked = options.method == "elimination"
        return "eliminated", 'method="elimination" was asked for' if asked else "one layer holds almost all parameters"
    made = options.made
    if made is not None:
        return made if isinstance(made, str) else OWN, "a preconditioner was asked for"
    plan = None if pilot is None else pilot.chosen
    if pilot is not None and plan is not None:
        if pilot.small:
            part = f" at {len(pilot.small)} of {1 + len(options.beside)} thresholds" if options.beside else ""
            return "subset", f"without an S an interval of {plan.width} is foretold{part}"
        if plan.way == "deflated":
            return "deflated", f"foretold to be narrower: {plan.width}"
    plain = next(way for way in ways if way.name == "plain, basis kept")
    keep = keep_basis(options.reorthogonalize, known.seen, plain.probes, plain.steps, decided)
    if options.reorthogonalize != "auto":
        return "plain, basis kept" if keep else "plain", f"reorthogonalize={options.reorthogonalize} was asked for"
    if keep:
        return "plain, basis kept", "its basis fits into half of what may be used"
    return "plain", "a basis takes more than half of what may be used"


def _refuse_beginning(base: Operator, product: footprints.Multiplying, free: int) -> None:
    """Refuse before a product is made what no way can begin; raises ValueError with the numbers."""
    parts = footprints.beginning(base.shape[0], product)
    needed = footprints.LIBRARIES + sum(parts.values())
    if needed > free:
        raise ValueError(
            f"a count of N = {base.shape[0]} begins with {needed / GIB:.2f} GiB (vectors "
            f"{parts['vectors'] / GIB:.2f}, products {parts['products'] / GIB:.2f}); "
            f"{max(0, free) / GIB:.2f} GiB may be used: raise memory, pass fewer parameters, or dtype=float32, or make "
            "the Hessian with less memory"
        )


def _refuse(ways: tuple[Way, ...], free: int) -> None:
    """Raise ValueError: none fits."""
    least = min(ways, key=lambda way: way.peak)
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in least.parts.items() if size)
    raise ValueError(
        f"no way to count fits into {free / GIB:.2f} GiB; the least is {least.peak / GIB:.2f} GiB, {least.name} "
        f"({parts}): raise memory, or {least.instead}"
    )
