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


JUDGES = 1e-3
"""An oracle that is known no better than this, relative to the matrix, judges nothing."""

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
    error: float | None  # |A - T| / |T|
    oracle: float | None  # what the oracle knows T to, relative
    said: str  # the refusal, or what is wrong


def judge(item: Entry) -> Finding:
    """Build, assemble, count, and compare with differences of the user's own function."""
    if item.library != "torch" and find_spec(item.library) is None:
        return _finding(item, "skipped", True, said=f"{item.library} is not installed")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _compared(item, item.make())
        except ValueError as error:
            return _refused(item, error)
        except Exception as error:
            return _finding(item, "traceback", False, said=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _compared(item: Entry, case: Case) -> Finding:
    matrix_of = case.build()
    truth, known = dense_hessian(case.function, case.parameters)
    for index in case.frozen:
        truth[index], truth[:, index] = 0, 0
    matrix = assemble(matrix_of).matrix
    size = float(truth.norm())
    error = float((matrix - truth).norm()) / size
    coarse = {"float64": 1e-6}.get(matrix_of.fidelity.arithmetic, 1e-2)
    exactly = matrix_of.fidelity.arithmetic == "float64"
    said = _counts_differ(matrix_of, truth) if exactly else ""
    verdict = "right" if exactly else "matrix right, not counted"
    if not error <= max(coarse, 10 * known / size):
        said = f"the matrix is {error:.1e} off"
    if said:
        verdict = "WRONG"
    elif known > JUDGES * size:
        verdict = "undecided"
    return _finding(
        item,
        verdict,
        verdict != "WRONG" and item.expect == "right",
        parameters=len(truth),
        mode=matrix_of.mode,
        fidelity=matrix_of.fidelity.status,
        error=error,
        oracle=known / size,
        said=said or "; ".join(matrix_of.fidelity.notes),
    )


def _counts_differ(matrix_of: Hessian, truth: Tensor) -> str:
    """Exact counts and certified intervals against the oracle's, at a threshold in the widest gap near 1e-3."""
    values = torch.linalg.eigvalsh(truth)
    sizes = values.abs().sort().values
    largest = float(sizes[-1])
    steps = torch.logspace(-4.5, -1.5, 61, dtype=DOUBLE) * largest
    gaps = ((sizes[:, None] - steps).abs() / steps).amin(0)
    tau = float(steps[gaps.argmax()])
    wanted = [int((values < -tau).sum()), int((values.abs() <= tau).sum()), int((values > tau).sum())]
    for method in ("exact", "lanczos"):
        counts = count_eigenvalues(matrix_of, threshold=tau, method=method)
        found = (counts.negative, counts.near_zero, counts.positive)
        if not all(n in interval for n, interval in zip(wanted, found, strict=True)):
            return f"{method} counts {[str(i) for i in found]} at {tau:.1e}, differences {wanted}"
    return ""


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
