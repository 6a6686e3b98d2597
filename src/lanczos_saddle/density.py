"""The spectral density by stochastic Lanczos quadrature, from the products that the counts need anyway.

    phi(x) = (1/N) sum_i delta(x - lambda_i)  ~  sum over probes and Gauss nodes of weights delta(x - theta)

with probes pooled by |g_i|^2 (Lin, Saad & Yang 2016; Chen, Trogdon & Ubaru 2021). The density is a picture: it is
smoothed, and a count is never read off it. What is certified about counts at many thresholds is `Evidence.band`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from lanczos_saddle.defaults import DENSITY_PROBES, DENSITY_STEPS
from lanczos_saddle.krylov.basis import basis_bytes, basis_room
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.krylov.preflight import OutOfRange, preflight, unchanged
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.machine.memory import free_bytes, require_bytes
from lanczos_saddle.machine.progress import stage
from lanczos_saddle.machine.streams import Streams, check_generator
from lanczos_saddle.operators.hermitian import real_form
from lanczos_saddle.operators.inference import differentiable
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import Operator, as_operator
from lanczos_saddle.operators.scalars import whole
from lanczos_saddle.operators.scaling import exponent_to_one, scaled, times

Array = NDArray[np.float64]

VECTORS = 6
"""Blocks of probes held at once beside the basis: start, current, previous, product, scratch."""

FINAL = 1
"""The product at the end that verifies all others."""

LOOK = 16
"""Whether all Krylov spaces have closed is asked every so many steps: the answer waits for the device."""

ROUNDING = 1e-9
"""Weights sum to 1 up to this; the sum of n squared components is off by about n eps."""


@dataclass(frozen=True)
class Density:
    """Pooled Gauss nodes and weights of a run, and the zeros known beside it; weights sum to 1."""

    nodes: Array  # (n,), ascending, in units of eigenvalues
    weights: Array  # (n,), shares of all N eigenvalues
    size: int  # N
    zeros: int  # known zero eigenvalues, already among nodes and weights
    probes: int
    steps: int  # per probe
    products: int  # H @ v, everything included
    stopped: str = ""  # why fewer steps were made than asked for, where a product was not finite

    def __post_init__(self) -> None:
        nodes, weights = self.nodes, self.weights
        if nodes.ndim != 1 or nodes.shape != weights.shape or not len(nodes):
            raise ValueError(f"nodes and weights must be (n,) with n >= 1; got {nodes.shape} and {weights.shape}")
        if not np.isfinite(nodes).all() or (np.diff(nodes) < 0).any():
            raise ValueError("nodes must be finite and ascending; they are not")
        if not (weights >= 0).all() or not abs(weights.sum() - 1) <= ROUNDING:
            raise ValueError(f"weights must not be negative and must sum to 1; their sum is {weights.sum()}")
        if not (0 <= self.zeros <= self.size and self.size >= 1 and self.probes >= 1 and self.steps >= 1):
            raise ValueError(
                "N, probes and steps must be at least 1 and zeros between 0 and N; "
                f"got N = {self.size}, {self.probes} probes, {self.steps} steps, {self.zeros} zeros"
            )

    def smooth(self, x: Array, width: float) -> Array:
        """The density per unit of x on a linear axis: Gaussians of standard deviation `width` at the nodes."""
        return _kernel_sum(np.asarray(x), self.nodes, self.weights, width)

    def smooth_symlog(self, x: Array, linear: float, width: float = 0.1) -> Array:
        """The density per unit of u = arcsinh(x / linear), for a symmetric-log axis; `width` in units of u."""
        if not 0 < linear < float("inf"):
            raise ValueError(f"the linear part of the axis must be positive and finite; got {linear}")
        return _kernel_sum(np.arcsinh(np.asarray(x) / linear), np.arcsinh(self.nodes / linear), self.weights, width)

    def save(self, path: str | Path) -> None:
        """Write all fields as .npz, to a temporary name, then renamed."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                nodes=self.nodes,
                weights=self.weights,
                size=self.size,
                zeros=self.zeros,
                probes=self.probes,
                steps=self.steps,
                products=self.products,
                stopped=self.stopped,
            )

    @staticmethod
    def load(path: str | Path) -> Density:
        """Read what `save` wrote; raises ValueError for any other file."""
        try:
            # opened here: np.load leaves its own file open when the archive is damaged
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                nodes, weights = (
                    file[name].astype(np.float64, casting="same_kind", copy=False) for name in ("nodes", "weights")
                )
                numbers = {name: int(file[name]) for name in ("size", "zeros", "probes", "steps", "products")}
                stopped = str(file["stopped"]) if "stopped" in file else ""
                return Density(nodes, weights, **numbers, stopped=stopped)
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            TypeError,
            AttributeError,
            OverflowError,
            BadZipFile,
            zlib.error,
        ) as error:
            raise ValueError(f"{path} must be a density written by Density.save; it cannot be read: {error}") from error


@led
@differentiable
def spectral_density(
    operator: Any,
    *,
    probes: int = DENSITY_PROBES,
    steps: int = DENSITY_STEPS,
    reorthogonalize: bool = True,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Density:
    """Nodes and weights from Gaussian probes; costs about 14 + probes * steps products.

    Args:
        operator: anything `as_operator` takes: `Hessian`, a dense matrix, a linear operator.
        probes: independent Gaussian probes.
        steps: products per probe; at most N are made, and few after all Krylov spaces have closed.
        reorthogonalize: keep the basis (probes * steps * N numbers). Without it nodes repeat, the density stays right.
        generator: seeds everything random, drawn on the CPU; seed 0 if not given, so runs repeat.
        progress: a bar on stderr.

    Raises:
        ValueError: bad arguments; memory that cannot suffice; an operator that fails `check_operator`.
    """
    base = as_operator(operator)
    probes, steps = whole("probes", probes), whole("steps", steps)
    check_generator(generator)
    for name, value in (("probes", probes), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
    if not isinstance(reorthogonalize, bool):
        raise ValueError(f"reorthogonalize must be True or False; got {reorthogonalize!r}")
    target, copies = real_form(base)
    plan: dict[str, Any] = {"probes": probes, "steps": min(steps, target.shape[0]), "reorthogonalize": reorthogonalize}
    try:
        found = _density(target, **plan, generator=generator, progress=progress)
    except OutOfRange as error:
        exponent = exponent_to_one(error.magnitude)
        larger = scaled(target, exponent)
        found = _density(larger, **plan, generator=generator, progress=progress)
        nodes = np.array([times(float(x), -exponent) for x in found.nodes])
        found = replace(found, nodes=nodes, products=found.products + error.products)
    return replace(found, size=found.size // copies, zeros=found.zeros // copies)


def _density(
    base: Operator, *, probes: int, steps: int, reorthogonalize: bool, generator: torch.Generator | None, progress: bool
) -> Density:
    """`spectral_density` of a real operator whose products are in range."""
    size = base.shape[0]
    kept = basis_bytes(base, probes, steps) if reorthogonalize else 0
    beside = VECTORS * probes * size * 8
    require_bytes(
        kept + beside,
        base.device,
        f"a density from {probes} probes x {steps} steps",
        "pass fewer probes or steps" + (", or reorthogonalize=False" if reorthogonalize else ""),
        limit=beside + basis_room(base, free_bytes(base.device), beside=beside),
    )
    streams = Streams(generator)
    found = preflight(base, generator=streams.spawn())
    gaussian = torch.randn(size, probes, generator=streams.spawn(), dtype=torch.float64)
    witness = Witness()
    lanczos = Lanczos(witness.watch(base), gaussian, reorthogonalize=reorthogonalize, capacity=steps)
    watched = base.device.type == "cpu"  # elsewhere the answer would be waited for at every step
    with stage("density", steps, unit="step", bound="at most", shown=progress) as told:
        while lanczos.steps < steps and not (watched and lanczos.failed):
            lanczos.advance(lanczos.steps + 1)
            told.advance()
            if lanczos.steps % LOOK == 0 and (lanczos.tridiagonalization().lengths < lanczos.steps).all():
                break
    stopped = "; ".join(reason for reason in (lanczos.ending, unchanged(found, base, witness)) if reason)
    run = lanczos.tridiagonalization()
    unused = lanczos.products - run.products  # of a step that could not be made
    density = density_of(run, size=size, spent=found.check.products + FINAL + unused)
    return replace(density, stopped=stopped)


def density_of(run: Tridiagonalization, *, size: int, zeros: int = 0, spent: int = 0) -> Density:
    """The density that a finished run holds.

    `zeros` eigenvalues at 0 were left out of the run (dead coordinates); `spent` products were made before it.
    """
    living = (size - zeros) / size
    pooled = run.norms**2 / (run.norms**2).sum() * living
    rules = run.rules
    dead = [0.0] if zeros else []
    nodes = np.concatenate([*(rule.nodes for rule in rules), dead])
    weights = np.concatenate(
        [*(w * rule.weights for w, rule in zip(pooled, rules, strict=True)), [1 - living for _ in dead]]
    )
    order = np.argsort(nodes, kind="stable")
    return Density(nodes[order], weights[order], size, zeros, run.probes, run.steps, spent + run.probes * run.steps)


def _kernel_sum(x: Array, centers: Array, weights: Array, width: float) -> Array:
    if not 0 < width < float("inf"):
        raise ValueError(f"the width of the smoothing must be positive and finite; got {width}")
    bumps = np.exp(-0.5 * ((x[..., None] - centers) / width) ** 2)
    density: Array = bumps @ weights / (width * np.sqrt(2 * np.pi))
    return density
