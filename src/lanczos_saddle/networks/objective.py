"""A scalar function of one flat vector theta (N,), known by its shares: L(theta) = sum_b s_b(theta) / sum_b w_b.

Each share can be had in two ways:

    share(theta, batch)     a function of theta alone, for the transforms of ``torch.func``
    own_share(batch)        the user's own code, called as the user calls it, at what the user's own tensors hold

The second is used with theta placed in the user's tensors (`placed_at`): it sees what no functional call sees, such as
a penalty in a closure, and plain autograd differentiates it. It judges the first (`fidelity`), and serves where the
first cannot be had (mode "autograd" of `curvature`).
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import Batch, in_precision
from lanczos_saddle.networks.comparison.survey import Survey, graph_of, together
from lanczos_saddle.networks.lifting import lifted
from lanczos_saddle.networks.parameters import power_steps, real_dtype, refuse_randomness
from lanczos_saddle.networks.placement import DenseEmbeddings, WithoutBackward, WrittenOut, flat, placed, pristine
from lanczos_saddle.operators.inference import differentiable

SAMPLES = 1024
"""Batch limit of value() and gradient(); large enough to keep a processor busy."""

ALIKE = 1e-3
"""Relative difference of values in two types: rounding of float32 is less, and another function shows more."""

TRIAL = 8
"""Samples of a trial evaluation."""

NOTHING_SEEN = Survey(frozenset(), frozenset(), torch.float64)
"""Of a function whose graph was not looked at yet."""

vmap_warnings: Any = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", lambda _: None)
"""Switches what torch prints of slow operations; on by default."""


@dataclass(frozen=True)
class Way:
    """How a function evaluates in a type."""

    lifting: bool  # whether constants of a less precise type are converted (`lifting`)
    survey: Survey
    refused: str  # what is raised either way; empty where it evaluates


class Objective(ABC):
    """A mean loss, or any scalar function, at a theta that is its own: a copy of the parameters."""

    theta: Tensor  # (N,)
    dtype: torch.dtype
    device: torch.device
    names: tuple[str, ...]
    shapes: dict[str, torch.Size]
    sizes: dict[str, int]
    ranges: dict[str, slice]
    frozen: dict[str, Tensor]  # what else the function reads, under the names of `live`
    roots: tuple[nn.Module, ...]  # the modules of the user's that are called
    in_place: bool = False  # value and gradient by the user's own tensors and plain autograd
    dense: bool = False  # embeddings with sparse gradients give dense ones
    written_out: bool = False  # weight normalization in elementary operations
    by_slices: bool = False
    functional: bool = True  # whether `share` can be had at all
    differentiates: bool = False  # whether `share` needs a graph, as where the function takes derivatives itself
    trained_in: torch.dtype | None = None  # where that is less precise than what is computed in here
    lifting: bool = False  # whether constants of a less precise type are converted (`lifting`)
    survey: Survey
    _ways: dict[torch.dtype, Way]

    def _take(self, chosen: Mapping[str, Tensor]) -> None:
        """Remember names, shapes and places of the chosen tensors, in their order."""
        self.names = tuple(chosen)
        self.shapes = {name: p.shape for name, p in chosen.items()}
        self.sizes = {name: p.numel() for name, p in chosen.items()}
        ends = [0, *accumulate(self.sizes.values())]
        self.ranges = {name: slice(*ends_) for name, ends_ in zip(self.names, pairwise(ends), strict=True)}
        self._ways = {}

    @property
    def size(self) -> int:
        """N, the number of selected parameters."""
        return len(self.theta)

    def to(self, dtype: torch.dtype) -> Self:
        """The same function, at the same values, in another floating-point type; data are cast when used.

        Raises ValueError where the function does not evaluate in that type.
        """
        way, other = self._way_to(real_dtype(dtype)), self._cast(dtype)
        if way.refused:
            raise ValueError(
                f"the function must evaluate in {_name(dtype)}; it raised {way.refused}: keep {_name(self.dtype)}, or "
                "make its tensors buffers of a module, which are converted"
            )
        other.lifting, other.survey = way.lifting, way.survey
        if torch.finfo(self.arithmetic).eps > max(torch.finfo(t).eps for t in (self.dtype, other.arithmetic)):
            other.trained_in = self.arithmetic  # autocast leaves float64 alone
        return other

    def offers(self, dtype: torch.dtype) -> bool:
        """Whether the function evaluates in that type."""
        return not self._way_to(dtype).refused

    def _way_to(self, dtype: torch.dtype) -> Way:
        if dtype not in self._ways:
            self._ways[dtype] = self._cast(dtype)._way(self)
        return self._ways[dtype]

    def _cast(self, dtype: torch.dtype) -> Self:
        """The same in another type, whether or not it evaluates."""
        other = copy.copy(self)
        other.dtype, other.theta, other.lifting = dtype, self.theta.to(dtype), False
        other.frozen = {name: t.to(in_precision(t.dtype, dtype)) for name, t in self.frozen.items()}
        return other

    def _way(self, given: Objective) -> Way:
        """How the function evaluates in its present type, by one gradient, or two.

        Constants are lifted where parameters are less precise by themselves and the function does not evaluate in this
        type, or rounds what it computes, and where its value is then that of the function `given` in its own type: a
        function that does not evaluate at its own parameters is none.
        """
        live = self.live()
        own = {live[name].dtype for name in self.names}
        wider = all(torch.finfo(t).eps > torch.finfo(self.dtype).eps for t in own)
        plain = self._tried()
        if not wider or (not plain.refused and plain.survey.arithmetic == self.dtype):
            return plain
        self.lifting = True
        lifted = self._tried()
        better = not lifted.refused and (plain.refused or lifted.survey.arithmetic != plain.survey.arithmetic)
        better = better and self._alike(given)
        self.lifting = False
        return lifted if better else plain

    def _alike(self, given: Objective) -> bool:
        """Whether the value is that of the given function, as far as its type can tell; not where that fails."""
        seen = given._tried()
        if seen.refused:
            return False
        values = [f.own_value(f.theta, f._probe()) for f in (self, given)]
        eps = torch.finfo(seen.survey.arithmetic).eps
        return abs(values[0] - values[1]) <= max(ALIKE, 10 * eps) * max(map(abs, values))

    def _tried(self) -> Way:
        try:
            with self.evaluating():
                return Way(self.lifting, self._evaluated_once(), "")
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a function may raise anything
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Way(False, Survey(frozenset(), frozenset(), self.dtype), said)

    def _evaluated_once(self) -> Survey:
        """What a gradient on a probe is made of; whatever the function raises."""
        found = []
        for part in self.split(self._probe()):
            with self.placed_at(self.theta) as leaves, torch.enable_grad():
                value = self.own_share(part)
                found.append(graph_of(value, self))
                derivatives(value, leaves)
        return together(found)

    def _settle(self) -> None:
        """Lift constants where the function evaluates no other way; nothing where parameters keep their type."""
        live = self.live()
        if any(live[name].dtype != self.dtype for name in self.names):
            own = {live[name].dtype for name in self.names}
            self.lifting = self._way(self._cast(own.pop()) if len(own) == 1 else self).lifting

    def _probe(self) -> Batch:
        """What an evaluation is tried on."""
        return self.trial()

    @property
    def arithmetic(self) -> torch.dtype:
        """The least precise type that an evaluation computes in: a model may cast to float32 inside."""
        found = getattr(self, "survey", None)
        return max(self.dtype, self.dtype if found is None else found.arithmetic, key=lambda t: torch.finfo(t).eps)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """The selected parameters by name, as views of theta (N,).

        Where a product is recorded they are slices, which tell where each result belongs; the backward pass of a slice
        writes N zeros, and that of one split for all parameters does not.
        """
        if self.by_slices:
            return {name: theta[self.ranges[name]].view(self.shapes[name]) for name in self.names}
        parts = torch.split(theta, list(self.sizes.values()))
        return {name: part.view(self.shapes[name]) for name, part in zip(self.names, parts, strict=True)}

    @abstractmethod
    def live(self) -> dict[str, Tensor]:
        """The user's own tensors by name: selected and frozen parameters, buffers."""

    @abstractmethod
    def share(self, theta: Tensor, batch: Batch) -> Tensor:
        """s_b(theta) (0-d) as a function of theta; modules are left as they were."""

    @abstractmethod
    def own_share(self, batch: Batch) -> Tensor:
        """s_b (0-d) by the user's own code, at what the user's tensors hold."""

    @abstractmethod
    def batches(self, limit: int = SAMPLES) -> Iterator[Batch]:
        """One pass: batches of at most `limit` samples with their weights; those of weight 0 are left out."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """sum_b w_b."""

    @property
    def comes_again(self) -> bool:
        """Whether batch i has the same numbers at every pass."""
        return True

    @abstractmethod
    def trial(self) -> Batch:
        """A few samples with their weight."""

    def sample(self, count: int) -> Batch:  # noqa: ARG002
        """At most `count` samples from all over the data, for a comparison."""
        return self.trial()

    def weighed(self, batch: Batch) -> Batch:
        """The batch with what it weighs."""
        return batch

    @property
    def samples(self) -> int | None:
        """How many samples there are, where that is known without a pass over the data."""
        return None

    def split(self, batch: Batch) -> list[Batch]:
        """The parts that are evaluated one after the other."""
        return [batch]

    def check_sums(self, limit: int) -> None:  # noqa: B027
        """Raises ValueError where batches do not add up; asked before a count."""

    def value_error(self, batch: Batch) -> float:  # noqa: ARG002
        """Relative difference of the batch's share by the user's own code and by parts; raises where it is large."""
        return 0.0

    def still(self) -> list[Tensor]:
        """Positions in theta whose gradient is zero by convention (`padding_idx`): no directions of a comparison."""
        found = []
        for name, row, length in getattr(self, "survey", NOTHING_SEEN).still:
            start = self.ranges[name].start + row * length
            found.append(torch.arange(start, start + length))
        return found

    def notes(self) -> list[str]:
        """What a reader of the counts should know of the function that is counted."""
        found = []
        if self.arithmetic != self.dtype:
            found.append(f"the model computes in {_name(self.arithmetic)} inside, at {_name(self.dtype)} parameters")
        if self.trained_in is not None:
            found.append(
                f"as trained it computes in {_name(self.trained_in)} (autocast, or its weights' type): the function "
                f"counted is that of {_name(self.arithmetic)} arithmetic, another one"
            )
        if self.dtype != torch.float64 and not self.offers(torch.float64):
            found.append(
                f"the model evaluates in {_name(self.dtype)} only: differences and products are those of that type "
                f"(in float64 it raised {self._way_to(torch.float64).refused})"
            )
        if any(power_steps(module) for root in self.roots for module in root.modules()):
            found.append(
                "in eval() spectral normalization holds its singular vectors u and v: the Hessian is that of W / u'Wv, "
                "not that of W / sigma(W), though value and gradient of the two are the same"
            )
        return found

    @differentiable
    def value(self, theta: Tensor | None = None, *, limit: int = SAMPLES) -> Tensor:
        """L(theta) (0-d) over all samples; at the function's own theta when None."""
        theta, total = self.theta if theta is None else theta, self.theta.new_zeros(())
        with self.evaluating():
            for batch in self.batches(limit):
                total = total + self.share_at(theta, batch)
        return total / self.weight

    @differentiable
    def gradient(self, theta: Tensor | None = None, *, limit: int = SAMPLES) -> Tensor:
        """The gradient of L (N,) over all samples; at the function's own theta when None."""
        theta, total = self.theta if theta is None else theta, torch.zeros_like(self.theta)
        with self.evaluating():
            for batch in self.batches(limit):
                total += self.slope_at(theta, batch)
        return total / self.weight

    def share_at(self, theta: Tensor, batch: Batch) -> Tensor:
        """s_b(theta) (0-d), without a graph, in the way that the function is evaluated."""
        if self.in_place:
            with self.placed_at(theta), torch.enable_grad():  # a forward pass may differentiate
                return self.own_share(batch).detach()
        if not self.differentiates:
            try:
                return self.share(theta, batch)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # anything may be raised where a graph is missed
                self.differentiates = True
        with torch.enable_grad():
            return self.share(theta.detach().requires_grad_(), batch).detach()

    def slope_at(self, theta: Tensor, batch: Batch) -> Tensor:
        """The gradient of s_b (N,), in the way that the function is evaluated."""
        if self.in_place:
            return self.own_slope(theta, batch)
        slope, total = torch.func.grad(self.share), torch.zeros_like(theta)
        for part in self.split(batch):
            total += slope(theta, part).detach()  # what a function closes over may have a graph of its own
        return total

    def own_slope(self, theta: Tensor, batch: Batch) -> Tensor:
        """The gradient of s_b (N,) by the user's own code and plain autograd."""
        total: Tensor | None = None
        for part in self.split(batch):
            with self.placed_at(theta) as leaves, torch.enable_grad():
                slope = flat(derivatives(self.own_share(part), leaves)).detach()
            total = slope if total is None else total.add_(slope)
        return torch.zeros_like(theta) if total is None else total

    def own_value(self, theta: Tensor, batch: Batch) -> float:
        """s_b by the user's own code."""
        total = 0.0
        for part in self.split(batch):
            with self.evaluating(), self.placed_at(theta), torch.enable_grad():
                total += float(self.own_share(part).detach())
        return total

    @contextmanager
    def placed_at(self, theta: Tensor) -> Iterator[list[Tensor]]:
        """Theta in the user's own tensors, which are given as leaves of a graph; copies of the frozen values, too.

        It must last until the backward pass has ended: a checkpoint evaluates again during it.
        """
        with turn():
            live = self.live()
            parts = self.unflatten(theta.detach())
            leaves = [live[name] for name in self.names]
            values = [(live[name], value) for name, value in {**self.frozen, **parts}.items()]
            with pristine(self.roots), placed(values, leaves), WithoutBackward():
                yield leaves

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The state for a pass: no autograd graph, no fused attention, torch's global random state restored.

        One thread at a time: most of it is the process's.

        Fused attention kernels (flash, memory-efficient, the encoder's fast path) have no second derivative, nor has
        oneDNN's LSTM in float32; what was compiled runs as it was written.

        Raises ValueError when a module was put in a mode with dropout or batch statistics meanwhile.
        """
        for root in self.roots:
            refuse_randomness(root)
        with ExitStack() as stack:
            stack.enter_context(turn())
            fused = torch.backends.mha.get_fastpath_enabled()
            stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
            stack.enter_context(torch.inference_mode(False))  # which makes tensors that nothing differentiates
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
            torch.backends.mha.set_fastpath_enabled(False)
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(vmap_warnings, True)
            vmap_warnings(False)  # of operations that vmap multiplies column by column: hundreds of lines
            if any(isinstance(module, nn.RNNBase) for root in self.roots for module in root.modules()):
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
            if self.written_out:
                stack.enter_context(WrittenOut())
            if self.lifting:
                stack.enter_context(lifted(self.dtype))
            if self.dense:
                stack.enter_context(DenseEmbeddings())
            yield


def derivatives(value: Tensor, leaves: Sequence[Tensor], *, keep: bool = False) -> list[Tensor]:
    """The derivatives of a 0-d value in every leaf, zeros where it does not depend on one; with a graph if asked."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found: Any = torch.autograd.grad(value, leaves, create_graph=keep, allow_unused=True, materialize_grads=True)
    return list(found)


def transposed(values: Sequence[Tensor], leaves: Sequence[Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of sum <values, parts> in the leaves; zeros where nothing depends on them."""
    pairs = [(value, part) for value, part in zip(values, parts, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(
        [value for value, _ in pairs],
        leaves,
        [part for _, part in pairs],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return list(found)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
