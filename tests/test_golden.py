"""Golden numbers: what every method answers on fixed operators, thresholds and seeds, by the public face alone.

They guard changes that must not change an answer: files that move, names, options, the way that work is booked. The
expected numbers lie in golden.json beside this file, and are remade, all or those of some cases, by

    python tests/test_golden.py --write [CASE ...]

They may only change together with the reason, in the commit that changes them: "the pilot draws from another stream",
say, never "numbers updated". `git diff tests/golden.json` shows which ones moved.

Integers and words must be the same, floats to `RELATIVE`, estimates to `ESTIMATE_RELATIVE`. All have to survive
another CPU, BLAS and number of threads, where products differ by 1e-16 of their size and coefficients of a recurrence
by much more once Ritz values have converged. So everything is drawn in float64, thresholds stand in gaps of the
spectra, recurrences are short or reorthogonalized, weights that training would make are kept (`golden_store/`), and
what is only rounding, such as the noise of a product or a margin, is bounded and not pinned. Interval ends are steps
of a smooth number; those here stayed when weights and matrices were moved by 1e-9 of their size, and under vector
instructions of another width. A case where one moves elsewhere is an unlucky choice: give it another seed or threshold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lanczos_saddle import (
    Counts,
    GaussNewton,
    Hessian,
    Inertia,
    Interval,
    Lanczos,
    Projected,
    Restricted,
    Shifted,
    as_operator,
    assemble,
    check_operator,
    classify,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    negative_count_by_elimination,
    negative_eigenvectors,
    recount,
    softmax_shift,
    spectral_density,
    to_scipy,
)
from lanczos_saddle.cli.entry import main

HERE = Path(__file__).parent
NUMBERS = HERE / "golden.json"
STORE = HERE / "golden_store"

RELATIVE = 1e-6
"""Of floats: far above what another machine's rounding does to them, far below what another seed or formula does."""

ABSOLUTE = 1e-9
"""Of floats that are zero, or sums that cancel; eigenvalues and counts here are of the order of 1."""

ESTIMATE_RELATIVE, ESTIMATE_ABSOLUTE = 1e-4, 1e-3
"""Of sampled estimates: brackets are padded by the root of the measured noise, which is the machine's.

Vector instructions of another width move them by up to 2e-5 of their size, another seed by a percent and more.
"""

F64 = torch.float64
CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """A function without arguments whose result, of dicts, lists, numbers and words, is pinned under its name."""
    CASES[function.__name__] = function
    return function


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# fixed operators


def gaussian(*shape: int, seed: int) -> Tensor:
    """Drawn in float64; the one source of everything random that is counted."""
    drawn: Tensor = torch.randn(*shape, generator=generator(seed), dtype=F64)
    return drawn


def matrix() -> Tensor:
    """(240, 240): 60 eigenvalues in [-2, -0.2], 100 within 1e-3, 80 in [0.3, 4]; a gap of a factor 200 around tau."""
    values = torch.cat([torch.linspace(-2, -0.2, 60), torch.linspace(-1e-3, 1e-3, 100), torch.linspace(0.3, 4, 80)])
    return rotated(values.double(), seed=1)


def dense_bulk() -> Tensor:
    """(240, 240): no gaps, eigenvalues a linear ladder from -1 to 3, tau in the middle between two of them."""
    return rotated(torch.linspace(-1, 3, 240, dtype=F64), seed=2)


def rotated(values: Tensor, seed: int) -> Tensor:
    basis = torch.linalg.qr(gaussian(len(values), len(values), seed=seed)).Q
    product = (basis * values) @ basis.mT
    symmetric: Tensor = (product + product.mT) / 2
    return symmetric


def hermitian() -> Tensor:
    """(60, 60) complex: 15 eigenvalues in [-2, -0.5], 20 within 1e-3, 25 in [0.5, 3]."""
    values = torch.cat([torch.linspace(-2, -0.5, 15), torch.linspace(-1e-3, 1e-3, 20), torch.linspace(0.5, 3, 25)])
    basis = torch.linalg.qr(torch.complex(gaussian(60, 60, seed=3), gaussian(60, 60, seed=4))).Q
    product = (basis * values.double()) @ basis.mH
    symmetric: Tensor = (product + product.mH) / 2
    return symmetric


def filled(model: nn.Module, seed: int, size: float) -> nn.Module:
    """In float64, weights drawn here and not by torch.nn, whose initialization may change."""
    model = model.double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(size * gaussian(*parameter.shape, seed=1000 * seed + number))
    return model


def samples(count: int, features: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, one of which is blank in all the data, and labels that depend on them."""
    inputs = gaussian(count, features, seed=seed)
    inputs[:, -1] = 0
    scores = inputs.abs() @ gaussian(features, classes, seed=seed + 1)
    return inputs, scores.argmax(1)


def network() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """ReLU and cross-entropy, which structure knows most of; N = 174, 10 of them dead, at most 30 negative."""
    model = filled(nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)), seed=5, size=0.5)
    return model, nn.CrossEntropyLoss(), samples(150, 12, 4, seed=60)


def smooth_network() -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], list[tuple[Tensor, Tensor]]]:
    """Tanh and a squared error, batches of unequal size; no structure is recognized."""
    model = filled(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), seed=7, size=0.7)
    inputs, targets = gaussian(50, 6, seed=8), gaussian(50, 3, seed=9)
    return model, nn.MSELoss(), [(inputs[:32], targets[:32]), (inputs[32:], targets[32:])]


def wide_network() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """N = 3027, beyond the 3000 of exact counts, with 21 parameters outside the first layer."""
    model = filled(nn.Sequential(nn.Linear(500, 6), nn.ReLU(), nn.Linear(6, 3)), seed=10, size=0.3)
    return model, nn.CrossEntropyLoss(), samples(40, 500, 3, seed=11)


def linear_network() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """A linear net 3-2-3 at the origin: a strict saddle whose counts are known, (6, 0, 6)."""
    model = filled(nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)), seed=0, size=0.0)
    inputs = torch.eye(3, dtype=F64).repeat(4, 1)
    return model, nn.MSELoss(), (inputs, inputs * torch.tensor([1.0, 2.0, 3.0], dtype=F64))


def convolution() -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    layers = nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(48, 3)
    return filled(nn.Sequential(*layers), seed=12, size=0.4), nn.CrossEntropyLoss(), images()


def images() -> tuple[Tensor, Tensor]:
    return gaussian(20, 1, 6, 6, seed=13), torch.arange(20) % 3


@cache
def relu() -> Hessian:
    return Hessian(*network())


@cache
def tanh() -> Hessian:
    return Hessian(*smooth_network())


@cache
def gauss_newton() -> GaussNewton:
    return GaussNewton(*network())


@cache
def wide() -> Hessian:
    return Hessian(*wide_network())


@cache
def convolved() -> Hessian:
    return Hessian(*convolution())


RELU_TAU, GAUSS_NEWTON_TAU, FIRST_TAU, SMOOTH_TAU, WIDE_TAU = 2.24e-3, 1.8e-3, 1.13e-3, 4e-3, 6e-4
"""In gaps: 6 % at least to the next eigenvalue on either side."""


# what is pinned of a result

SIDES, ENDS = ("negative", "near_zero", "positive"), ("lower", "estimate", "upper")


def interval(found: Interval) -> list[float]:
    return [found.lower, found.estimate, found.upper]


def counted(found: Counts) -> dict[str, Any]:
    """Intervals and what they took."""
    assert found.negative.lower + found.near_zero.lower + found.positive.lower <= found.size
    return {
        "negative": interval(found.negative),
        "near_zero": interval(found.near_zero),
        "positive": interval(found.positive),
        "threshold": found.threshold,
        "confidence": found.confidence,
        "method": found.method,
        "size": found.size,
        "dead": found.dead,
        "products": found.products,
        "probes": found.probes,
        "steps": found.steps,
        "noise below": power_above(found.noise),
    }


def power_above(noise: float) -> str:
    """Of noise only the order of magnitude, with three more for other machines."""
    return "1e-12" if noise < 1e-12 else "1e-4" if noise < 1e-4 else "more"


def count(operator: Any, threshold: float | None, seed: int = 0, **options: Any) -> dict[str, Any]:
    return counted(count_eigenvalues(operator, threshold=threshold, generator=generator(seed), **options))


def held(operator: Any, threshold: float, exact: tuple[int, ...], seed: int, **options: Any) -> dict[str, Any]:
    """In float32, whose noise moves the ends and asks for more products: that the exact counts lie within."""
    found = count_eigenvalues(operator, threshold=threshold, generator=generator(seed), **options)
    inside = [n in side for n, side in zip(exact, (found.negative, found.near_zero, found.positive), strict=True)]
    pinned = {name: value for name, value in counted(found).items() if name not in (*SIDES, "products")}
    return pinned | {"inside": inside}


def exact_at(operator: Any, threshold: float) -> tuple[int, ...]:
    values = exact_eigenvalues(operator)
    below, above = int((values < -threshold).sum()), int((values > threshold).sum())
    return below, len(values) - below - above, above


def signs(found: Inertia) -> dict[str, Any]:
    assert found.margin < 1e-9 < found.separation
    return {"below": found.below, "above": found.above, "threshold": found.threshold, "certain": found.holds_for(1e-12)}


def moments(values: Tensor) -> list[float]:
    """Sums that all eigenvalues enter, and the two ends."""
    return [float(x) for x in (len(values), values.sum(), values.square().sum(), values.min(), values.max())]


# exact


@case
def exact_counts() -> Any:
    """All eigenvalues, of matrices, networks, float32, a complex matrix; by inertia beyond N = 3000."""
    return {
        "matrix": count(matrix(), 0.02, method="exact"),
        "automatic": count(matrix(), 0.02),
        "relative threshold": count(matrix(), None, relative_threshold=5e-3),
        "relu": count(relu(), RELU_TAU, method="exact"),
        "tanh": count(tanh(), SMOOTH_TAU, method="exact"),
        "gauss-newton": count(gauss_newton(), GAUSS_NEWTON_TAU, method="exact"),
        "float32": count(Hessian(*network(), dtype=torch.float32), RELU_TAU, method="exact"),
        "complex": count(hermitian(), 0.02, method="exact"),
        "tiny numbers": count(matrix() * 2.0**-600, 0.02 * 2.0**-600, method="exact"),
        "one layer": count(Hessian(*network(), parameters="2.*"), RELU_TAU, method="exact"),
    }


@case
def exact_values() -> Any:
    return {
        "matrix": moments(exact_eigenvalues(matrix())),
        "complex": moments(exact_eigenvalues(hermitian())),
        "relu": moments(exact_eigenvalues(relu())),
        "tanh": moments(exact_eigenvalues(tanh())),
        "gauss-newton": moments(exact_eigenvalues(gauss_newton())),
        "convolution": moments(exact_eigenvalues(convolved())),
        "linear net at the origin": exact_eigenvalues(Hessian(*linear_network())).tolist(),
    }


@case
def inertias() -> Any:
    return {
        "lapack": signs(inertia(matrix(), -0.02, method="lapack")),
        "blocked": signs(inertia(matrix(), 0.02, method="blocked", generator=generator(1))),
        "relu": [signs(inertia(relu(), t)) for t in (-RELU_TAU, RELU_TAU)],
        "complex": signs(inertia(hermitian(), 0.02)),
    }


@case
def exact_by_inertia() -> Any:
    """Beyond N = 3000."""
    return count(wide(), WIDE_TAU, method="exact")


@case
def assembled() -> Any:
    """Closed form or products, and how many it took."""
    found = {}
    for name, operator in {
        "relu": relu(),
        "tanh": tanh(),
        "convolution": convolved(),
        "gauss-newton": gauss_newton(),
        "function": as_operator(lambda v: matrix() @ v, 240, dtype=F64),
    }.items():
        dense = assemble(operator)
        found[name] = [dense.products, float(dense.matrix.trace()), float(dense.matrix.norm())]
        assert dense.asymmetry < 1e-10
        assert dense.error < 1e-10
    return found


# operators


@case
def products() -> Any:
    """H v for a fixed v, and what the preflight says."""
    energy, place = energies()
    operators: dict[str, Any] = {
        "relu": relu(),
        "tanh": tanh(),
        "convolution": convolved(),
        "gauss-newton": GaussNewton(*smooth_network()),
        "of a function": Hessian.of(energy, place),
        "projected": Projected(matrix(), torch.eye(240, 3, dtype=F64)),
        "shifted": Shifted(matrix(), 0.5),
        "restricted": Restricted(matrix(), torch.arange(0, 240, 3)),
    }
    found = {}
    for name, operator in operators.items():
        size = operator.shape[0]
        image = operator @ gaussian(size, 3, seed=20)
        check = check_operator(operator, generator=generator(4))
        assert max(check.determinism, check.asymmetry, check.noise) < 1e-10
        weights = torch.linspace(-1, 1, size, dtype=F64)
        found[name] = {
            "size": size,
            "image": [*(weights @ image).tolist(), float(image.norm())],
            "preflight": [check.products, check.scale, check.noise_source],
        }
    through = to_scipy(matrix()) @ gaussian(240, seed=21).numpy()
    return {**found, "to scipy": [float(through.sum()), float(np.linalg.norm(through))]}


def energies() -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A chain of particles: neither a network nor a loss."""
    place = gaussian(30, seed=22).requires_grad_()

    def energy() -> Tensor:
        return (place.diff().square() - 1).square().sum() / 4 + place.cos().sum()

    return energy, [place]


@case
def recurrence() -> Any:
    """Coefficients of Lanczos; later ones depend on rounding more and more."""
    run = Lanczos(matrix(), gaussian(240, 2, seed=23)).extend(12)
    return {"diagonal": run.diagonal.tolist(), "offdiagonal": run.offdiagonal.tolist(), "norms": run.norms.tolist()}


@case
def null_vectors() -> Any:
    shift = softmax_shift(relu().problem)
    assert shift is not None
    return {
        "shape": list(shift.shape),
        "residual is rounding": bool((relu() @ shift).norm() < 1e-12),
        "counted beside": count(relu(), RELU_TAU, 2, method="lanczos", probes=4, steps=30, null_vectors=shift),
    }


# sampled


@case
def sampled_matrices() -> Any:
    few: dict[str, Any] = {"method": "lanczos", "probes": 3, "steps": 20, "precision": 1e-6}
    return {
        "gaps": count(matrix(), 0.02, **few),
        "no gaps": count(dense_bulk(), 0.5, **few),
        "another seed": count(dense_bulk(), 0.5, 1, **few),
        "one probe, less sure": count(dense_bulk(), 0.5, 2, **{**few, "probes": 1}, confidence=0.8),
        "without a basis": count(dense_bulk(), 0.5, 3, **few, reorthogonalize=False),
        "with a basis": count(dense_bulk(), 0.5, 3, **{**few, "steps": 45}, reorthogonalize=True),
        "planned probes": count(dense_bulk(), 0.5, 4, method="lanczos", steps=25),
        "wanted precision": count(matrix(), 0.02, 5, method="lanczos", probes=8, precision=0.2),
        "relative threshold": count(matrix(), None, 6, **few, relative_threshold=5e-3),
        "at most": count(dense_bulk(), 0.5, 7, **few, negative_at_most=70),
        "complex": count(hermitian(), 0.02, 8, method="lanczos", probes=3, steps=15),
        "float32": held(matrix().float(), 0.02, (60, 100, 80), 9, **few),
        "tiny numbers": count(matrix() * 2.0**-600, 0.02 * 2.0**-600, **few),
        "shifted": count(Shifted(dense_bulk(), 0.25), 0.5, 10, **few),
        "a function": count(as_operator(lambda v: dense_bulk() @ v, 240, dtype=F64), 0.5, 11, **few),
    }


@case
def sampled_networks() -> Any:
    few: dict[str, Any] = {"method": "lanczos", "probes": 5, "steps": 30}
    single = Hessian(*network(), dtype=torch.float32)
    return {
        "relu": count(relu(), RELU_TAU, **few),
        "relu, without a basis": count(relu(), RELU_TAU, 1, **{**few, "steps": 14}, reorthogonalize=False),
        "tanh": count(tanh(), SMOOTH_TAU, 2, **few),
        "gauss-newton": count(gauss_newton(), GAUSS_NEWTON_TAU, 3, **few),
        "float32": held(single, RELU_TAU * 9, exact_at(relu(), RELU_TAU * 9), 4, **few),
        "convolution": count(convolved(), 5e-3, 5, **few),
        "one layer": count(Hessian(*network(), parameters="0.*"), FIRST_TAU, 6, **few),
        "linear net": count(Hessian(*linear_network()), 0.1, 7, method="lanczos"),
        "of a function": count(Hessian.of(*energies()), 0.4, 8, method="lanczos", probes=4, steps=12),
    }


@case
def budgets() -> Any:
    """How a number of products is divided: the pilot, the search for a relative threshold, halves."""
    free: dict[str, Any] = {"method": "lanczos", "precision": 1e-6}
    return {
        "matrix": count(dense_bulk(), 0.5, 1, max_products=600, **free),
        "small": count(dense_bulk(), 0.5, 2, max_products=100, **free),
        "with probes": count(dense_bulk(), 0.5, 3, max_products=300, probes=6, **free),
        "with steps": count(dense_bulk(), 0.5, 4, max_products=300, steps=30, **free),
        "relu": count(relu(), RELU_TAU, 5, max_products=400, **free),
        "relu, relative": count(relu(), None, 6, relative_threshold=3e-3, max_products=500, **free),
        "enumerated": count(relu(), RELU_TAU, 7, max_products=500, enumerate_negative=True, **free),
        "eliminated": count(relu(), RELU_TAU, 8, max_products=700, method="elimination", precision=1e-6),
        "ekfac": count(relu(), RELU_TAU, 9, max_products=300, preconditioner="ekfac", **free),
    }


@case
def resumed() -> Any:
    """A state that is gone on with gives the intervals of one run; `state` is a public option."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"method": "lanczos", "probes": 4, "precision": 1e-6, "state": Path(folder, "run")}
        return [count(dense_bulk(), 0.5, 12, steps=steps, **options) for steps in (10, 25)]


@case
def another_threshold() -> Any:
    """From the products of one run: recount, and a band that holds at all thresholds at once."""
    exact = count_eigenvalues(matrix(), threshold=0.02, method="exact")
    sampled = count_eigenvalues(
        dense_bulk(), threshold=0.5, method="lanczos", probes=4, steps=30, generator=generator(13)
    )
    bounded = count_eigenvalues(relu(), threshold=RELU_TAU, method="elimination", probes=4, steps=30)
    assert sampled.evidence is not None
    band = sampled.evidence.band(np.array([-0.5, -0.1, 0.1, 0.5, 2.0]), 0.9)
    return {
        "exact": counted(recount(exact, 1.0)),
        "sampled": counted(recount(sampled, 1.0)),
        "eliminated": counted(recount(bounded, 10 * RELU_TAU)),
        "band": [band.thresholds.tolist(), band.lower.tolist(), band.upper.tolist(), band.confidence],
    }


# preconditioned, enumerated, eliminated


@case
def preconditioned() -> Any:
    few: dict[str, Any] = {"probes": 3, "steps": 30, "precision": 1e-6}
    largest = float(exact_eigenvalues(relu()).abs().max())
    own = torch.diag(1 + torch.rand(240, generator=generator(14), dtype=F64))
    return {
        "ekfac": count(relu(), RELU_TAU, preconditioner="ekfac", **few),
        "ekfac, without a basis": count(
            relu(), RELU_TAU, 1, preconditioner="ekfac", reorthogonalize=False, **{**few, "steps": 12}
        ),
        "subset": count(relu(), RELU_TAU, 2, preconditioner="subset", **few),
        "auto, none": count(relu(), RELU_TAU, 3, method="lanczos", preconditioner="auto", **few),
        "auto, subset": count(relu(), 5e-5 * largest, 4, method="lanczos", preconditioner="auto", **few),
        "gauss-newton": count(gauss_newton(), GAUSS_NEWTON_TAU, 5, preconditioner="ekfac", **few),
        "of one's own": count(matrix(), 0.02, 6, preconditioner=own, **few),
    }


@case
def enumerated() -> Any:
    few: dict[str, Any] = {"method": "lanczos", "probes": 4, "steps": 30, "precision": 1e-6}
    check = check_operator(matrix(), generator=generator(15))
    found = negative_eigenvectors(matrix(), 0.02, check, generator=generator(16))
    return {
        "matrix": count(matrix(), 0.02, enumerate_negative=True, **few),
        "relu": count(relu(), RELU_TAU, 1, enumerate_negative=True, **few),
        "tanh": count(tanh(), SMOOTH_TAU, 2, enumerate_negative=True, **few),
        "directly": [found.at_least, found.products, len(found.values), *moments(found.values)],
    }


@case
def eliminated() -> Any:
    found = negative_count_by_elimination(relu(), RELU_TAU)
    assert found.margin < 1e-6 * RELU_TAU
    names = ("lower", "upper", "threshold", "layer", "eliminated", "remaining", "rank", "iterations", "products")
    return {
        "relu": count(relu(), RELU_TAU, method="elimination", probes=4, steps=30),
        "where fewer are negative": count(relu(), 0.33, method="elimination", probes=4, steps=30),
        "automatic, beyond N = 3000": count(wide(), WIDE_TAU, 1, precision=0.05),
        "directly": {name: getattr(found, name) for name in names},
    }


# densities and kinds of points


@case
def densities() -> Any:
    found = {}
    operators: dict[str, Any] = {"matrix": matrix(), "relu": relu(), "complex": hermitian()}
    for name, operator in operators.items():
        density = spectral_density(operator, probes=3, steps=20, generator=generator(17))
        grid = np.linspace(-1, 2, 7)
        found[name] = {
            "size": density.size,
            "made": [density.probes, density.steps, density.products, len(density.nodes)],
            "ends": [float(density.nodes[0]), float(density.nodes[-1])],
            "mean": float(density.nodes @ density.weights),
            "smooth": density.smooth(grid, 0.1).tolist(),
            "symlog": density.smooth_symlog(grid, 1e-2, 0.5).tolist(),
        }
    free = spectral_density(dense_bulk(), probes=2, steps=15, reorthogonalize=False, generator=generator(18))
    return {**found, "without a basis": [free.nodes.tolist(), free.weights.tolist()]}


@case
def classifications() -> Any:
    linear = Hessian(*linear_network())
    return {
        "relu": classified(relu(), threshold=RELU_TAU, epsilon=10.0),
        "tanh": classified(tanh(), threshold=SMOOTH_TAU, kappa=5, alpha=0.1, gamma=0.2, radius=0.1, rho=50.0),
        "tanh, sampled": classified(tanh(), threshold=SMOOTH_TAU, epsilon=10.0, method="lanczos", probes=4, steps=30),
        "linear net at the origin": classified(linear, relative_threshold=0.1, delta=10.0),
        "matrix": classified(matrix(), threshold=0.02, gradient_norm=0.0, value=1.0, lowest=0.0),
    }


def classified(operator: Any, **options: Any) -> dict[str, Any]:
    found = classify(operator, generator=generator(19), **options)
    return {
        "verdicts": {name: [verdict.answer, verdict.confidence] for name, verdict in found.verdicts.items()},
        "counts": counted(found.counts),
        "facts": [found.value, found.gradient_norm, *found.smallest, *found.largest],
        "rho": None if found.variation is None else found.variation.at_least,
        "products": found.products,
    }


@case
def known_landscapes() -> Any:
    """Critical points whose counts are known: (0, 2, 0), (1, 0, 1), (2, 0, 0), (6, 0, 6)."""

    def at(function: Callable[[Tensor], Tensor], x: float, y: float) -> list[float]:
        place = torch.tensor([x, y], dtype=F64, requires_grad=True)
        return exact_eigenvalues(Hessian.of(lambda: function(place), [place])).tolist()

    return {
        "monkey saddle": at(lambda p: p[0] ** 3 - 3 * p[0] * p[1] ** 2, 0.0, 0.0),
        "classical saddle": at(lambda p: p[0] ** 2 - p[1] ** 2, 0.0, 0.0),
        "maximum": at(lambda p: -(p[0] ** 2) - 2 * p[1] ** 2 + p[0] ** 4, 0.0, 0.0),
        "linear net": count(Hessian(*linear_network()), 0.1),
    }


# the command line


def command(*arguments: str) -> dict[str, Any]:
    """What a command writes with --json; problems are the functions of this file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.json")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            status = main([*arguments, "--json", str(path), "--quiet"])
        assert status == 0, said.getvalue()
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result


PROBLEM = f"{Path(__file__).stem}:network"
SUMMARY = ("method", "threshold", "confidence", "parameters", "products", "probes", "steps")


def summarized(result: dict[str, Any]) -> dict[str, Any]:
    sides = {side: [result[side][end] for end in ENDS] for side in SIDES}
    return {**sides, **{name: result[name] for name in SUMMARY}}


@case
def commands() -> Any:
    sampled = ("--method", "lanczos", "--probes", "4", "--steps", "30", "--seed", "3")
    tau = ("--threshold", str(RELU_TAU))
    exact = command("exact", PROBLEM)
    with tempfile.TemporaryDirectory() as folder:
        density = command("density", PROBLEM, "--probes", "2", "--steps", "15", "--output", f"{folder}/d.npz")
    kind = command("classify", PROBLEM, *tau, "--epsilon", "10")
    check = command("check", PROBLEM)
    return {
        "count": summarized(command("count", PROBLEM, *tau)),
        "count, sampled": summarized(command("count", PROBLEM, *tau, *sampled)),
        "count, planned": summarized(command("count", PROBLEM, *tau, "--max-products", "300")),
        "count, enumerated": summarized(command("count", PROBLEM, *tau, *sampled, "--enumerate-negative")),
        "count, preconditioned": summarized(command("count", PROBLEM, *tau, *sampled, "--preconditioner", "ekfac")),
        "exact": [exact[name] for name in ("parameters", "smallest", "largest", "products")],
        "exact counts": exact["counts"],
        "density": [density["products"], float(np.dot(density["nodes"], density["weights"]))],
        "classify": {name: verdict["answer"] for name, verdict in kind["verdicts"].items()},
        "check": [check["products"], check["scale"], check["noise_source"]],
    }


# the paper, on the embedded digits


CUT = ("1e-10", "1e-12", "1e-14")
"""Thresholds, as fractions of the largest |eigenvalue|, at which rounding decides counts."""

ROUNDING = ("noise", "error", "signs", "seconds")
"""Results of a cell that are of the machine."""


@case
def reproduction() -> Any:
    """Two networks trained on the digits: one of table 5, one of the page on depth and width.

    `golden_store/` holds what `reproduce` makes, without provenance: weights of these two, and finished cells but for
    the five that are computed here: structure, certified and exact of the one, certified and anatomy of the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(shutil.copytree(STORE, Path(folder, "store")))
        kept = len(records(store))
        chosen = ("--datasets", "digits", "--objective", "cross-entropy", "--trials", "1", "--store", str(store))
        found = command("reproduce", "table5", "shapes", *chosen)
        made = records(store)[kept:]
    assert not found["refused"]
    rows = found["tables"]["table5"].splitlines()
    return {
        "cells": {name_of(record): decided(record["result"]) for record in made},
        "rows": [without_signs(line) for line in rows if line.startswith("| Noisy SGD")],
    }


def without_signs(row: str) -> str:
    """A row of table 5 without the count by the sign of float32 eigenvalues, which rounding decides for some."""
    cells = row.split("|")
    return "|".join([*cells[:4], *cells[5:]])


def records(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def name_of(record: dict[str, Any]) -> str:
    parameters = record["parameters"]
    sizes = "-".join(map(str, parameters["sizes"]))
    return " ".join([record["kind"], sizes, *([parameters["matrix"]] if "matrix" in parameters else [])])


def decided(result: Any) -> Any:
    """Without what rounding decides."""
    if not isinstance(result, dict):
        return result
    return {name: decided(value) for name, value in result.items() if name not in (*CUT, *ROUNDING)}


# the test


def differences(found: Any, expected: Any, where: str = "", *, estimate: bool = False) -> list[str]:
    """Every place where two results differ: in form, in integers and words at all, in floats beyond rounding."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [*expected, *(name for name in found if name not in expected)]
        return [
            line
            for name in names
            for line in (
                differences(found[name], expected[name], f"{where}/{name}")
                if name in found and name in expected
                else [f"{where}/{name}: only {'found' if name in found else 'expected'}"]
            )
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        estimate = [type(part) for part in expected] == [int, float, int]  # lower, estimate, upper
        pairs = enumerate(zip(found, expected, strict=True))
        return [
            line for i, (one, other) in pairs for line in differences(one, other, f"{where}[{i}]", estimate=estimate)
        ]
    if isinstance(expected, float) and isinstance(found, float):
        relative, absolute = (ESTIMATE_RELATIVE, ESTIMATE_ABSOLUTE) if estimate else (RELATIVE, ABSOLUTE)
        same = math.isclose(found, expected, rel_tol=relative, abs_tol=absolute)
    else:
        same = type(found) is type(expected) and found == expected
    return [] if same else [f"{where}: {found!r}, expected {expected!r}"]


def plain(result: Any) -> Any:
    """As JSON would give it back: tuples are lists."""
    return json.loads(json.dumps(result))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))
    return numbers


@pytest.mark.parametrize("name", CASES)
def test_nothing_has_changed(name: str, expected: dict[str, Any]) -> None:
    found = differences(plain(CASES[name]()), expected[name])
    assert not found, f"{len(found)} golden numbers of {name} differ:\n" + "\n".join(found)


def test_every_golden_number_belongs_to_a_case(expected: dict[str, Any]) -> None:
    assert list(expected) == list(CASES)


def write(names: list[str]) -> None:
    """Remake the numbers of these cases, or of all."""
    kept = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.is_file() else {}
    numbers = {
        name: plain(make()) if not names or name in names or name not in kept else kept[name]
        for name, make in CASES.items()
    }
    NUMBERS.write_text(written(numbers) + "\n", encoding="utf-8")


def written(obj: Any, indent: str = "") -> str:
    """JSON with lists on one line, so that a difference is one line."""
    if not isinstance(obj, dict):
        return json.dumps(obj)
    inside = indent + "  "
    lines = [f"{inside}{json.dumps(name)}: {written(value, inside)}" for name, value in obj.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compute the golden numbers.")
    parser.add_argument("--write", action="store_true", required=True, help="replace those in golden.json")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="of these cases only")
    write(parser.parse_args().cases)
