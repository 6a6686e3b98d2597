"""Lanczos tridiagonalization of a symmetric operator, several probes in lock-step.

    H Q = Q T + beta_k q_{k+1} e_k',   T = tridiag(beta, alpha, beta),   Q' Q = I,   q_1 = g / |g|

Each probe runs its own scalar recurrence; one block product H @ (q^1 ... q^m) advances all of them. (Block
Lanczos would share the Krylov space, and its brackets are not certificates: docs/method.md.)

With full reorthogonalization (classical Gram-Schmidt; a second time where the first took more than half of the
square of a norm: Daniel, Gragg, Kaufman & Stewart 1976) the basis is kept: m k N numbers, 4 m k N operations more per
step. Without it the memory is 4 m N and the recurrence is still usable (Paige 1980, Greenbaum 1989), only slower to
converge.
Nothing in the loop waits for the device: coefficients stay there until they are asked for.

A product that is not finite ends the run before its step: what was known then stays as it was, and stays true, since
brackets hold at every depth. Later steps do nothing (`failed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle.krylov.basis import basis_of
from lanczos_saddle.krylov.gauss import Rule, gauss_rule
from lanczos_saddle.machine.progress import made
from lanczos_saddle.machine.states import read_state, write_state
from lanczos_saddle.operators.hermitian import require_real
from lanczos_saddle.operators.leading import shared_by
from lanczos_saddle.operators.operator import Operator, as_operator
from lanczos_saddle.operators.vectors import space_of

Array = NDArray[np.float64]

LOST = 0.5**0.5
"""A vector that Gram-Schmidt shortens to less than this share is orthogonalized again."""

CLOSED = 8.0
"""A residual below this many eps |T| is rounding: the Krylov space has closed."""

SAME = 1000.0
"""First products that differ by less than this many eps |T| are those of one operator, maybe on another device."""

TWICE = 2 * 2.0
"""Two products, each off by at most twice the largest noise that was seen on sample vectors."""

STATE = ("alpha", "beta", "norms", "scale", "lengths", "current", "previous", "image", "basis")
VECTORS = ("current", "previous", "image", "witness_sums")
"""What a state keeps, and of it rows of the operator's dimension, those of a basis aside."""


@dataclass(frozen=True)
class Tridiagonalization:
    """H Q_i = Q_i T_i + r_i e_k' for m probes; all coefficients float64 on the host.

    A probe whose Krylov space closed early (residual at rounding level) has `lengths[i]` < k; its later
    coefficients are zero. Its last residual norm is kept as it is: dropping it would perturb H unseen.
    """

    diagonal: Array  # (m, k)
    offdiagonal: Array  # (m, k); entry lengths[i] - 1 of row i is the residual norm
    lengths: NDArray[np.int64]  # (m,)
    norms: Array  # (m,) |g_i|, the norm of each probe: the weight with which it is pooled

    @property
    def probes(self) -> int:
        """M, the number of recurrences."""
        return int(self.diagonal.shape[0])

    @property
    def steps(self) -> int:
        """K, the number of products per probe."""
        return int(self.diagonal.shape[1])

    @property
    def products(self) -> int:
        """Products that the run took, m per step."""
        return self.probes * self.steps

    def coefficients(self, probe: int) -> tuple[Array, Array]:
        """(alpha, beta) of one probe, both of its own length; beta[-1] is the residual norm."""
        length = self.lengths[probe]
        return self.diagonal[probe, :length], self.offdiagonal[probe, :length]

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The Gauss rule of every probe; an eigendecomposition of T each, made when they are first asked for."""
        return tuple(gauss_rule(*self.coefficients(i)) for i in range(self.probes))

    def truncated(self, steps: int) -> Tridiagonalization:
        """The same run as it stood after fewer steps."""
        return Tridiagonalization(
            self.diagonal[:, :steps], self.offdiagonal[:, :steps], np.minimum(self.lengths, steps), self.norms
        )


class Lanczos:
    """A run that can be extended: more steps later, nothing computed twice.

    Args:
        operator: symmetric, N x N.
        probes: (N, m) start vectors, nonzero; Gaussian where intervals are wanted.
        reorthogonalize: keep the basis and orthogonalize against it at every step, twice where once is not enough.
        capacity: steps for which room is reserved; more are possible, at the price of a copy.

    The recurrence works in float64 whatever the operator's type; the basis is kept in the operator's type.
    """

    def __init__(self, operator: Operator, probes: Tensor, *, reorthogonalize: bool = True, capacity: int = 64) -> None:
        operator = as_operator(operator)
        require_real(operator, "Lanczos")
        size = operator.shape[0]
        if not isinstance(probes, Tensor):
            raise ValueError(
                f"probes must be a torch tensor ({size}, m), one column a probe; got {type(probes).__name__}"
            )
        if probes.ndim != 2 or probes.shape[0] != size or probes.shape[1] < 1:
            raise ValueError(f"probes must have shape ({size}, m), one column a probe; got {tuple(probes.shape)}")
        row = partial(torch.empty_like, dtype=torch.float64, memory_format=torch.contiguous_format)
        start = row(probes.mT, device=operator.device).copy_(probes.mT)  # (m, N): one row a probe
        norms = torch.linalg.vector_norm(start, dim=1)
        if not bool(((norms > 0) & norms.isfinite()).all()):
            raise ValueError(f"every probe needs a positive finite norm; got {norms.tolist()}")
        self.operator = operator
        self.reorthogonalize = reorthogonalize
        self.steps = 0
        self._norms = norms
        self._current: Tensor = start.div_(norms[:, None])
        self._previous = self._current  # none yet: not read before the second step
        self._spare: Tensor | None = None  # a block that nothing needs, written into by the next step
        self._image = start[0]  # from the first step on H q_1 of the first probe: by it a resumed run is known
        self._scale = torch.zeros_like(norms)  # running |T|, for the relative breakdown test
        self._lengths = torch.zeros(len(norms), dtype=torch.int64, device=norms.device)  # 0 while the space is open
        self._failed = torch.zeros((), dtype=torch.int64, device=norms.device)  # the step that could not be made
        self._made = 0  # blocks of products, that of a step that could not be made included
        self._alpha, self._beta = (start.new_zeros(len(norms), capacity) for _ in range(2))
        self.kept = basis_of(operator, len(norms), capacity if reorthogonalize else 0)

    @property
    def probes(self) -> int:
        """M, the number of recurrences."""
        return len(self._norms)

    @property
    def products(self) -> int:
        """Products with the operator spent so far, m per step."""
        return self._made * self.probes

    @property
    def failed(self) -> int:
        """The step whose products were not finite, which ended the run; 0 where none was. Waits for the device."""
        failed = int(self._failed)
        if failed:
            self.steps = failed - 1
        return failed

    @property
    def ending(self) -> str:
        """Why there are no more steps, where a product was not finite; else nothing."""
        failed = self.failed
        if not failed:
            return ""
        return f"a product of step {failed} was not finite: the intervals are those of the {failed - 1} steps before it"

    @property
    def basis(self) -> Tensor:
        """(m, k, N): the Lanczos vectors of each probe as rows; empty without reorthogonalization.

        No copy, unless ranks share the operator: then all of it is gathered. `kept` answers without.
        """
        return self.kept.whole(self.steps if self.reorthogonalize else 0)

    @property
    def following(self) -> Tensor:
        """(m, N): q_{k+1}, the direction of each residual; zero where the Krylov space has closed. A copy."""
        return self._current.clone()

    @property
    def current(self) -> Tensor:
        """As `following`, and no copy: the step after the next writes into it."""
        return self._current

    def extend(self, steps: int) -> Tridiagonalization:
        """Advance until `steps` products per probe have been made; returns all coefficients so far."""
        self.advance(steps)
        return self.tridiagonalization()

    def advance(self, steps: int) -> None:
        """As `extend`, leaving the coefficients on the device: nothing waits for it."""
        size = self.operator.shape[0]
        if not 1 <= steps <= size:
            raise ValueError(f"steps must be between 1 and {size}, the dimension of the operator; got {steps}")
        self._reserve(steps)
        while self.steps < steps:
            self._advance()
            made(self.probes)

    def tridiagonalization(self) -> Tridiagonalization:
        """The coefficients so far; where the host waits for the device. Raises ValueError where there are none."""
        self._require_a_step()
        alpha, beta = (c[:, : self.steps].cpu().numpy().copy() for c in (self._alpha, self._beta))
        closed = self._lengths.cpu().numpy()
        return Tridiagonalization(alpha, beta, np.where(closed > 0, closed, self.steps), self._norms.cpu().numpy())

    def save(
        self, path: str | Path, facts: Mapping[str, Any] | None = None, beside: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write the whole state (safetensors, whole or as it was), from which `resume` continues.

        `facts` (numbers and words) and tensors `beside` are kept with it. Raises OSError where it cannot be written.
        """
        write_state(path, {**(beside or {}), **self.state()}, facts or {})

    def state(self) -> dict[str, Any]:
        """What a state keeps, by `STATE`; no copy. Raises ValueError where there is no step."""
        self._require_a_step()
        return {
            "alpha": self._alpha[:, : self.steps],
            "beta": self._beta[:, : self.steps],
            "norms": self._norms,
            "scale": self._scale,
            "lengths": self._lengths,
            "current": self._current,
            "previous": self._previous,
            "image": self._image,
            "basis": self.kept.saved(self.steps if self.reorthogonalize else 0),
        }

    def resume(self, path: str | Path, *, noise: float | None = None) -> dict[str, Tensor]:
        """Continue a saved run of the same operator and probes, one product checks that they are; what was `beside`.

        `noise` bounds the error of a product on a vector of norm 1, here and where the run began; `SAME` eps |T| of the
        operator's type if not given.

        Raises ValueError for an unreadable file and for a run of another operator, other probes or another setting.
        """
        space = space_of(self.operator)
        whole = VECTORS if space is not None else ()
        state = read_state(path, STATE, self.operator.device, (*whole, *self.kept.streamed))
        kept = state["alpha"].shape[1] if self.reorthogonalize else 0
        basis, current = state["basis"], state["current"]
        if current.shape != self._current.shape or basis.shape[1] != kept or basis.dtype != self.operator.dtype:
            raise ValueError(
                f"{path} holds another kind of run (dimension, probes, type or reorthogonalization): "
                "repeat the settings it was started with, or name another file"
            )
        if space is not None:  # one row after the other: nobody holds them whole
            state |= {name: space.placed(state[name]) for name in VECTORS if name in state}
        self.require_same(state, path, noise)
        self.take(state)
        self.kept.load(basis, kept)
        return {name: tensor for name, tensor in state.items() if name not in STATE}

    def require_same(self, state: Mapping[str, Any], path: str | Path, noise: float | None) -> None:
        """Refuse the state of another operator or of other probes; one product. `image` may be None."""
        q = self._current
        w = (self.operator @ q.mT.to(self.operator.dtype)).detach().mT.to(torch.float64)
        rounding = torch.finfo(self.operator.dtype if noise is None else torch.float64).eps
        tolerance = SAME * rounding * state["scale"] + TWICE * (noise or 0.0)
        norms, first, image = state["norms"], state["alpha"][:, 0], state["image"]
        same = torch.allclose(norms, self._norms, rtol=1e-12, atol=0.0)  # norms differ in the last bit across devices
        same = same and bool((((q * w).sum(dim=1) - first).abs() <= tolerance).all())
        if not same or not (image is None or bool(torch.linalg.vector_norm(w[0] - image) <= tolerance.max())):
            raise ValueError(f"{path} belongs to another operator or to other probes: name another file")

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that fits, but for its basis."""
        alpha = state["alpha"]
        self._reserve(alpha.shape[1])
        self.steps = self._made = alpha.shape[1]
        self._alpha[:, : self.steps], self._beta[:, : self.steps] = alpha, state["beta"]
        self._scale, self._lengths = state["scale"], state["lengths"]
        self._current, self._previous = state["current"], state["previous"]
        self._image = self._image if state["image"] is None else state["image"]

    def _require_a_step(self) -> None:
        """Refuse a run that has nothing: its first product was not finite."""
        if self.failed == 1:
            raise ValueError(
                "every product H @ v must be finite; the first of the recurrence gave NaN or infinity: look for them "
                "in the weights and the data, or use float64"
            )

    def _advance(self) -> None:
        """One step of every recurrence: alpha_j, beta_j and q_{j+1}; nothing changes once a product is not finite."""
        j, q = self.steps, self._current
        spare, self._spare = self._spare, None  # an interrupt forgets it
        w = self._product(q, spare)
        self._made += 1
        image = w[0].clone() if j == 0 else self._image
        alpha = torch.linalg.vecdot(q, w)
        w.addcmul_(q, alpha[:, None], value=-1)
        if j:
            w.addcmul_(self._previous, self._beta[:, j - 1, None], value=-1)
        beta = torch.linalg.vector_norm(w, dim=1)
        if self.reorthogonalize:
            self.kept.put(j, q)
            beta = self._orthogonalized(w, j + 1, beta)
        was_open = self._lengths == 0
        usable = (alpha.isfinite() & beta.isfinite() | ~was_open).all()
        failed = torch.where((self._failed == 0) & ~usable, j + 1, self._failed)
        going = failed == 0
        scale = torch.where(going, torch.maximum(self._scale, alpha.abs() + beta), self._scale)
        # a residual at the rounding level of the operator closes the Krylov space: relative, never == 0
        open_ = was_open & (beta > CLOSED * torch.finfo(self.operator.dtype).eps * scale)
        kept = was_open & going
        self._alpha[:, j], self._beta[:, j] = (torch.where(kept, alpha, 0.0), torch.where(kept, beta, 0.0))
        w.div_(torch.where(open_, beta, 1.0)[:, None])
        if not (on_host(w) and bool(open_.all())):
            w.masked_fill_(~open_[:, None], 0.0)
        previous, current = chosen(going, q, self._previous), chosen(going, w, q)
        lengths = torch.where(kept & ~open_, j + 1, self._lengths)
        # at once, without a call between them: an interrupt leaves the step made or not made, and the state whole
        self._scale, self._lengths, self._image, self._failed = scale, lengths, image, failed
        before = self._previous
        self._previous, self._current, self.steps = previous, current, j + 1
        if before is not previous and before is not current:
            self._spare = before

    def _product(self, q: Tensor, into: Tensor | None) -> Tensor:
        """H q_i of every probe, (m, N) in float64: a copy, which the step writes into."""
        product = (self.operator @ q.mT.to(self.operator.dtype)).detach()
        return (torch.empty_like(q) if into is None else into).copy_(product.mT)

    def _orthogonalized(self, w: Tensor, count: int, before: Tensor) -> Tensor:
        """Takes from each w_i, in place, its part in the first `count` basis vectors; the norms (m,) that are left.

        The recurrence has made w_i orthogonal up to rounding, so that once is enough, save where what is left is small
        itself. On a device nothing waits for the answer: there it is always done twice.
        """
        rows: Sequence[int] = range(len(w))
        for again in (False, True):
            self.kept.orthogonalize(w, rows, count)
            after: Tensor = torch.linalg.vector_norm(w, dim=1)
            if again:
                break
            if on_host(w):
                rows = (~(after >= LOST * before)).nonzero()[:, 0].tolist()
            if not rows:
                break
        return after

    def _reserve(self, steps: int) -> None:
        """Make room for `steps` columns of coefficients and, if kept, of the basis."""
        room = self._alpha.shape[1]
        if steps <= room:
            return
        grown = max(steps, min(2 * room, self.operator.shape[0]))
        self._alpha, self._beta = (
            torch.cat([c, c.new_zeros(len(c), grown - room)], dim=1) for c in (self._alpha, self._beta)
        )
        if self.reorthogonalize:
            self.kept.reserve(grown, self.steps)


def recurrences(operator: Operator, probes: Tensor, *, reorthogonalize: bool = True, capacity: int = 64) -> Lanczos:
    """A run from these start vectors: `Lanczos`, or what does the same with each probe on one of several ranks.

    The latter where every rank has the whole matrix, and can make of it what the operator is.
    """
    begin = getattr(shared_by(operator), "recurrences", None)
    made: Lanczos | None = None
    if begin is not None:
        made = begin(operator, probes, reorthogonalize=reorthogonalize, capacity=capacity)
    return Lanczos(operator, probes, reorthogonalize=reorthogonalize, capacity=capacity) if made is None else made


def on_host(tensor: Tensor) -> bool:
    """Whether asking for a number waits for no device."""
    return tensor.device.type == "cpu"


def chosen(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` where the condition () holds, else `other`; copied only where a device would be waited for."""
    if on_host(condition):
        return one if bool(condition) else other
    return torch.where(condition, one, other)
