"""The JSON form of a count, and of what a report shows of it beside the three intervals; of bounded size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from lanczos_saddle.counting.exact import SpectrumEvidence, eigenvalue_margin
from lanczos_saddle.counting.readings import answers_everywhere, closing, readings, sampled_evidence
from lanczos_saddle.counting.result import Counts, JointCounts
from lanczos_saddle.density import Density, density_of
from lanczos_saddle.operators.hermitian import real_form
from lanczos_saddle.reports.records import to_json
from lanczos_saddle.structure.zero_rows import zero_rows

POINTS = 301
"""At which the density is written."""

LINEAR = 1e-6
"""Of the largest |eigenvalue|: the symmetric-log axis of the density is linear within."""


def summary(counts: Counts) -> dict[str, Any]:
    """The JSON form: everything but the coefficients of the runs; `parameters` is N."""
    left_out = ("size", "evidence")
    fields = {f.name: getattr(counts, f.name) for f in dataclasses.fields(counts) if f.name not in left_out}
    return {"parameters": counts.size, **fields}


def details(counts: Counts, operator: Any = None, thresholds: Sequence[float] = ()) -> dict[str, Any]:
    """What a report shows beside the summary, as JSON: counts at other thresholds, and how the intervals closed.

    `readings` (`counting.readings`), `closing`, `density` at 301 points, all `eigenvalues` where they are known
    (N up to 3000) with the `margin` by which rounding may have moved each, and, of a `Hessian`, its tensors with their
    zero rows.

    Raises ValueError for an operator of another size than what was counted.

    Cost: no product, but for two of `operator`, which are said in `layers` and counted nowhere else; one
    eigendecomposition a probe for the other thresholds, some more for its own and for how the intervals closed.
    """
    _, copies = real_form(operator)  # counts are of the complex matrix
    if operator is not None and operator.shape[0] != copies * counts.size:
        raise ValueError(
            f"the operator must be the one that was counted, of N = {counts.size}; got one of N = {operator.shape[0]}"
        )
    values, known = counts.evidence.eigenvalues, counts.evidence
    tensors = () if operator is None else zero_rows(operator)
    return {
        "readings": readings(counts, thresholds),
        "closing": closing(counts),
        "density": _density(counts),
        "eigenvalues": None if values is None else values,
        "margin": eigenvalue_margin(known.values, known.check) if isinstance(known, SpectrumEvidence) else None,
        "run_noise": counts.run_noise,
        "layers": {"products": 2, "tensors": tensors} if tensors else None,
    }


def record_of(counts: Counts | JointCounts, operator: Any = None, *, name: str = "counts") -> list[dict[str, Any]]:
    """What `report` takes of a count: one JSON object for each threshold; details with the first of several.

    Raises ValueError for what is no result of `count_eigenvalues`, and for an operator of another size.
    """
    if not isinstance(counts, Counts | JointCounts):
        raise ValueError(
            f"a report is of counts around zero, as count_eigenvalues returns them; got {type(counts).__name__}"
        )
    several = counts if isinstance(counts, JointCounts) else (counts,)
    made = rows_of(counts, name)
    taus = [one.threshold for one in several] if answers_everywhere(several[0]) else []
    made[0] |= to_json(details(several[0], operator, taus))
    return made


def rows_of(counts: Counts | JointCounts, name: str) -> list[dict[str, Any]]:
    """The same without details, which take a while."""
    several = counts if isinstance(counts, JointCounts) else (counts,)
    made = [{**summary(one), "about": {"name": name}} for one in several]
    if isinstance(counts, JointCounts) and len(several) > 1:
        for one in made:
            one["joint_confidence"] = counts.confidence
    return [to_json(one) for one in made]


def _density(counts: Counts) -> dict[str, Any] | None:
    """The smoothed density per unit of arcsinh(x / linear); None where the run saw a part of the spectrum alone."""
    found = _whole_density(counts)
    top = 0.0 if found is None else float(np.abs(found.nodes).max())
    if found is None or not top:
        return None
    linear = LINEAR * top
    low, high = (float(np.arcsinh(1.2 * x / linear)) for x in (found.nodes.min(), found.nodes.max()))
    x = linear * np.sinh(np.linspace(min(low, 0.0) - 0.3, max(high, 0.0) + 0.3, POINTS))
    return {"linear": linear, "eigenvalues": x, "density": found.smooth_symlog(x, linear)}


def _whole_density(counts: Counts) -> Density | None:
    values, known = counts.evidence.eigenvalues, sampled_evidence(counts)
    if values is not None:
        size = len(values)
        return Density(values.cpu().numpy(), np.full(size, 1 / size), size, 0, 1, size, counts.products)
    if known is None or known.deflation is not None or known.exponent:
        return None
    return density_of(known.run, size=known.size, zeros=known.zeros)
