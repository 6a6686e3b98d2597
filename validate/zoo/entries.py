"""What an entry of the registry is, and how it is judged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle import Hessian, assemble, count_eigenvalues
from zoo.oracle import dense_hessian

DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A matrix of the package and the same function as the user would write it."""

    build: Callable[[], Hessian]
    function: Callable[[], Tensor]  # the mean over all data, called as the user calls it
    parameters: Sequence[Tensor]  # leaves of it, in float64
    frozen: Sequence[int] = ()  # entries of theta that torch's gradient leaves alone, such as padding


@dataclass(frozen=True)
class Entry:
    """One model and loss."""

    name: str
    library: str
    given: str  # how it is handed to the package
    make: Callable[[], Case]
    expect: str  # "right" or "refused"
    way_out: Callable[[], Case] | None
    note: str


JUDGES = 1e-2
"""An oracle that is known no better than this, relative to rows and columns, judges nothing."""

ENTRY = 1e-6
"""Each entry, relative to the root of the norms of its row and column, beyond what differences know of it."""

ENTRIES: dict[str, Entry] = {}


def entry(
    name: str,
    library: str = "torch",
    given: str = "model, loss, data",
    expect: str = "right",
    way_out: Callable[[], Case] | None = None,
    note: str = "",
) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    """Register a function that makes a case."""

    def register(make: Callable[[], Case]) -> Callable[[], Case]:
        if name in ENTRIES:
            raise ValueError(f"an entry needs a name of its own; got {name} again")
        ENTRIES[name] = Entry(name, library, given, make, expect, way_out, note)
        return make

    return register


def usual(model: nn.Module, loss: Any, data: tuple[Any, Any], **options: Any) -> Case:
    """model(inputs) and loss(outputs, targets) on one pair of data, at float64."""
    inputs, targets = data

    def function() -> Tensor:
        return loss(called(model, inputs), targets)

    chosen = [p for p in model.parameters() if p.requires_grad]
    return Case(lambda: Hessian(model, loss, data, **options), function, chosen)


def called(model: nn.Module, inputs: Any) -> Any:
    """model(inputs), unpacked as the package does it."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@dataclass(frozen=True)
class Finding:
    """What became of an entry."""

    name: str
    library: str
    given: str
    verdict: str  # "right", "matrix right, not counted", "undecided", "refused; way out ...", "WRONG", "traceback", ...
    fine: bool
    parameters: int | None
    mode: str | None
    fidelity: str | None
    error: float | None  # largest |A - T|_ij / sqrt(|T_i| |T_j|)
    oracle: float | None  # what the oracle knows T to, in the same measure
    said: str  # the refusal, or what is wrong


def judge(item: Entry) -> Finding:
    """Build, assemble, count, and compare with differences of the user's own function."""
    if item.library != "torch" and find_spec(item.library) is None:
        return _finding(item, "skipped", True, said=f"{item.library} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _compared(item, _made(item), _made(item))
        except ValueError as error:
            return _refused(item, error)
        except Exception as error:
            return _finding(item, "traceback", False, said=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _made(item: Entry) -> Case:
    """From one seed each time: the package and the oracle have a model each, and neither sees what the other does."""
    torch.manual_seed(0)
    return item.make()


def _compared(item: Entry, given: Case, written: Case) -> Finding:
    matrix_of = given.build()
    matrix = assemble(matrix_of).matrix
    truth, known = dense_hessian(written.function, written.parameters)
    for index in written.frozen:
        truth[index], truth[:, index], known[index], known[:, index] = 0, 0, 0, 0
    error, good, entry_off = _entrywise(matrix, truth, known)
    if entry_off:
        verdict, said = "WRONG", entry_off
    elif good > JUDGES:
        verdict, said = "undecided", f"differences are good to {good:.0e} only"
    else:
        verdict, said = _counted(matrix_of, truth, known)
    return _finding(
        item,
        verdict,
        verdict != "WRONG" and item.expect == "right",
        parameters=len(truth),
        mode=matrix_of.mode,
        fidelity=matrix_of.fidelity.status,
        error=error,
        oracle=good,
        said=said or "; ".join(matrix_of.fidelity.notes),
    )


def _entrywise(matrix: Tensor, truth: Tensor, known: Tensor) -> tuple[float, float, str]:
    """(largest |A - T|_ij over sqrt(|T_i| |T_j|), what T is known to in that measure, the entry that is off or "").

    Rows are measured by their own size, so that a wrong entry among small ones shows; a row that is smaller than
    1e-5 of the largest is measured by that.
    """
    rows = truth.norm(dim=1)
    rows = rows.clamp(min=1e-5 * float(rows.max()))
    scale = (rows[:, None] * rows).sqrt()
    off = (matrix - truth).abs()
    worst = int((off - 10 * known - ENTRY * scale).argmax())
    i, j = divmod(worst, len(truth))
    within = bool((off <= 10 * known + ENTRY * scale).all())
    said = "" if within else f"entry ({i}, {j}) is {float(matrix[i, j]):.3e}, by differences {float(truth[i, j]):.3e}"
    return float((off / scale).max()), float((known / scale).max()), said


def _counted(matrix_of: Hessian, truth: Tensor, known: Tensor) -> tuple[str, str]:
    """Exact counts and certified intervals against the oracle's, at a threshold in the widest gap near 1e-3.

    The oracle's eigenvalues are known to |known| in the Frobenius norm (Weyl): without a gap wider than that on both
    sides of the threshold, there is nothing to compare counts with.
    """
    values = torch.linalg.eigvalsh(truth)
    sizes = values.abs().sort().values
    largest = float(sizes[-1])
    steps = torch.logspace(-4.5, -1, 71, dtype=DOUBLE) * largest
    gaps = (sizes[:, None] - steps).abs().amin(0)
    safe = gaps > 3 * float(known.norm())
    if not bool(safe.any()):
        return "matrix right, not counted", ""
    tau = float(steps[torch.where(safe, gaps / steps, -1.0).argmax()])
    wanted = [int((values < -tau).sum()), int((values.abs() <= tau).sum()), int((values > tau).sum())]
    for method in ("exact", "lanczos"):
        counts = count_eigenvalues(matrix_of, threshold=tau, method=method)
        found = (counts.negative, counts.near_zero, counts.positive)
        if not all(n in interval for n, interval in zip(wanted, found, strict=True)):
            return "WRONG", f"{method} counts {[str(i) for i in found]} at {tau:.1e}, differences {wanted}"
    return "right", ""


def _refused(item: Entry, error: ValueError) -> Finding:
    said = str(error)
    if "\n" in said or item.expect != "refused":
        return _finding(item, "refused", False, said=said[:400])
    if item.way_out is None:
        return _finding(item, "refused", True, said=said[:400])
    other = judge(Entry(item.name, item.library, item.given, item.way_out, "right", None, ""))
    verdict = f"refused; way out {other.verdict}"
    return _finding(
        item,
        verdict,
        other.fine,
        parameters=other.parameters,
        mode=other.mode,
        error=other.error,
        oracle=other.oracle,
        said=said[:400],
    )


def _finding(item: Entry, verdict: str, fine: bool, **known: Any) -> Finding:
    blank = dict.fromkeys(("parameters", "mode", "fidelity", "error", "oracle")) | {"said": ""}
    return Finding(item.name, item.library, item.given, verdict, fine, **(blank | known))
