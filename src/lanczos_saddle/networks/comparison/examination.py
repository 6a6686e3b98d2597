"""Which mode multiplies with the user's own function, and how far that has been shown (`fidelity`).

choose_mode   lightly, when the matrix is made: a few samples, the first mode that agrees
examine       thoroughly, before a count: samples of every batch, two steps, values, slopes and products
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import torch

from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.comparison.differences import (
    COARSE,
    LOPSIDED,
    ROUNDING,
    SLOPE,
    Comparison,
    lightly,
    suspicion,
    thoroughly,
)
from lanczos_saddle.networks.refusals import once_only
from lanczos_saddle.operators.fidelity import ZERO, Fidelity
from lanczos_saddle.operators.operator import has_float64

Curvature: TypeAlias = Any
"""A matrix of `curvature`, one floor up."""

MODES = ("forward", "reverse", "autograd")
"""In the order in which they are tried. Forward derivatives of an embedding do not know its `padding_idx`: there the
second one is the first."""

SAMPLES = 512
"""Samples that are compared thoroughly, of all the data."""


LIFTED = "in float64 its float32 constants are taken as they are"
"""Said of a function that closes over tensors which nobody converts."""


def choose_mode(matrix: Curvature, few: Batch) -> None:
    """Take the first mode that multiplies and, where it is asked for, agrees with differences on a few samples.

    What cannot be judged on so few is left to `examine`. Raises ValueError where no mode multiplies, or all differ.
    """
    failures: list[Exception] = []
    wrong: Comparison | None = None
    judge = in_double(matrix) if matrix.checked else None
    moved = few if judge is None else few.to(judge.device, judge.dtype)
    for mode in modes(matrix):
        matrix.mode = mode
        try:
            if judge is None or judge.dtype != matrix.dtype:
                multiply(matrix, few)
            if judge is None:
                return
            judge.mode = mode
            with turn(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = lightly(judge, judge.problem.weighed(moved))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # forward code of anybody's
            failures.append(error)
            continue
        if found.verdict != "differs":
            return
        wrong = found
    if wrong is None:
        last = failures[-1]  # by plain autograd, which does the most
        raise once_only(last) from last
    raise refusal(matrix, wrong)


def examine(matrix: Curvature) -> Fidelity:
    """Compare values, slopes and products on samples of every batch; take the next mode where one differs.

    Cost: at most ten evaluations of the samples compared, in float64, and where the rule of the batches' weights is not
    known two evaluations of all the data. Raises ValueError where every mode differs, and where batches do not add up.
    """
    problem = matrix.problem
    problem.check_sums(matrix.plan(1)[0])
    sample = problem.sample(min(SAMPLES, matrix.plan(1)[0]))
    judge = in_double(matrix)
    sample = sample.to(judge.device, judge.dtype)
    lifted = [LIFTED] if judge.problem.lifting else []
    notes = tuple(dict.fromkeys([*problem.notes(), *judge.problem.notes(), *lifted]))
    value_error = judge.problem.value_error(judge.problem.weighed(sample))
    wrong = None
    for mode in modes(matrix, start=matrix.mode):
        judge.mode = mode
        matrix.mode = mode
        try:
            found = thoroughly(judge, judge.problem.weighed(sample))
        except torch.OutOfMemoryError:
            raise
        except Exception:
            if wrong is None:  # the mode that was chosen multiplied a few samples
                raise
            continue
        if found.verdict != "differs":
            return _result(matrix, found, value_error, notes)
        wrong = found
    raise refusal(matrix, wrong)


def take_next_mode(matrix: Curvature) -> bool:
    """Whether a later mode multiplies; it is taken."""
    for mode in list(modes(matrix, start=matrix.mode))[1:]:
        matrix.mode = mode
        try:
            multiply(matrix, matrix.problem.trial())
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the next one, then
            continue
        return True
    return False


def modes(matrix: Curvature, start: str | None = None) -> Iterator[str]:
    """The modes that may be tried, from `start` on."""
    offered = list(MODES) if matrix.problem.functional else list(MODES[2:])
    if len(offered) > 1 and matrix.problem.still():
        offered = ["reverse", "forward", "autograd"]
    return iter(offered[offered.index(start) if start in offered else 0 :])


def in_double(matrix: Curvature) -> Curvature:
    """The matrix in float64 where the model evaluates in it, else a copy in its own type; its mode may be set."""
    double = copy.copy(matrix)
    if has_float64(matrix):
        with suppress(ValueError):  # twice the memory of a sample
            double = matrix.to(torch.float64)
    double.problem = copy.copy(double.problem)
    return double


def multiply(matrix: Curvature, batch: Batch) -> None:
    """One product on one sample, for what it raises.

    What torch warns of (the first forward derivative in a process loads code that does) concerns no product.
    """
    batch = matrix.problem.weighed(batch.part(0, 1))
    row = torch.randn(1, matrix.problem.size, generator=torch.Generator().manual_seed(0)).to(
        matrix.device, matrix.dtype
    )
    with turn(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix.local(matrix.problem.theta, batch, row.to(matrix.device, matrix.dtype))


def refusal(matrix: Curvature, wrong: Comparison | None) -> ValueError:
    """What differs, by how much, which operation is suspected, and how to write it instead."""
    if wrong is None:
        return ValueError("torch must differentiate the model and the loss twice; no mode multiplies")
    seen = getattr(matrix.problem, "survey", None)
    first_order = wrong.where == SLOPE
    what = (
        (
            "the loss jumps at its parameters, where it has no derivatives (a cut to integers, a comparison?)"
            if wrong.slope == float("inf")
            else f"the slope of the loss differs from its gradient by {wrong.slope:.1e} of its size"
        )
        if first_order
        else f"products differ from differences of the model's gradients by {wrong.error:.1e} of their size, most in "
        f"{wrong.where!r}"
        if wrong.where != LOPSIDED
        else f"{LOPSIDED} differ, though both are second derivatives"
    )
    return ValueError(
        f"the Hessian must be that of the model's own loss; {what}: a derivative of torch's or the model's is wrong; "
        + suspicion(seen.operations if seen else (), seen.custom if seen else (), first_order=first_order)
        + ". fidelity=False counts it all the same"
    )


def _result(matrix: Curvature, found: Comparison, value_error: float, notes: tuple[str, ...]) -> Fidelity:
    """What is said of a comparison that did not differ."""
    if found.where == ROUNDING:
        notes = (*notes, ZERO)
    blurred = "coarse" if found.error <= COARSE else "undecided"
    return Fidelity(
        blurred if found.verdict == "blurred" else found.verdict,
        matrix.mode,
        found.error,
        found.tolerance,
        value_error,
        found.slope,
        found.samples,
        str(matrix.arithmetic).removeprefix("torch."),
        notes,
    )
