"""A network counted: whole and in parts, beside what a plain density of the same products would have read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle import Counts, Hessian, count_eigenvalues
from lanczos_saddle.counting.evidence import SampledEvidence
from lanczos_saddle.krylov.gauss import gauss_rule
from lanczos_saddle.krylov.lanczos import Tridiagonalization
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.operators.operator import Operator, Restricted
from lanczos_saddle.reports.esd import smoothed

NAMES = ("negative", "near_zero", "positive")

Index = Callable[[Any], Tensor]
"""Of a problem with named parameters -> coordinates, ascending."""


@dataclass(frozen=True)
class Part:
    """Some parameters: those of a pattern, and of these the coordinates of an index."""

    pattern: str | Sequence[str] = "*"
    index: Index | None = None


@dataclass(frozen=True)
class Case:
    """A network that was trained."""

    make: Callable[[str | Sequence[str]], Hessian]
    """Of a pattern of parameters."""
    said: Mapping[str, Any] = field(default_factory=dict)  # of its training
    parts: Mapping[str, Part] = field(default_factory=dict)

    def operator(self, part: Part) -> Operator:
        """The Hessian in these parameters alone: a principal submatrix."""
        whole = self.make(part.pattern)
        return whole if part.index is None else Restricted(whole, part.index(whole.problem))


@dataclass(frozen=True)
class Asked:
    """What is counted, and with what."""

    relative: tuple[float, ...]
    probes: int | None
    steps: int | None
    budget: int | None
    parts: bool
    part_steps: int
    exact: bool
    seed: int


def counted(case: Case, asked: Asked) -> dict[str, Any]:
    """{"size", "gradient", "loss", "rows", "products", "seconds", "peak_bytes"}; rows: one a threshold and part."""
    result, cost = measure(lambda: _counted(case, asked), torch.device("cpu"))
    return result | {"peak_bytes": cost.peak_bytes}


def _counted(case: Case, asked: Asked) -> dict[str, Any]:
    began = time.perf_counter()
    whole = case.make("*")
    loss, gradient = float(whole.problem.value()), float(whole.problem.gradient().norm())
    joint = _count(whole, asked, {"relative_threshold": list(asked.relative)}, asked.steps)
    seconds = time.perf_counter() - began
    rows = [row("all", counts, relative) for counts, relative in zip(joint, asked.relative, strict=True)]
    taus = [counts.threshold for counts in joint]
    if asked.exact:
        judged = count_eigenvalues(whole, threshold=taus, method="exact")
        for one, counts in zip(rows, judged, strict=True):
            one["exact"] = [getattr(counts, name).lower for name in NAMES]
    size, products = whole.shape[0], joint.products
    del whole, joint
    for name, part in case.parts.items() if asked.parts else ():
        for counts, relative in zip(
            _count(case.operator(part), asked, {"threshold": taus}, asked.part_steps), asked.relative, strict=True
        ):
            rows.append(row(name, counts, relative))
    return {
        "size": size,
        "loss": loss,
        "gradient": gradient,
        "rows": rows,
        "products": products,  # of the whole network
        "seconds": seconds,
    }


def _count(operator: Operator, asked: Asked, tau: Mapping[str, Any], steps: int | None) -> Any:
    return count_eigenvalues(
        operator,
        **tau,
        method="lanczos",
        probes=asked.probes,
        steps=None if steps is None else min(steps, operator.shape[0]),
        max_products=asked.budget,
        precision=1e-6,  # all steps are made
        preconditioner=None,
        generator=torch.Generator().manual_seed(asked.seed),
    )


def row(part: str, counts: Counts, relative: float) -> dict[str, Any]:
    """What a record says of one count."""
    known = counts.evidence
    return {
        "part": part,
        "size": counts.size,
        "relative_threshold": relative,
        "threshold": counts.threshold,
        **{name: getattr(counts, name) for name in NAMES},
        "confidence": counts.confidence,
        "dead": counts.dead,
        "noise": counts.noise,
        "probes": counts.probes,
        "steps": counts.steps,
        "products": counts.products,
        "spent": dict(counts.spent),
        "seconds": counts.seconds,
        "plain": readings(known.run, counts.size, counts.dead, counts.threshold)
        if isinstance(known, SampledEvidence)
        else None,
    }


def readings(run: Tridiagonalization, size: int, zeros: int, tau: float) -> dict[str, list[float]]:
    """What stochastic Lanczos quadrature without intervals makes of the same products, in counts.

    weights    of the Ritz values in each of the three ranges, the mean over probes
    smoothed   the same under Gaussians, as `get_esd_plot` of PyHessian lays them, summed on its axis

    `zeros` coordinates that the run left out are an atom at 0.
    """
    rules = [gauss_rule(*run.coefficients(i)) for i in range(run.probes)]
    longest = max(len(rule.nodes) for rule in rules)
    living, atom = (size - zeros) / size, zeros / size
    nodes = [np.concatenate([r.nodes, np.full(longest - len(r.nodes), r.nodes[-1]), [0.0]]) for r in rules]
    weights = [np.concatenate([living * r.weights, np.zeros(longest - len(r.weights)), [atom]]) for r in rules]
    x, w = np.concatenate(nodes), np.concatenate(weights) / len(rules)
    density, axis = smoothed([list(one) for one in nodes], [list(one) for one in weights])
    share = density * (axis[1] - axis[0])

    def three(at: Any, mass: Any) -> list[float]:
        return [size * float(mass[inside].sum()) for inside in (at < -tau, abs(at) <= tau, at > tau)]

    return {"weights": three(x, w), "smoothed": three(axis, share)}


def head(layer: int, number: int, heads: int) -> Part:
    """One head of a GPT-2: its columns of queries, keys and values, and its rows of the matrix that follows."""
    prefix = f"transformer.h.{layer}.attn"

    def index(problem: Any) -> Tensor:
        found = []
        for name in problem.names:
            shape, place = problem.shapes[name], problem.ranges[name]
            inside = torch.zeros(*shape, dtype=torch.bool)
            if "c_attn" in name:
                inside.view(*shape[:-1], 3, heads, -1)[..., number, :] = True
            elif name.endswith("c_proj.weight"):
                inside.view(heads, -1, shape[1])[number] = True
            found.append(place.start + inside.flatten().nonzero().squeeze(1))
        return torch.cat(found)

    return Part(f"{prefix}.*", index)
