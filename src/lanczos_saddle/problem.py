"""The loss as one function of one flat vector theta, over batches.

    L(theta) = sum_b s_b(theta) / sum_b w_b        (`losses`: a mean over samples, not a mean of batch means)

theta (N,) holds the selected parameters one after the other, in the order of ``model.named_parameters()``,
tied ones once. Everything else in the model is frozen. All values are copied when the problem is made:
training the model further does not change it. The model is called through ``torch.func.functional_call`` and
never modified.

Samples of one batch must not interact: batches are cut into smaller ones to bound memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lanczos_saddle.batches import Batch, Batches, refuse_sampling, tensors
from lanczos_saddle.losses import IGNORED, BatchLoss
from lanczos_saddle.parameters import (
    common_device,
    common_dtype,
    module_state,
    real_dtype,
    refuse_nonfinite,
    refuse_randomness,
    select_parameters,
)

SAMPLES = 1024  # batch limit of value() and gradient(); large enough to keep a processor busy
TRIAL = 8  # samples of the trial evaluation
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)  # types that can hold IGNORED


class Problem:
    """The mean of `loss(model(inputs), targets)` over all samples of `data`, as a function of theta (N,).

    Args:
        model: called as model(inputs), model(*inputs) for a tuple or list, model(**inputs) for a dict.
        loss: a function or module of (outputs, targets): a mean, a sum (with .reduction = "sum") or one value
            per sample.
        data: a pair (inputs, targets) of tensors, kept on the device and not to be changed, or a re-iterable of
            such pairs that gives the same samples at every pass, in any order.
        parameters: a name pattern, or several, as in fnmatch ("*", "layer1.*"); of the trainable parameters.
        dtype: float32 or float64; the parameters' own when None.
        device: the parameters' own when None.
        batch_weight: batch_weight(targets) -> what the mean over these targets weighs, such as the number of
            tokens that count; see `losses` for the rule without it.

    Cost: a copy of the model, and two evaluations on at most 8 samples.

    Raises ValueError when the loss is not one deterministic, finite function of theta: no trainable
    parameter, dropout or batch statistics in use, random numbers drawn in the model, NaN or infinite weights
    or data, a loss that does not add up over parts of a batch, a mean of unknown weight over targets some of
    which are ignored (-100), data of the wrong form, a loader that samples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any],
        data: Any,
        *,
        parameters: str | Sequence[str] = "*",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_weight: Callable[[Any], float | Tensor] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        chosen = select_parameters(model, parameters)
        refuse_randomness(model)
        self.dtype = common_dtype(chosen) if dtype is None else real_dtype(dtype)
        self.device = common_device(chosen) if device is None else torch.empty(0, device=device).device
        self.model, self.loss = model, loss
        self.names = tuple(chosen)
        self.shapes = {name: p.shape for name, p in chosen.items()}
        self.sizes = {name: p.numel() for name, p in chosen.items()}
        ends = [0, *accumulate(self.sizes.values())]
        self.ranges = {name: slice(*ends_) for name, ends_ in zip(self.names, pairwise(ends), strict=True)}
        self.frozen = module_state(model, self.dtype, self.device)
        self.theta = torch.cat([self.frozen.pop(name).reshape(-1) for name in self.names])  # (N,)
        refuse_nonfinite(dict(model.named_parameters()))
        refuse_sampling(data)
        self.data = Batches(data, self.dtype, self.device)
        state = module_state(loss, self.dtype, self.device) if isinstance(loss, nn.Module) else {}
        self.batch_loss = BatchLoss(loss, batch_weight, state)
        self._weight: float | None = None
        self._weights: dict[int, list[float]] = {}  # of resident data, by batch limit
        self._guessed = False
        self._try()

    @property
    def size(self) -> int:
        """N, the number of selected parameters."""
        return len(self.theta)

    def to(self, dtype: torch.dtype) -> Problem:
        """The same problem, at the same values, in another floating-point type; data are cast when used."""
        other = copy.copy(self)
        other.dtype, other.theta = real_dtype(dtype), self.theta.to(dtype)
        other.frozen = {name: t.to(dtype) if t.is_floating_point() else t for name, t in self.frozen.items()}
        other.data, other.batch_loss = self.data.to(dtype), self.batch_loss.to(dtype)
        other._weights = {}  # class weights are rounded
        return other

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """The selected parameters by name, as views of theta (N,)."""
        return {name: theta[self.ranges[name]].view(self.shapes[name]) for name in self.names}

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        """model(inputs) with theta (N,) in place of the selected parameters."""
        state = {**self.frozen, **self.unflatten(theta)}
        if isinstance(batch.inputs, Mapping):
            return functional_call(self.model, state, (), dict(batch.inputs))
        inputs = tuple(batch.inputs) if isinstance(batch.inputs, tuple | list) else (batch.inputs,)
        return functional_call(self.model, state, inputs)

    def share_of(self, outputs: Any, batch: Batch) -> Tensor:
        """s_b (0-d) of the model's outputs: the loss times what the batch weighs."""
        return self.batch_loss.share(outputs, batch.targets, batch.size, batch.weight)

    def share(self, theta: Tensor, batch: Batch) -> Tensor:
        """s_b(theta) (0-d): the batch's share of the total, before division by the total weight."""
        return self.share_of(self.outputs(theta, batch), batch)

    def batches(self, limit: int = SAMPLES) -> Iterator[Batch]:
        """One pass: batches of at most `limit` samples with their weights; those of weight 0 are left out."""
        known, weights = self._weights.get(limit), list[float]()
        for index, batch in enumerate(self.data(limit)):
            weights.append(known[index] if known else self._weigh(batch))
            if weights[-1] > 0:
                yield replace(batch, weight=weights[-1])
        self._close_pass(sum(weights))
        if self.data.resident is not None:  # to ask again would make every product wait for the device
            self._weights[limit] = weights

    @property
    def weight(self) -> float:
        """sum_b w_b, known after the first pass over the data; asking before makes one."""
        if self._weight is None:
            with self.evaluating():
                for _ in self.batches():
                    pass
        return self._weight or 0.0

    def value(self, theta: Tensor | None = None, *, limit: int = SAMPLES) -> Tensor:
        """L(theta) (0-d) over all samples; at the problem's own theta when None."""
        theta = self.theta if theta is None else theta
        with self.evaluating():
            total = sum((self.share(theta, batch) for batch in self.batches(limit)), self.theta.new_zeros(()))
        return total / self.weight

    def gradient(self, theta: Tensor | None = None, *, limit: int = SAMPLES) -> Tensor:
        """The gradient of L (N,) over all samples; at the problem's own theta when None."""
        theta, total = self.theta if theta is None else theta, torch.zeros_like(self.theta)
        with self.evaluating():
            for batch in self.batches(limit):
                total += torch.func.grad(self.share)(theta, batch)
        return total / self.weight

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The state for a pass: no autograd graph, no fused attention, torch's global random state restored.

        Fused attention kernels (flash, memory-efficient, the encoder's fast path) have no second derivative.

        Raises ValueError when the model was put in a mode with dropout or batch statistics meanwhile.
        """
        refuse_randomness(self.model)
        fused = torch.backends.mha.get_fastpath_enabled()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
            torch.backends.mha.set_fastpath_enabled(False)
            yield

    def _close_pass(self, total: float) -> None:
        if total <= 0:
            raise ValueError("the samples must have a positive total weight; got 0: are all targets ignored?")
        if self._weight is not None and abs(total - self._weight) > 1e-6 * total:
            raise ValueError(
                "every pass over the data must give the same samples; got total weights "
                f"{self._weight} and {total}: use a loader without sampling or drop_last"
            )
        self._weight = total if self._weight is None else self._weight

    def _try(self) -> None:
        """Evaluate a few samples, whole and in two parts: what is wrong is said before work starts."""
        with self.evaluating():
            spread = self.data.spread(TRIAL)
            weight = self._weigh(spread)
            whole = replace(spread, weight=weight) if weight > 0 else next(self.batches(TRIAL))
            before = self._random_state()
            share = self._attempt(whole)
            if not math.isfinite(share):
                raise ValueError(
                    f"the loss must be finite; got {share} on {whole.size} samples: a "
                    "mean over targets that are all ignored needs batch_weight"
                )
            if not torch.equal(before, self._random_state()):
                raise ValueError(
                    "the model and the loss must be deterministic; they drew random numbers on "
                    "evaluation: switch functional dropout or sampling off"
                )
            outputs = self.outputs(self.theta, whole)
            self.output_dimensions = outputs.ndim if isinstance(outputs, Tensor) else None
            self._guessed = self.batch_loss.weight_is_guessed(outputs, whole.targets)
            if whole.size > 1:
                cut = max(1, whole.size // 3)
                halves = [whole.part(*ends) for ends in ((0, cut), (cut, whole.size))]
                parts = [replace(half, weight=self._weigh(half)) for half in halves]
                self._refuse_interaction(share, sum(map(self._attempt, parts)), whole)

    def _weigh(self, batch: Batch) -> float:
        if self._guessed and any(t.dtype in SIGNED and bool((t == IGNORED).any()) for t in tensors(batch.targets)):
            raise ValueError(
                f"a mean over targets some of which are ignored needs its weight; got targets of {IGNORED} and a loss "
                f"of unknown rule: pass batch_weight=lambda targets: (targets != {IGNORED}).sum(), or "
                "batch_weight=len where these are values like others"
            )
        return self.batch_loss.weight(batch.targets, batch.size)

    def _attempt(self, batch: Batch) -> float:
        if batch.weight == 0:
            return 0.0
        try:
            return float(self.share(self.theta, batch))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            shapes = [tuple(t.shape) for t in tensors((batch.inputs, batch.targets))]
            raise ValueError(
                "the model and the loss must accept the data; on tensors of shapes "
                f"{shapes} they raised {type(error).__name__}: {error}"
            ) from error

    def _refuse_interaction(self, whole: float, parts: float, batch: Batch) -> None:
        """A batch's share is the sum of its parts' shares, to the square root of the rounding unit."""
        eps = torch.finfo(self.dtype).eps
        if not abs(whole - parts) <= math.sqrt(eps) * abs(whole) + 100 * eps * batch.weight:
            raise ValueError(
                f"the loss must add up over the parts of a batch; got {whole} for {batch.size} samples "
                f"and {parts} in two parts: return a mean or one value per sample, not a bare sum; a mean "
                "over tokens needs batch_weight=lambda targets: (their number). Samples must not mix"
            )

    def _random_state(self) -> Tensor:
        cpu = torch.get_rng_state()
        return torch.cat([cpu, torch.cuda.get_rng_state(self.device)]) if self.device.type == "cuda" else cpu
