"""The spectral density by stochastic Lanczos quadrature, from the products that the counts need anyway.

    phi(x) = (1/N) sum_i delta(x - lambda_i)  ~  sum over probes and Gauss nodes of weights delta(x - theta)

with probes pooled by |g_i|^2 (Lin, Saad & Yang 2016; Chen, Trogdon & Ubaru 2021). The density is a picture: it is
smoothed, and a count is never read off it. What is certified about counts at many thresholds is `Evidence.band`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lanczos_saddle.files import replacing
from lanczos_saddle.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.operator import as_operator
from lanczos_saddle.quadrature import gauss_rule
from lanczos_saddle.streams import Streams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Density:
    """Pooled Gauss nodes and weights of a run, and the zeros known beside it; weights sum to 1."""

    nodes: Array  # (n,), ascending, in units of eigenvalues
    weights: Array  # (n,), shares of all N eigenvalues
    size: int  # N
    zeros: int  # known zero eigenvalues, already among nodes and weights
    run: Tridiagonalization  # what the rules were made of

    def smooth(self, x: Array, width: float) -> Array:
        """The density per unit of x on a linear axis: Gaussians of standard deviation `width` at the nodes."""
        return _kernel_sum(np.asarray(x), self.nodes, self.weights, width)

    def smooth_symlog(self, x: Array, linear: float, width: float = 0.1) -> Array:
        """The density per unit of u = arcsinh(x / linear), for a symmetric-log axis; `width` in units of u."""
        return _kernel_sum(np.arcsinh(np.asarray(x) / linear), np.arcsinh(self.nodes / linear), self.weights, width)

    def save(self, path: str | Path) -> None:
        """Write nodes, weights and coefficients as .npz, to a temporary name, then renamed."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                nodes=self.nodes,
                weights=self.weights,
                size=self.size,
                zeros=self.zeros,
                diagonal=self.run.diagonal,
                offdiagonal=self.run.offdiagonal,
                lengths=self.run.lengths,
                norms=self.run.norms,
            )

    @staticmethod
    def load(path: str | Path) -> Density:
        """Read what `save` wrote; raises ValueError for any other file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                run = Tridiagonalization(file["diagonal"], file["offdiagonal"], file["lengths"], file["norms"])
                return density_of(run, size=int(file["size"]), zeros=int(file["zeros"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} must be a density written by Density.save; it cannot be read: {error}") from error


def spectral_density(
    operator: Any,
    *,
    probes: int = 4,
    steps: int = 100,
    reorthogonalize: bool = True,
    generator: torch.Generator | None = None,
) -> Density:
    """Nodes and weights from `probes` Gaussian probes of `steps` products each; at most N steps are made.

    Raises ValueError for bad arguments. Cost: probes * steps products.
    """
    base = as_operator(operator)
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1; got {probes} and {steps}")
    gaussian = torch.randn(base.shape[0], probes, generator=Streams(generator).spawn(), dtype=torch.float64)
    steps = min(steps, base.shape[0])
    run = Lanczos(base, gaussian, reorthogonalize=reorthogonalize, capacity=steps)
    return density_of(run.extend(steps), size=base.shape[0])


def density_of(run: Tridiagonalization, *, size: int, zeros: int = 0) -> Density:
    """The density that a finished run holds; `zeros` eigenvalues at 0 were left out of it (dead coordinates)."""
    living = (size - zeros) / size
    pooled = run.norms**2 / (run.norms**2).sum() * living
    rules = [gauss_rule(*run.coefficients(i)) for i in range(run.probes)]
    dead = [0.0] if zeros else []
    nodes = np.concatenate([*(rule.nodes for rule in rules), dead])
    weights = np.concatenate(
        [*(w * rule.weights for w, rule in zip(pooled, rules, strict=True)), [1 - living for _ in dead]]
    )
    order = np.argsort(nodes, kind="stable")
    return Density(nodes[order], weights[order], size, zeros, run)


def _kernel_sum(x: Array, centers: Array, weights: Array, width: float) -> Array:
    if not width > 0:
        raise ValueError(f"the width of the smoothing must be positive; got {width}")
    bumps = np.exp(-0.5 * ((x[:, None] - centers) / width) ** 2)
    density: Array = bumps @ weights / (width * np.sqrt(2 * np.pi))
    return density
