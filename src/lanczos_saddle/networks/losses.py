"""What one batch contributes to the total loss: a share s_b of weight w_b, and L = sum_b s_b / sum_b w_b.

    the loss returns                 share s_b              default weight w_b
    a mean (0-d)                     w_b * loss             number of samples
    a sum (0-d, reduction="sum")     loss                   number of samples
    one value per sample (n, ...)    sum of the values      number of samples

So L is a mean over samples, not a mean of batch means. A mean of `nn.CrossEntropyLoss` or `nn.NLLLoss`, or of
their functions, over class indices weighs the sum of the class weights of its targets that are not ignored; the loss
that a model computes itself weighs its labels that count (`label_rules`); `batch_weight` overrides all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lanczos_saddle.networks.refusals import MisuseError, number, quoted

IGNORED = -100
"""Torch's default for `ignore_index`: what the functions below leave out of their mean."""

CLASS_MEANS = (nn.functional.cross_entropy, nn.functional.nll_loss)


@dataclass(frozen=True)
class BatchLoss:
    """A loss of (outputs, targets) with the rule of its shares and weights."""

    loss: Callable[..., Any]
    batch_weight: Callable[[Any], float | Tensor] | None
    state: dict[str, Tensor]  # of a loss that is a module, such as class weights
    rule: Callable[[Any, int], float] | None = None  # weight of the loss that the model computes itself

    def to(self, dtype: torch.dtype) -> BatchLoss:
        """The same loss with its state in another floating-point type."""
        return replace(
            self, state={name: t.to(dtype) if t.is_floating_point() else t for name, t in self.state.items()}
        )

    def weight(self, targets: Any, size: int) -> float:
        """w_b >= 0; 0 when the batch says nothing (all targets ignored). Raises ValueError if it is not."""
        if self.batch_weight is not None:
            weight = self._asked_weight(targets, size)
        elif self.rule is not None:
            weight = self.rule(targets, size)
        elif (ignored := self._ignored(targets)) is not None:
            weight = self._class_weight(targets[targets != ignored])
        else:
            weight = float(size)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"batch_weight and class weights must give a finite weight >= 0; got {weight} for {size} samples"
            )
        return weight

    def rounding(self, targets: Any) -> float:
        """The rounding unit of what `batch_weight` gives; 0 for whole numbers and Python's own."""
        given = 0.0 if self.batch_weight is None else self.batch_weight(targets)
        return torch.finfo(given.dtype).eps if isinstance(given, Tensor) and given.is_floating_point() else 0.0

    def _asked_weight(self, targets: Any, size: int) -> float:
        given = f"the targets of {size} samples"
        if targets is None:
            given = 'None (with loss=None it is given the entry "labels", and there is none)'
        try:
            found = self.batch_weight(targets) if self.batch_weight is not None else size
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # code of the user's
            got = f"{type(targets).__name__} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else given
            raise ValueError(
                "batch_weight(targets) must give what the mean over these targets weighs, of the targets alone; on "
                f"{got} it raised {quoted(error)}: where the weight depends on more, take the loss whole, "
                "Hessian.of(function, model)"
            ) from error
        return number(found, "batch_weight", given)

    def share(self, outputs: Any, targets: Any, size: int, weight: float) -> Tensor:
        """s_b (0-d), differentiable. Raises ValueError when the loss gives neither a number nor n values."""
        value = self.loss(outputs, targets)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise MisuseError(f"loss(outputs, targets) must return a real floating-point tensor; got {got}")
        if value.ndim == 0:
            return value if self._is_sum else weight * value
        if value.shape[0] != size:
            raise MisuseError(
                f"the loss must return a 0-d mean or one value per sample, ({size}, ...); "
                f"got shape {tuple(value.shape)}: return .mean()"
            )
        return value.sum()

    def weight_is_guessed(self, outputs: Any, targets: Any) -> bool:
        """Whether `weight` assumes that every sample counts: in a mean of unknown rule some may be left out."""
        if self.batch_weight is not None or self.rule is not None or self._is_sum or self._ignored(targets) is not None:
            return False
        return bool(self.loss(outputs, targets).ndim == 0)

    @property
    def _is_sum(self) -> bool:
        return getattr(self.loss, "reduction", None) == "sum"

    def _ignored(self, targets: Any) -> int | None:
        """The class index that a mean over class indices leaves out; None for every other loss."""
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            return None
        if self.loss in CLASS_MEANS:
            return IGNORED
        if isinstance(self.loss, nn.CrossEntropyLoss | nn.NLLLoss) and self.loss.reduction == "mean":
            return self.loss.ignore_index if _as_written(self.loss) else None
        return None

    def _class_weight(self, kept: Tensor) -> float:
        if "weight" not in self.state:
            return float(kept.numel())
        return float(self.state["weight"][kept].sum(dtype=torch.float64))


def own_loss(outputs: Any, targets: Any) -> Tensor:  # noqa: ARG001
    """The loss that the model computed: a 0-d tensor, ``outputs.loss``, ``outputs["loss"]`` or ``outputs[0]``."""
    found = getattr(outputs, "loss", None)
    if found is None and isinstance(outputs, Mapping):
        found = outputs.get("loss")
    if found is None and isinstance(outputs, tuple | list) and outputs:
        found = outputs[0]
    found = outputs if found is None else found
    if not isinstance(found, Tensor) or found.ndim > 0:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise MisuseError(
            "with loss=None the model returns its loss, a 0-d tensor or an output with .loss; got "
            f"{got}: do the data have labels? Otherwise let it return loss.mean(), or pass a loss"
        )
    return found


def label_rules() -> dict[str, Callable[[Any, int], float]]:
    """What a mean over labels may weigh: those not ignored, those of them that have a predecessor, the samples."""
    return {
        "labels": lambda labels, size: float((labels != IGNORED).sum()) if _has_classes(labels) else float(size),
        "shifted": lambda labels, _: float((labels[..., 1:] != IGNORED).sum()) if _has_classes(labels) else -1.0,
        "samples": lambda _, size: float(size),
    }


def _as_written(loss: nn.Module) -> bool:
    """Whether a class mean of torch's is called as torch wrote it: no forward of a subclass's, no hook."""
    own = type(loss).forward in (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward) and "forward" not in vars(loss)
    return own and not loss._forward_hooks and not loss._forward_pre_hooks


def _has_classes(labels: Any) -> bool:
    return isinstance(labels, Tensor) and not labels.is_floating_point()
