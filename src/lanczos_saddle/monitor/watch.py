"""The same certified count every so many steps of a training loop, which stays as it is.

    monitor = SpectrumMonitor(model, loss, (x, y), relative_threshold=1e-3, every=100)
    monitor.step(0), monitor.step(1), ...   in the loop: counts when it is due and the share of time allows it
    print(monitor)                          a row a count, and what it cost

A count takes place within the call, and nothing runs beside the training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from lanczos_saddle.counting.count import count_eigenvalues
from lanczos_saddle.counting.options import Options
from lanczos_saddle.counting.result import LOG, Counts
from lanczos_saddle.defaults import CONFIDENCE
from lanczos_saddle.monitor.account import Account
from lanczos_saddle.monitor.fixed_data import fixed
from lanczos_saddle.monitor.moments import HEAD, KIND, FailedCount, WatchedMoment
from lanczos_saddle.monitor.untouched import copied, refuse_sharded, untouched
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.parameters import Selection, refuse_unready, select_parameters, unwrapped
from lanczos_saddle.operators.operator import as_operator
from lanczos_saddle.operators.scalars import whole
from lanczos_saddle.reports.records import Record, append, provenance

SHARE = 0.05
"""Of the training time; what is nearly not felt."""

PROBES, STEPS = 4, 60
"""Of every count: enough to certify an empty class, and to see below 1e-3 of the largest eigenvalue."""

LogFn = Callable[[dict[str, float], int], Any]
Make = Callable[[nn.Module], Any]


class SpectrumMonitor:
    """Counts the Hessian's eigenvalues while a network trains, within a share of the training time.

    Every count has the same samples, probes, steps and seed, so that curves compare. Training is not changed by a bit:
    a copy of the model in eval mode is counted, in float64 (dropout is off, batch norm has its running statistics), and
    random states are put back. What fails is logged once with its reason, and training goes on.

    The first call of `step` counts at once, on credit: it shows what a count costs. From then on one starts only where,
    at the cost of those before, all together stay within `share` of the time that training has taken. So the share
    holds from (seconds of the first count) / share on; `used` and `str(monitor)` say what it was. A count that is left
    out is not made up for: moments are at multiples of `every`.

    Args:
        model: the model in training; DataParallel, DistributedDataParallel and `torch.compile` are taken off.
        loss: loss(outputs, targets), as of `Hessian`; None: the model returns its own. A loss that reads the model's
            parameters through a closure is refused: pass `operator`.
        data: (inputs, targets), or a loader or list of such batches; it is passed over once, here, and kept.
        every: steps between the counts that are due.
        threshold, relative_threshold: tau, absolute or as a fraction of the largest |eigenvalue| at that moment.
        share: seconds that the monitor takes, all its calls together, over seconds of training; None: no limit, each
            count that is due is made.
        samples: at most so many, drawn once; all if not given. A count takes products over all of them.
        parameters, dtype: as of `Hessian`; dtype None: that of the parameters.
        method, probes, steps, confidence: as of `count_eigenvalues`, "lanczos" or "exact".
        operator: operator(copy) -> what is counted, in place of loss and data; `copy` is that of the model:
            ``lambda net: Hessian.of(lambda: loss(net(x), y) + decay(net), net)``.
        seed: of the probes, the same at every count, and of the samples.
        log_fn: log_fn(numbers, step) after every count; `numbers` is flat, with names such as "hessian/negative_upper".
        record: a file of JSON lines, to which every count is added.
        shared: objects that the model refers to and that are not copied with it, such as a trainer.

    Cost of a count: a copy of the model, and probes * steps + about 15 products over the watched samples.
    Under torch.distributed rank 0 counts alone, and the others wait for it at their next collective.

    Raises ValueError for misuse and for parameters that are spread over ranks (FSDP, DTensor), here and not later.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Any] | None = None,
        data: Any = None,
        *,
        every: int = 100,
        threshold: float | None = None,
        relative_threshold: float | None = None,
        share: float | None = SHARE,
        samples: int | None = None,
        parameters: Selection = "*",
        dtype: torch.dtype | None = torch.float64,
        method: Literal["lanczos", "exact"] = "lanczos",
        probes: int = PROBES,
        steps: int = STEPS,
        confidence: float = CONFIDENCE,
        operator: Make | None = None,
        seed: int = 0,
        log_fn: LogFn | None = None,
        record: str | os.PathLike[str] | None = None,
        shared: Iterable[Any] = (),
    ) -> None:
        _check(model, loss, data, operator, log_fn)
        self.model, self.loss, self.seed, self.every = model, loss, whole("seed", seed), _positive("every", every)
        self.account = Account(share)
        entered = self.account.now()
        self.moments: list[WatchedMoment] = []
        self.failures: list[FailedCount] = []
        self.left_out = 0
        self._make, self._log_fn, self._record, self._shared = operator, log_fn, record, tuple(shared)
        self._parameters, self._dtype, self._at, self._tried = parameters, dtype, 0, False
        chosen = select_parameters(unwrapped(model), parameters)
        refuse_unready(unwrapped(model), chosen)
        size = sum(p.numel() for p in chosen.values())
        self._device = next(iter(chosen.values())).device
        self._asked: dict[str, Any] = {"method": method, "confidence": confidence}
        self._asked |= {"threshold": threshold, "relative_threshold": relative_threshold}
        if method != "exact":
            self._asked |= {"probes": probes, "steps": min(_positive("steps", steps), size)}
        Options(**self._asked).check(as_operator(lambda v: v, size))
        with untouched(self._device):
            self.data = None if data is None else fixed(data, _maybe(samples), seed=self.seed, calls=loss is None)
        self.account.book(self.account.now() - entered)

    @property
    def used(self) -> float:
        """Seconds in the monitor as a fraction of those of training, until now; infinite before any training."""
        return self.account.used

    def step(self, step: int | None = None, *, epoch: float | None = None) -> WatchedMoment | None:
        """Say that training has come to this step (one more if not given), and count if it is due and affordable.

        Otherwise it takes a microsecond or two, which are booked as well. Returns what was seen, None where nothing was
        counted.
        """
        entered = self.account.enter()
        last, self._at = self._at, self._at + 1 if step is None else step if type(step) is int else whole("step", step)
        if self._tried and (self._at % self.every or self._at == last):
            self.account.leave(entered)
            return None
        if self.account.affords:
            return self.count(self._at, epoch=epoch)
        self.left_out += 1
        self.account.leave(entered)
        return None

    def count(self, step: int | None = None, *, epoch: float | None = None) -> WatchedMoment | None:
        """Count now, whatever the account says; the time is booked. None where it failed (`failures`).

        Where only `log_fn` or the record failed, that is among the failures, and what was seen is returned.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return None
        self._tried, self._at = True, self._at if step is None else whole("step", step)
        self._settle()  # what training has queued is training's time
        self.account.begin()
        training = self.account.training
        with self.account.spending(), untouched(self._device):
            moment = None
            try:
                moment = self._seen(epoch, training)
                self._tell(moment)
            except Exception as error:  # of the user's model, loss, log_fn: none of them ends the training
                self._failed(error, "count" if moment is None else "telling the count")
            return moment

    def close(self) -> str:
        """Training is over: stop the clock, log and return what the watching cost, the last line of `str(monitor)`."""
        self.account.end()
        LOG.info("%s", self.cost())
        return self.cost()

    def cost(self) -> str:
        """How many counts, and which share of the time they took."""
        account = self.account
        allowed = "no limit" if account.share is None else f"{100 * account.share:g} % allowed"
        said = f"{len(self.moments)} counts in {account.training:.1f} s of training took {account.spent:.1f} s"
        said += f", {100 * self.used:.1f} % ({allowed})" if math.isfinite(self.used) else f" ({allowed})"
        said += f"; {self.left_out} that were due are left out" if self.left_out else ""
        if account.share is not None and self.used > account.share:
            need = account.spent / account.share
            said += f"; within the share from {need:.0f} s of training on"
        return said + (f"; {len(self.failures)} failed ({self.failures[-1].reason})" if self.failures else "")

    def __str__(self) -> str:
        return "\n".join([HEAD, *map(str, self.moments), self.cost()])

    def _seen(self, epoch: float | None, training: float) -> WatchedMoment:
        began, spent = self.account.now(), self.account.spent
        twin, loss = copied(self.model, self.loss, self._shared)
        operator = self._operator(twin, loss)
        counts = self._counts(operator)
        value = _loss(operator)
        self._settle()
        seconds = self.account.now() - began
        share = (spent + seconds) / training if self.account.foretold else math.inf  # the first: before any training
        moment = WatchedMoment(self._at, epoch, value, counts, seconds, training, share)
        self.moments.append(moment)
        return moment

    def _operator(self, twin: nn.Module, loss: Any) -> Any:
        if self._make is not None:
            return self._make(twin)
        return Hessian(twin, loss, self.data, parameters=self._parameters, dtype=self._dtype)

    def _counts(self, operator: Any) -> Counts:
        generator = torch.Generator().manual_seed(self.seed)
        found: Counts = count_eigenvalues(operator, generator=generator, **self._asked)
        return found

    def _tell(self, moment: WatchedMoment) -> None:
        if self._record is not None:
            append(self._record, self._line(moment))
        if self._log_fn is not None:
            self._log_fn(moment.numbers(), moment.step)

    def _line(self, moment: WatchedMoment) -> Record:
        asked = {**self._asked, "every": self.every, "share": self.account.share}
        counts = moment.counts
        return Record(KIND, asked, moment.result(), self.seed, counts.products, moment.seconds, provenance())

    def _failed(self, error: Exception, what: str) -> None:
        failure = FailedCount.of(self._at, error)
        if failure.reason not in {known.reason for known in self.failures}:
            LOG.warning("%s at step %d failed, training goes on; said once: %s", what, failure.step, failure.reason)
        self.failures.append(failure)

    def _settle(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _loss(operator: Any) -> float:
    """The mean loss that was differentiated; NaN of what is no function."""
    problem = getattr(operator, "problem", None)
    return math.nan if problem is None else float(problem.value())


def _positive(name: str, value: Any) -> int:
    number = whole(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1; got {number}")
    return number


def _maybe(samples: int | None) -> int | None:
    return None if samples is None else _positive("samples", samples)


def _check(model: Any, loss: Any, data: Any, operator: Any, log_fn: Any) -> None:
    """Refuse what cannot be watched; raises ValueError."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    refuse_sharded(model)
    if (operator is None) == (data is None):
        raise ValueError(
            "pass data (with a loss, or None where the model returns its own), or operator, a function of the copied "
            f"model; got {'both' if operator is not None else 'neither'}"
        )
    if operator is not None and loss is not None:
        raise ValueError("operator says what is counted, its loss included; got a loss beside it: leave one out")
    for name, given in (("loss", loss), ("operator", operator), ("log_fn", log_fn)):
        if given is not None and not callable(given):
            raise ValueError(f"{name} must be callable; got {type(given).__name__}")
