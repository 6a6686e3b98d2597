"""Which S a congruence uses, by name, for networks: "ekfac", or "subset" for that with a low-rank correction.

    ekfac     Kronecker factors with eigenvalue correction (`kronecker`), damped by tau
    subset    S_0 (I + Z (F - I) Z'), S_0 from ekfac, Z from the curvature of few samples (`subset`)
    auto      "subset" where the operator is a curvature matrix with nn.Linear layers in float64 and tau is at most
              1e-4 of the largest |eigenvalue|; none elsewhere: the plain run is as good there, and serves both
              thresholds at once

What it takes is counted in products of H: C for the passes that make the factors (2 C gradients, C outputs), and
2 r m / n for 2 r products over m of n samples, at most PHASE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.defaults import PRECONDITIONERS
from lanczos_saddle.machine.journal import answered
from lanczos_saddle.machine.memory import available_bytes
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.operator import Restricted
from lanczos_saddle.operators.recorded import recorded
from lanczos_saddle.operators.scalars import shown
from lanczos_saddle.preconditioning.congruence import Factor, Kept
from lanczos_saddle.preconditioning.ekfac import Kronecker, fits, kronecker_layers
from lanczos_saddle.preconditioning.subset import curvature_subset, low_rank

PAYS = 1e-4
FEWEST, MOST, PART = 256, 4096, 32
"""m: a part of 1 / 32 of the samples, within these limits."""

RANK, FRACTION = 1000, 3
"""r: at most this, and at most N / 3."""

PHASE = 200

CHEAP = 4
"""A product over the chosen samples must cost at most this part of one over all."""

COUNTED = 1024

Factory = Callable[[float], Factor]
"""S for the threshold t, on the living coordinates."""


def check_preconditioner(choice: Any, operator: Any, method: str, *, takes_vectors: bool = False) -> None:
    """Refuse a preconditioner that cannot be used; raises ValueError before work starts."""
    if choice is None:
        return
    if isinstance(choice, str) and choice not in PRECONDITIONERS:
        raise ValueError(
            f"preconditioner is one of {', '.join(PRECONDITIONERS)}, None or an S of your own; got {choice!r}"
        )
    if not isinstance(choice, str) and not (hasattr(choice, "__matmul__") and hasattr(choice, "mT")):
        raise ValueError(
            f"a preconditioner has S @ v and S.mT @ v for v (N, k), as a dense tensor has; got {type(choice).__name__}"
        )
    if takes_vectors and not (isinstance(choice, str) and choice == "auto"):
        raise ValueError(
            "vectors are taken out (enumerate_negative, null_vectors) of a run without a preconditioner; got them and "
            f"{choice!r}: pass one of them"
        )
    if isinstance(choice, str) and choice == "auto":
        return
    if method == "exact":
        raise ValueError(f'a preconditioner belongs to method="lanczos"; got method="exact" with {shown(choice)}')
    if operator.dtype != torch.float64:
        raise ValueError(
            f"a preconditioner is for thresholds that float32 does not resolve; got an operator in {operator.dtype}: "
            "pass dtype=torch.float64"
        )
    operator = network_of(operator)
    if isinstance(choice, str) and not (isinstance(operator, Curvature) and isinstance(operator.problem, Problem)):
        got = "one of a function" if isinstance(operator, Curvature) else type(operator).__name__
        if hasattr(operator, "network"):
            got = "one of ranks, the first of which has no samples, or not all weights"
        raise ValueError(
            f"preconditioner={choice!r} needs the network of a Hessian or GaussNewton; got {got}: pass "
            "preconditioner=None, or an S of your own"
        )
    if isinstance(choice, str) and operator.mode == "autograd":
        raise ValueError(
            f"preconditioner={choice!r} needs a model and a loss that torch.func can differentiate; got ones for plain "
            "autograd alone: pass preconditioner=None, or an S of your own"
        )
    if not isinstance(choice, str):
        _try(choice, operator)


def _try(factor: Any, operator: Any) -> None:
    """Refuse an S that does not multiply what the recurrence will give it; raises ValueError."""
    v = torch.zeros(operator.shape[0], 1, dtype=torch.float64, device=operator.device)
    for name, matrix in (("S", factor), ("S.mT", factor.mT)):
        try:
            found = matrix @ v
            got = f"{type(found).__name__} {tuple(found.shape)} of {found.dtype}"
            fits = isinstance(found, Tensor) and found.shape == v.shape and found.dtype == v.dtype
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            fits, got = False, f"{type(error).__name__}: {error}".splitlines()[0]
        if not fits:
            raise ValueError(
                f"a preconditioner multiplies float64 tensors {tuple(v.shape)} on {v.device} and gives such; "
                f"{name} @ v gave {got}: pass a dense float64 tensor (N, N), say"
            )


def network_of(operator: Any) -> Any:
    """The matrix with the network: where ranks share an operator, that of this one's samples; else the operator itself.

    S needs no more than to be nonsingular: one that is made of some of the samples counts the same.
    """
    own = getattr(operator, "network", None)
    return own if isinstance(own, Curvature) else operator


def pays(choice: Any, operator: Any, relative: float) -> bool:
    """Whether "auto" may take "subset" for this operator and this threshold: one that is small, samples that are many.

    Cost: a pass over the data that counts the samples.
    """
    if not (isinstance(choice, str) and choice == "auto" and relative <= PAYS):
        return False
    operator = network_of(operator)
    if not (isinstance(operator, Curvature) and operator.dtype == torch.float64 and operator.mode != "autograd"):
        return False
    if not isinstance(operator.problem, Problem) or not fits(operator.problem):
        return False
    samples = sum(batch.size for batch in operator.problem.batches(COUNTED))
    return samples >= CHEAP * max(samples // PART, FEWEST)


def phase_products(choice: Any, operator: Any) -> tuple[int, int]:
    """What `prepare` takes for an S of that name, at least and at most; one evaluation on a few samples."""
    if not isinstance(choice, str) or choice == "auto":
        return 0, 0
    operator = network_of(operator)
    with operator.problem.evaluating():
        few = next(operator.problem.batches(1))
        outputs = operator.problem.outputs(operator.problem.theta, few)
    passes = outputs.shape[-1] if isinstance(outputs, Tensor) and outputs.ndim else 1
    return (passes, passes) if choice == "ekfac" else (passes + 1, passes + PHASE + 1)


@dataclass(frozen=True)
class Prepared:
    """S for any threshold, on the living coordinates."""

    at: Factory
    products: int  # what it took, in products of H


def prepare(
    name: str,
    operator: Curvature,
    threshold: float,
    alive: Tensor,
    generator: torch.Generator,
    phase: int | None = None,
) -> Prepared:
    """Make the S that `name` says; positive definite, hence nonsingular.

    `phase`: products that it may take, spent on directions first and then on samples; `PHASE`, and a thirty-second of
    the samples, if not given.
    """
    operator = network_of(operator)
    layers, passes = kronecker_layers(operator.problem)

    def damped(t: float) -> Kept:
        return Kept(Kronecker(layers, abs(t)), alive, operator.shape[0])

    if name == "ekfac":
        return Prepared(damped, passes)
    base = damped(threshold)
    # three blocks of r vectors, in at most 3/8
    room = answered("directions", lambda: available_bytes(operator.device) // (64 * len(alive)))
    widest = max(1, min(RANK, len(alive) // FRACTION, room))

    def chosen(n: int) -> int:
        fewest = min(max(n // PART, FEWEST), MOST)
        return fewest if phase is None else max(fewest, min(n, phase * n // (2 * widest)))

    few, samples, total = curvature_subset(operator, chosen, generator)
    rank = max(1, min(widest, (PHASE if phase is None else phase) * total // (2 * samples)))
    space = low_rank(base, Restricted(recorded(few, "H of few samples"), alive), rank, generator)
    return Prepared(space.at, passes + -(-2 * rank * samples // total))
