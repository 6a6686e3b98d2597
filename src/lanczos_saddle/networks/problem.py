"""The loss as one function of one flat vector theta, over batches.

    L(theta) = sum_b s_b(theta) / sum_b w_b        (`losses`: a mean over samples, not a mean of batch means)

theta (N,) holds the selected parameters one after the other, in the order of ``model.named_parameters()``,
tied ones once. Everything else in the model is frozen. All values are copied when the problem is made:
training the model further does not change it. While model and loss are evaluated the copies stand in the place of the
model's own tensors (``torch.func.functional_call`` over both, so that a loss that reads ``model.parameters()`` or
calls the model again sees them); afterwards the model is as it was.

Samples of one batch must not interact: batches are cut into smaller ones to bound memory. Every batch of the first
pass must add up with the others (`mixture`): a mean of unknown weights does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import (
    Batch,
    Batches,
    evenly,
    joined,
    map_tensors,
    may_be_pair,
    read_batch,
    read_call,
    refuse_sampling,
    tensors,
)
from lanczos_saddle.networks.comparison.differences import MANY, beside
from lanczos_saddle.networks.comparison.mixture import Mixture
from lanczos_saddle.networks.comparison.survey import first_calls, native
from lanczos_saddle.networks.losses import IGNORED, BatchLoss, label_rules, own_loss
from lanczos_saddle.networks.objective import SAMPLES, TRIAL, Objective
from lanczos_saddle.networks.parameters import (
    Selection,
    common_device,
    common_dtype,
    module_state,
    real_dtype,
    refuse_nonfinite,
    refuse_randomness,
    refuse_unready,
    select_parameters,
    unwrapped,
)
from lanczos_saddle.networks.placement import flat, pristine, stale
from lanczos_saddle.networks.refusals import (
    MisuseError,
    WeightlessError,
    changing,
    device_of,
    quoted,
    refuse_loss,
    way_out,
)
from lanczos_saddle.operators.inference import differentiable

T = TypeVar("T")

SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)  # types that can hold IGNORED


class Problem(Objective):
    """The mean of `loss(model(inputs), targets)` over all samples of `data`, as a function of theta (N,).

    Args:
        model: called as model(inputs), model(*inputs) for a tuple or list, model(**inputs) for a dict. What wraps it
            (DataParallel, DistributedDataParallel, torch.compile) is taken off.
        loss: a function or module of (outputs, targets): a mean, a sum (with .reduction = "sum") or one value
            per sample. None: the model returns its own loss, as models of transformers do.
        data: a pair (inputs, targets) of tensors or nests of them, kept on the device and not to be changed, or a
            re-iterable of such pairs that gives the same samples at every pass, in any order. With loss=None what the
            model is called with: a dict or tuple of tensors, or a re-iterable of them.
        parameters: a name pattern, or several, as in fnmatch ("*", "layer1.*"), or a function of (name, parameter);
            of the trainable parameters.
        dtype: float32 or float64; the parameters' own when None.
        device: the parameters' own when None.
        batch_weight: batch_weight(targets) -> what the mean over these targets weighs, such as the number of
            tokens that count; see `losses` for the rule without it.
        collate: makes a batch of a list of samples; `data` is then a sequence of samples of any lengths.

    Cost: a copy of the model, and a few evaluations on at most 8 samples.

    Raises ValueError when the loss is not one deterministic, finite function of theta: no trainable
    parameter, dropout or batch statistics in use, random numbers drawn in the model, NaN or infinite weights
    or data, a loss that does not add up over parts of a batch or over batches, a mean of unknown weight over targets
    some of which are ignored (-100), data of the wrong form, a loader that samples, parameters of the loss's own.
    """

    _writes = False  # whether model or loss write into what they are given
    _few: Batch | None = None  # a sample of the first that was evaluated
    _alone = False  # whether the first was one sample, which cannot show that samples mix
    _weight_rounding = 0.0  # of what batch_weight gives
    _elsewhere: list[Tensor] | None = None  # the second point of `_points`, none where the loss cannot be had there

    @turn()
    @differentiable
    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | None,
        data: Any,
        *,
        parameters: Selection = "*",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        batch_weight: Callable[[Any], float | Tensor] | None = None,
        collate: Callable[[Sequence[Any]], Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module; got {type(model).__name__}")
        refuse_loss(loss, batch_weight)
        given, model = model, unwrapped(model)
        chosen = select_parameters(model, parameters)
        refuse_unready(model, chosen)
        self.model = model
        self.loss = own_loss if loss is None else loss
        self.roots = (model, *((self.loss,) if isinstance(self.loss, nn.Module) else ()))
        for root in self.roots:
            refuse_randomness(root)
        self.dtype = common_dtype(chosen) if dtype is None else real_dtype(dtype)
        self.device = common_device(chosen) if device is None else device_of(device)
        self._take(chosen)
        self.frozen = module_state(model, self.dtype, self.device)
        self.theta = flat(self.frozen.pop(name) for name in self.names)  # (N,)
        refuse_nonfinite(dict(model.named_parameters()))
        refuse_sampling(data)
        self._own: set[str] = set(self.frozen) | set(self.names)
        state = self._loss_state()
        self.frozen_loss = state
        self.batch_loss = BatchLoss(self.loss, batch_weight, state)
        self._around = _Around(model, self.loss)
        self._weight: float | None = None
        self._weights: dict[int, list[float]] = {}  # of resident data, by batch limit
        self._guessed = False
        self._adds_up_known = True  # while the problem is made; the first whole pass shows it
        self.data = self._read(data, collate)
        self._try(chosen)
        self.compiled_differs = self._compared_with(given)

    def _cast(self, dtype: torch.dtype) -> Problem:
        other = super()._cast(dtype)
        other.data, other.batch_loss = self.data.to(dtype), self.batch_loss.to(dtype)
        other.frozen_loss = other.batch_loss.state
        other._weights = {}  # class weights are rounded
        other._elsewhere = None
        return other

    def _settle(self) -> None:
        """As of every objective; whether the model writes into what it is given is not known yet."""
        self._writes = True
        super()._settle()
        self._writes = False

    def _probe(self) -> Batch:
        """One sample that weighs something, or all of a trial."""
        return self._small(self.trial()) if self._few is None else self._few.to(self.device, self.dtype)

    def _small(self, trial: Batch) -> Batch:
        first = self.weighed(trial.part(0, 1))
        return first if first.weight > 0 else trial

    @property
    def comes_again(self) -> bool:
        """Whether batch i has the same numbers at every pass: of resident data."""
        return self.data.resident is not None

    def live(self) -> dict[str, Tensor]:
        """The model's parameters and buffers, and those of a loss that is a module."""
        named = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        found = {name: t for name, t in named.items() if name in self._own}
        if isinstance(self.loss, nn.Module):
            named = {**dict(self.loss.named_parameters()), **dict(self.loss.named_buffers())}
            found |= {f"{LOSS}{name}": t for name, t in named.items() if name in self.frozen_loss}
        return found

    @contextmanager
    def placed_at(self, theta: Tensor) -> Iterator[list[Tensor]]:
        """As of every objective; the state of the loss, too."""
        other = copy.copy(self)
        other.frozen = {**self.frozen, **{f"{LOSS}{name}": t for name, t in self.frozen_loss.items()}}
        with Objective.placed_at(other, theta) as leaves:
            yield leaves

    def outputs(self, theta: Tensor, batch: Batch) -> Any:
        """model(inputs) with theta (N,) in place of the selected parameters."""
        return self._functional(theta, lambda: self.own_outputs(batch))

    def share_of(self, outputs: Any, batch: Batch) -> Tensor:
        """s_b (0-d) of the model's outputs: the loss times what the batch weighs."""
        share: Tensor = self._functional(self.theta, lambda: self._share_of(outputs, batch))
        return share

    def share(self, theta: Tensor, batch: Batch) -> Tensor:
        """s_b(theta) (0-d): the batch's share of the total, before division by the total weight."""
        share: Tensor = self._functional(theta, lambda: self.own_share(batch))
        return share

    def own_share(self, batch: Batch) -> Tensor:
        """s_b by the model and the loss as they are called, at what their own tensors hold."""
        return self._share_of(self.own_outputs(batch), batch)

    def own_outputs(self, batch: Batch) -> Any:
        """model(inputs) at what the model's own tensors hold; the model may write into what it is given."""
        lent = torch.clone if self._writes else torch.detach
        return called(self.model, map_tensors(lent, batch.inputs))

    def own_share_of(self, outputs: Any, batch: Batch) -> Tensor:
        """s_b of the outputs at what the loss's own tensors hold."""
        return self._share_of(outputs, batch)

    def _share_of(self, outputs: Any, batch: Batch) -> Tensor:
        targets = map_tensors(torch.clone, batch.targets) if self._writes else batch.targets
        return self.batch_loss.share(outputs, targets, batch.size, batch.weight)

    def _functional(self, theta: Tensor, evaluate: Callable[[], Any]) -> Any:
        """evaluate() while theta and the frozen copies stand in the place of model's and loss's tensors."""
        state = {f"model.{name}": t for name, t in {**self.frozen, **self.unflatten(theta)}.items()}
        state |= {f"loss.{name}": t for name, t in self.frozen_loss.items()}
        with pristine(self.roots):
            return functional_call(self._around, state, (evaluate,))

    def batches(self, limit: int = SAMPLES) -> Iterator[Batch]:
        """One pass: batches of at most `limit` samples with their weights; those of weight 0 are left out."""
        known, weights = self._weights.get(limit), list[float]()
        mixture = None if self._adds_up_known else Mixture(self._guessed)
        for index, batch in enumerate(self.data(limit)):
            weights.append(known[index] if known else self._weigh(batch))
            if mixture is not None:
                mixture.add(batch)
            if weights[-1] > 0:
                yield replace(batch, weight=weights[-1])
        self._close_pass(sum(weights), mixture)
        if self.data.resident is not None:  # to ask again would make every product wait for the device
            self._weights[limit] = weights

    @property
    def samples(self) -> int | None:
        """How many samples there are, where they lie in memory."""
        return None if self.data.resident is None else self.data.resident.size

    @property
    def weight(self) -> float:
        """sum_b w_b, known after the first pass over the data; asking before makes one."""
        if self._weight is None:
            with self.evaluating():
                for _ in self.batches():
                    pass
        return self._weight or 0.0

    def _close_pass(self, total: float, mixture: Mixture | None) -> None:
        if total <= 0:
            raise WeightlessError(
                "the samples must have a positive total weight; got 0: are all targets ignored? of several ranks, one "
                "all of whose samples are so passes None in place of its matrix"
            )
        if self._weight is not None and abs(total - self._weight) > 1e-6 * total:
            raise ValueError(
                "every pass over the data must give the same samples; got total weights "
                f"{self._weight} and {total}: use a loader without sampling or drop_last"
            )
        self._weight = total if self._weight is None else self._weight
        if mixture is not None:
            self._adds_up_known = True
            for whole, parts in mixture.unions():
                self._refuse_interaction(whole, parts)

    def trial(self) -> Batch:
        """A few samples from all over the pair, or from the first batch, with their weight."""
        spread = self.data.spread(TRIAL)
        weight = self._weigh(spread)
        return replace(spread, weight=weight) if weight > 0 else next(self.batches(TRIAL))

    def weighed(self, batch: Batch) -> Batch:
        """The batch with what it weighs."""
        return replace(batch, weight=self._weigh(batch))

    def sample(self, count: int) -> Batch:
        """At most `count` samples: from all over the pair, or some of every batch where these fit together."""
        if self.data.resident is not None:
            return self.data.spread(count)
        kept = Mixture(False, each=8)
        for batch in self.data(count):
            kept.add(batch)
        return evenly(max((whole for whole, _ in kept.unions()), key=lambda b: b.size, default=kept.first), count)

    def check_sums(self, limit: int) -> None:
        """Every batch and its neighbor together have the sum of their shares: asked of means of unknown weight."""
        if not self._guessed:
            return
        last: Batch | None = None
        with self.evaluating():
            for batch in self.batches(max(1, min(SAMPLES, limit // 2))):
                both = None if last is None else joined([last, batch])
                if both is not None and last is not None:
                    self._refuse_interaction(both, [last, batch])
                last = batch

    def few(self) -> Batch:
        """The samples of a trial, on the processor."""
        return self.trial().to(torch.device("cpu"), self.dtype)

    def value_of(self, batch: Batch) -> tuple[float, float]:
        """(s_b, how far it may be off by rounding) of a batch from elsewhere that knows its weight."""
        with self.evaluating():
            share = self._attempt(batch.to(self.device, self.dtype))
        return share, self._slack(share, batch.weight)

    def few_to_join(self) -> Batch | None:
        """On the processor, what tells with samples of other ranks whether all add up; None where that is known.

        Two samples where the weight of a mean is a guess, and one where there is no other beside it.
        """
        cpu = torch.device("cpu")
        if self._guessed:
            return self.data.spread(2).to(cpu, self.dtype)
        return self._few.to(cpu, self.dtype) if self._alone and self._few is not None else None

    def check_together(self, batches: Sequence[Batch]) -> None:
        """The same of batches from elsewhere; of two where all that may be is that samples mix."""
        placed = [batch.to(self.device, self.dtype) for batch in (batches if self._guessed else batches[:2])]
        with self.evaluating():
            for pair in pairwise(placed):
                both = joined(list(pair))
                if both is not None:
                    self._refuse_interaction(both, pair)

    def value_error(self, batch: Batch) -> float:
        """Relative difference of the loss by the user's own code in one piece, and by the shares of three parts."""
        cuts = sorted({0, batch.size // 5, batch.size // 2, batch.size})
        parts = [self.weighed(batch.part(a, b)) for a, b in pairwise(cuts)] if batch.divisible else [batch]
        with self.evaluating():
            with self.placed_at(self.theta), torch.enable_grad():
                own = float(self.own_share(batch).detach())
            shares = sum(float(self.share_at(self.theta, part)) for part in parts if part.weight > 0)
        if not abs(own - shares) <= self._slack(own, batch.weight):
            raise ValueError(
                f"the loss must be that of model and loss as they are called; on {batch.size} samples they give "
                f"{own / (batch.weight or 1)} and its parts {shares / (batch.weight or 1)}: a mean with weights needs "
                "batch_weight, and where samples mix Hessian.of(lambda: loss(model(x), y), model) takes them as a whole"
            )
        return abs(own - shares) / abs(own) if own else abs(own - shares)

    def still(self) -> list[Tensor]:
        """The rows of embeddings at their `padding_idx`, which torch's gradient leaves alone."""
        found = super().still()
        for name, module in self.model.named_modules():
            place = self.ranges.get(f"{name}.weight".lstrip("."))
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and place and module.padding_idx is not None:
                start = place.start + module.padding_idx * module.embedding_dim
                found.append(torch.arange(start, start + module.embedding_dim))
        return found

    def notes(self) -> list[str]:
        """What the arithmetic inside is, and how the network that was trained differs."""
        return [*([self.compiled_differs] if self.compiled_differs else []), *super().notes()]

    def _loss_state(self) -> dict[str, Tensor]:
        """Copies of what a loss module holds beside the model's tensors. Raises ValueError for parameters to train."""
        if not isinstance(self.loss, nn.Module):
            return {}
        shared = {id(t) for t in (*self.model.parameters(), *self.model.buffers())}
        named = dict(self.loss.named_parameters())
        trained = [name for name, p in named.items() if p.requires_grad and id(p) not in shared]
        if trained:
            raise ValueError(
                f"the loss must have no parameters of its own that are trained; got {trained}: they would be left out "
                "of theta. Take both, Hessian.of(lambda: loss(model(x), y), nn.ModuleList([model, loss])), or freeze "
                "them, loss.requires_grad_(False)"
            )
        state = module_state(self.loss, self.dtype, self.device)
        own = {**named, **dict(self.loss.named_buffers())}
        return {name: t for name, t in state.items() if id(own[name]) not in shared}

    def _read(self, data: Any, collate: Callable[[Sequence[Any]], Any] | None) -> Batches:
        """The data; a tuple of two nests is a pair or two batches, whichever the model and the loss accept."""
        read = read_call if self.loss is own_loss else read_batch
        if collate is None and read is read_batch and may_be_pair(data):
            accepted = {}
            for name, form in (("(inputs, targets)", [data]), ("two batches", list(data))):
                try:
                    self.data = Batches(form, self.dtype, self.device)
                    self._settle()
                    with self.evaluating():
                        share = self._attempt(self.trial())
                    if math.isfinite(share):
                        accepted[name] = form
                except ValueError as error:
                    refused = error
            if len(accepted) == 2:
                raise ValueError(
                    "a tuple of two tuples may be (inputs, targets) or two batches, and model and loss accept both: "
                    "write a list, [(inputs, targets)] for one batch, [(x1, y1), (x2, y2)] for two"
                )
            if not accepted:
                raise refused
            form = accepted.popitem()[1]
            return Batches(form[0] if len(form) == 1 else form, self.dtype, self.device, one=len(form) == 1)
        return Batches(data, self.dtype, self.device, read=read, collate=collate)

    def _native_arithmetic(self, whole: Batch, chosen: Mapping[str, Tensor]) -> torch.dtype | None:
        """The type in which the model computes at its own parameters, where that is less precise than here."""
        types = {p.dtype for p in chosen.values()}
        own = next(iter(types)) if len(types) == 1 else self.dtype
        found = own
        if self.dtype != own or torch.is_autocast_enabled(self.device.type):
            found = native(self, whole.part(0, 1), own)
        worse = torch.finfo(found).eps > torch.finfo(self.arithmetic).eps and found != torch.float32
        return found if worse else None

    def _try(self, chosen: Mapping[str, Tensor]) -> None:
        """Evaluate a few samples, whole and in two parts: what is wrong is said before work starts."""
        with self.evaluating():
            whole = self._first(self.trial())
            first = first_calls(self, _copied(self.weighed(whole.part(0, 1))))
        self._settle()
        with self.evaluating():
            if self.lifting:
                whole = self.weighed(whole)
                first = first_calls(self, _copied(self.weighed(whole.part(0, 1))))
            self._weight_rounding = self.batch_loss.rounding(whole.targets)
            before = self._random_state()
            self._versions = {name: t._version for name, t in self._states()}
            outputs, share = self._first_look(whole)
            if not math.isfinite(share):
                raise ValueError(
                    f"the loss must be finite; got {share} on {whole.size} samples: a "
                    "mean over targets that are all ignored needs batch_weight"
                )
            after = self._random_state()
            self._refuse_stale()
            if first.kept:
                raise ValueError(
                    "the model and the loss must compute everything from the parameters at each call; what an earlier "
                    f"call computed is used again ({', '.join(first.kept)}): compute it anew, or empty the cache "
                    "(functools.cache, an object that keeps it, a penalty computed once) at the start of forward"
                )
            if first.others:
                raise ValueError(
                    "the loss must have no parameters of its own that are trained; it reads some of shapes "
                    f"{first.others[:5]}, which the model does not have: they would be left out of theta. Take both, "
                    "Hessian.of(lambda: loss(model(x), y), nn.ModuleList([model, other])), or freeze them, "
                    "other.requires_grad_(False)"
                )
            self.output_dimensions = outputs.ndim if isinstance(outputs, Tensor) else None
            self.survey = first.survey
            self.written_out = self.survey.weight_norm
            self.dense = self.survey.sparse
            self._refuse_changing(whole, None if torch.equal(before, after) else after)
            self.trained_in = self._native_arithmetic(whole, chosen)
            if self.loss is own_loss and self.batch_loss.batch_weight is None:
                self.batch_loss = replace(self.batch_loss, rule=self._label_rule(whole, outputs))
                whole, share = self.weighed(whole), math.nan
            self._guessed = self._evaluated(lambda: self.batch_loss.weight_is_guessed(outputs, whole.targets))
            if whole.size > 1:
                cut = max(1, whole.size // 3)
                halves = [whole.part(*ends) for ends in ((0, cut), (cut, whole.size))]
                self._refuse_interaction(whole, halves, share)
            self._adds_up_known = False
            self._few, self._alone = self._small(whole), whole.size == 1 and whole.divisible
            if self.data.in_memory:
                for _ in self.batches():
                    pass

    def _first(self, trial: Batch) -> Batch:
        """The trial or, where parameters are many and each evaluation is felt, LIGHT samples of it that weigh."""
        if self.size < MANY or not trial.divisible or trial.size <= LIGHT:
            return trial
        light = self.weighed(trial.part(0, LIGHT))
        return light if light.weight > 0 else trial

    def _refuse_changing(self, batch: Batch, drawn: Tensor | None) -> None:
        """Raises ValueError where two evaluations at the same parameters differ: asked here and at a point nearby.

        At a point nearby masks are seen that a layer of zeros hides, and after it a loss that remembers its last call.
        `drawn`: the state of the generator after numbers were drawn; it comes again where a seed is set before that.
        """
        nearby, few = beside(self), self.weighed(batch.part(0, min(2, batch.size)))
        few = few if few.weight > 0 else batch
        here, first = self._attempt(few), self._nearby(few, nearby)
        again, second = self._attempt(few), self._nearby(few, nearby)
        slack = 1e3 * torch.finfo(self.arithmetic).eps * (abs(here) + few.weight)
        apart = [(here, again), (first, second)]
        different = [pair for pair in apart if not abs(pair[0] - pair[1]) <= slack and math.isfinite(sum(pair))]
        rule = "the model and the loss must be deterministic"
        if drawn is not None and not (torch.equal(drawn, self._random_state()) and not different):
            raise ValueError(
                f"{rule}; they drew random numbers on evaluation: switch functional dropout or sampling off, or draw "
                "them once, before, and make them inputs"
            )
        if not different:
            return
        written = [name for name, t in self._states() if t._version != self._versions[name]]
        one, other = (value / (few.weight or 1) for value in different[0])
        raise ValueError(changing(rule, one, other, written))

    def _states(self) -> list[tuple[str, Tensor]]:
        """The copies of what model and loss hold beside theta."""
        return [*self.frozen.items(), *((f"loss.{name}", t) for name, t in self.frozen_loss.items())]

    def _nearby(self, batch: Batch, theta: Tensor) -> float:
        """The share at another point, NaN where it cannot be had."""
        try:
            return float(self.share_at(theta, batch))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # outside of where the loss is defined
            return math.nan

    def _evaluated(self, evaluate: Callable[[], Any]) -> Any:
        """evaluate() at theta, in the way that the problem is evaluated."""
        if not self.in_place:
            return self._functional(self.theta, evaluate)
        with self.placed_at(self.theta), torch.enable_grad():
            return evaluate()

    def _label_rule(self, whole: Batch, outputs: Any) -> Callable[[Any, int], float]:
        """The rule by which the model's own loss adds up over parts: asked with some labels ignored, too.

        Raises ValueError where none does.
        """
        cut = max(1, whole.size // 3)
        cases = [whole]
        labels = whole.targets
        if isinstance(whole.inputs, dict) and isinstance(labels, Tensor) and labels.dtype in SIGNED:
            cases += [_ignoring(whole, part) for part in (slice(0, 1), slice(1, None, 2))]
        if whole.size == 1:
            cases = [whole]
        rules = label_rules()
        errors = {}
        for name in ("labels", "shifted", "samples"):
            found = [self._excess(case, [case.part(0, cut), case.part(cut, case.size)], rules[name]) for case in cases]
            errors[name] = max(found)
        best = min(errors.values())
        for name, error in errors.items():  # where losses of parts are alike, several pass: the first of the best
            if error <= 1 and error <= max(10 * best, 1e-6):
                return rules[name]
        raise ValueError(
            "the loss that the model computes must be a mean over its labels or samples; it does not add up over "
            "parts of a batch (a sum, weights in the batch, a loss of experts' balance?): take one batch whole, "
            f"{_whole_call(whole.inputs, outputs)}, or pass the loss as a function of (outputs, targets); "
            "batch_weight=lambda labels: ... helps where the labels alone tell what their mean weighs"
        )

    def _excess(self, whole: Batch, parts: Sequence[Batch], rule: Callable[[Any, int], float]) -> float:
        """How far shares of the parts are from that of the whole by the rule, as a multiple of rounding."""
        weighed = [replace(b, weight=rule(b.targets, b.size)) for b in (whole, *(parts if whole.size > 1 else ()))]
        if any(b.weight < 0 for b in weighed) or weighed[0].weight == 0:
            return math.inf
        if whole.size == 1:
            self._attempt(weighed[0])
            return 0.0
        excess = []
        for theta, known in self._points(weighed[0]):
            whole_share = self._attempt(weighed[0], theta) if math.isnan(known) else known
            shares = [whole_share, *(self._attempt(b, theta) for b in weighed[1:])]
            excess.append(abs(shares[0] - sum(shares[1:])) / self._slack(shares[0], weighed[0].weight))
        return max(excess)

    def _compared_with(self, given: nn.Module) -> str:
        """What is to be said of a compiled model: it is counted as written, and must have the same value.

        Raises ValueError where it has another one.
        """
        if not hasattr(given, "_orig_mod"):
            return ""
        own = next(self.model.parameters()).dtype
        try:
            with self.evaluating():
                batch = self.weighed(self.data.spread(2)).to(self.device, own)
                eager = float(self._share_of(called(self.model, batch.inputs), batch))
                with torch.compiler.set_stance("default"):
                    compiled = float(self._share_of(called(given, batch.inputs), batch))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler on this machine, say
            return f"the compiled model was not compared with the one that is counted ({type(error).__name__})"
        if not abs(eager - compiled) <= torch.finfo(own).eps ** 0.5 * max(abs(eager), batch.weight):
            raise ValueError(
                f"a compiled model must compute what is written; its loss is {compiled / batch.weight}, uncompiled "
                f"{eager / batch.weight}: pass the model that is not compiled, if that is the one meant"
            )
        return ""

    def _first_look(self, batch: Batch) -> tuple[Any, float]:
        """(outputs, share) of one evaluation on copies, which shows whether model or loss write into what they get."""
        lent = _copied(batch)
        given = tensors((lent.inputs, lent.targets))
        before = [t._version for t in given]

        def evaluate() -> tuple[Any, float]:
            outputs = self.own_outputs(lent)
            return outputs, float(self._share_of(outputs, lent).detach())

        found: tuple[Any, float] = self._safely(batch, lambda: self._evaluated(evaluate))
        self._writes = before != [t._version for t in given]
        return found

    def _refuse_stale(self) -> None:
        """Raises ValueError for a tensor that a module keeps of an earlier pass and an evaluation does not renew."""
        kept = stale(self.roots)
        if not kept:
            return
        with self.placed_at(self.theta), torch.enable_grad():
            self.own_share(self.trial())
            again = stale(self.roots)
        same = [name for name, t in kept.items() if again.get(name) is t]
        if same:
            raise ValueError(
                f"the model must compute everything from its parameters at each call; it keeps {same}, computed "
                "earlier: set that to None, or make the model anew from its weights"
            )

    def _weigh(self, batch: Batch) -> float:
        if self._guessed and any(t.dtype in SIGNED and bool((t == IGNORED).any()) for t in tensors(batch.targets)):
            raise ValueError(
                f"a mean over targets some of which are ignored needs its weight; got targets of {IGNORED} and a loss "
                f"of unknown rule: pass batch_weight=lambda targets: (targets != {IGNORED}).sum(), or "
                "batch_weight=len where these are values like others"
            )
        with self.evaluating() if self.lifting else nullcontext():
            return self.batch_loss.weight(batch.targets, batch.size)

    def _attempt(self, batch: Batch, theta: Tensor | None = None) -> float:
        if batch.weight == 0:
            return 0.0
        return self._safely(batch, lambda: float(self.share_at(self.theta if theta is None else theta, batch)))

    def _points(self, batch: Batch) -> list[tuple[Tensor, float]]:
        """Theta and, where the loss can be had there, a point at which samples differ; and the share, NaN if not known.

        A head of zeros, or residuals that are all zero, give every sample the same loss: no weights show.
        """
        known = math.nan
        if self._elsewhere is None:
            self._elsewhere = []
            for point in (self._moved(added=True), self._moved(added=False)):
                try:
                    share = float(self.share_at(point, batch))
                except torch.OutOfMemoryError:
                    raise
                except Exception:  # a model need not work everywhere
                    continue
                if math.isfinite(share):
                    self._elsewhere, known = [point], share
                    break
        return [(self.theta, math.nan), *((point, known) for point in self._elsewhere)]

    def _moved(self, *, added: bool) -> Tensor:
        """Theta with each parameter off by ELSEWHERE of its own size (of all, where it is zero), or by factors."""
        noise = torch.randn(self.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(self.theta)
        if not added:
            return self.theta * (1 + ELSEWHERE * noise)
        sizes = self.theta.new_zeros(self.size)
        usual = float(self.theta.norm()) / self.size**0.5 or 1.0
        for part in self.ranges.values():
            own = float(self.theta[part].norm()) / max(1, part.stop - part.start) ** 0.5
            sizes[part] = own or usual
        return self.theta + ELSEWHERE * sizes * noise

    def _safely(self, batch: Batch, evaluate: Callable[[], T]) -> T:
        """evaluate(), in place where that alone works; ValueError for whatever model and loss raise."""
        try:
            return evaluate()
        except (torch.OutOfMemoryError, MisuseError):
            raise
        except Exception as error:  # a model may raise anything
            if not self.in_place:  # what a function of theta cannot do, the model itself may
                self.in_place = True
                return self._safely(batch, evaluate)
            shapes = [tuple(t.shape) for t in tensors((batch.inputs, batch.targets))]
            raise ValueError(
                "the model and the loss must accept the data; on tensors of shapes "
                f"{shapes} they raised {quoted(error)}{way_out(error, self.dtype)}"
            ) from error

    def _slack(self, share: float, weight: float) -> float:
        """How far shares may differ by rounding: to the root of the unit in float64, ROUNDED units in other types."""
        eps = torch.finfo(self.arithmetic).eps
        relative = max(math.sqrt(torch.finfo(torch.float64).eps), min(math.sqrt(eps), ROUNDED * eps))
        return (relative + 32 * self._weight_rounding) * abs(share) + 100 * eps * weight

    def _refuse_interaction(self, whole: Batch, parts: Sequence[Batch], share: float = math.nan) -> None:
        """A batch's share, if it is known, is the sum of its parts' shares, to the root of the rounding unit."""
        weighed = [self.weighed(b) for b in (whole, *parts)]
        for theta, known in self._points(weighed[0]):
            share = known if math.isnan(share) else share
            share = self._attempt(weighed[0], theta) if math.isnan(share) else share
            others = [self._attempt(part, theta) for part in weighed[1:]]
            if not abs(share - sum(others)) <= self._slack(share, weighed[0].weight):
                raise ValueError(
                    f"the loss must add up over the parts of a batch; got {share} for {whole.size} samples "
                    f"and {sum(others)} in {len(parts)} parts: return a mean or one value per sample, not a bare sum; "
                    "a mean over tokens, or with class weights, needs batch_weight=lambda targets: (what they weigh). "
                    "Samples must not mix; where they do, Hessian.of(lambda: loss(model(x), y), model) takes all as one"
                )
            share = math.nan

    def _random_state(self) -> Tensor:
        cpu = torch.get_rng_state()
        return torch.cat([cpu, torch.cuda.get_rng_state(self.device)]) if self.device.type == "cuda" else cpu


ROUNDED = 512.0
"""Rounding units of less precise arithmetic by which a sum of shares may be off."""

LIGHT = 4
"""Samples of the first evaluations where parameters are many."""

ELSEWHERE = 0.1
"""How far from theta sums are asked for a second time, relative to each parameter."""

LOSS = "\0loss."
"""Before names of the loss's tensors, where they stand beside the model's."""


class _Around(nn.Module):
    """Model and loss under one roof, so that both are called with tensors in the place of their own."""

    def __init__(self, model: nn.Module, loss: Any) -> None:
        super().__init__()
        self.model = model
        if isinstance(loss, nn.Module):
            self.loss = loss

    def forward(self, evaluate: Callable[[], Any]) -> Any:
        return evaluate()


def _whole_call(inputs: Any, outputs: Any) -> str:
    """How the loss of one batch is taken whole where the model computes it."""
    stars = "**" if isinstance(inputs, Mapping) else "*" if isinstance(inputs, tuple | list) else ""
    end = ""
    if getattr(outputs, "loss", None) is not None:
        end = ".loss"
    elif isinstance(outputs, Mapping):
        end = "['loss']"
    elif isinstance(outputs, tuple | list):
        end = "[0]"
    return f"Hessian.of(lambda: model({stars}batch){end}, model)"


def _copied(batch: Batch) -> Batch:
    """The batch with tensors of its own, which a forward pass may write into."""
    inputs, targets = (map_tensors(torch.clone, nest) for nest in (batch.inputs, batch.targets))
    return replace(batch, inputs=inputs, targets=targets)


def called(model: nn.Module, inputs: Any) -> Any:
    """model(inputs), model(*inputs) for a tuple or list, model(**inputs) for a dict."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ignoring(batch: Batch, columns: slice) -> Batch:
    """The batch with labels of its first third ignored: those of `columns`, or of every second sample."""
    labels = batch.targets.clone()
    third = max(1, batch.size // 3)
    if labels.ndim > 1:
        labels[:third, columns] = IGNORED
    else:
        labels[: third if columns.step is None else batch.size : 2] = IGNORED
    return replace(batch, inputs={**batch.inputs, "labels": labels}, targets=labels.detach())
