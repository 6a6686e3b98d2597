"""One trained network of the paper's tables: what decides its weights, and how to get it.

Two set-ups, named by the objective. "cross-entropy", as the paper states: stop when the training error of two epochs
differs by less than 10e-4, Nesterov momentum. "squared-error", as its published code shows: step 0.1, momentum without
Nesterov (of noisy SGD, too), 100 epochs. Data, as the paper says, but the standard split of MNIST in place of a random
one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.training import datasets
from lanczos_saddle.training.networks import mlp
from lanczos_saddle.training.objectives import loss_for, targets_for
from lanczos_saddle.training.training import TrainingResult, TrainingSettings, settings_for, train

CODE_STEP, CODE_MOMENTUM = 0.1, 0.9
EPOCHS = 100


@dataclass(frozen=True)
class Experiment:
    """What decides the weights; trials differ in the seed alone."""

    dataset: str  # a name that `datasets.load` knows
    sizes: tuple[int, ...]  # layer widths
    initialization: str = "normal"  # one of `networks.INITIALIZATIONS`
    method: str = "sgd"  # one of `methods.STEPS`
    objective: str = "cross-entropy"  # one of `objectives.OBJECTIVES`
    trial: int = 0  # the seed
    step: float | None = None  # of the method; None for that of the set-up

    @classmethod
    def recorded(cls, parameters: Mapping[str, Any]) -> Experiment:
        """The experiment of a record, among whose parameters its own are."""
        names = [field.name for field in dataclasses.fields(cls)]
        own = {name: parameters[name] for name in names if name in parameters}
        return cls(**{**own, "sizes": tuple(own["sizes"])})

    def parameters(self) -> dict[str, Any]:
        """What names it in a record: its fields; the step only where it is not the set-up's."""
        fields = dataclasses.asdict(self)
        return fields if self.step is not None else {name: fields[name] for name in fields if name != "step"}

    @property
    def size(self) -> int:
        """N, the number of parameters."""
        return sum((before + 1) * after for before, after in zip(self.sizes, self.sizes[1:], strict=False))

    def settings(self) -> TrainingSettings:
        """The options of the run: as stated, or as the code shows (above)."""
        settings = replace(settings_for(self.method), objective=self.objective, epochs_max=EPOCHS)
        if self.objective == "squared-error":
            step = CODE_STEP if self.method == "sgd" else settings.step
            settings = replace(settings, step=step, momentum=CODE_MOMENTUM, nesterov=False, tolerance=0.0)
        return settings if self.step is None else replace(settings, step=self.step)


def untrained(experiment: Experiment) -> tuple[nn.Sequential, torch.Generator]:
    """The network as it is drawn, and the generator to train it with."""
    generator = torch.Generator().manual_seed(experiment.trial)
    return mlp(experiment.sizes, generator=generator, initialization=experiment.initialization), generator


def trained(experiment: Experiment, *, progress: bool = False) -> tuple[nn.Sequential, TrainingResult]:
    """Train to the stopping rule; raises as `train` does."""
    model, generator = untrained(experiment)
    dataset = datasets.load(experiment.dataset)
    result = train(model, dataset, generator=generator, settings=experiment.settings(), progress=progress)
    return model, result


def hessian_of(
    experiment: Experiment, model: nn.Module, *, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Hessian:
    """Of the mean training objective, over the whole training set."""
    dataset = datasets.load(experiment.dataset)
    x = dataset.x_train
    data = x, targets_for(experiment.objective, x, dataset.y_train)
    return Hessian(model, loss_for(experiment.objective), data, dtype=dtype, device=device)


def facts(result: TrainingResult) -> dict[str, Any]:
    """What a record keeps of a run: everything, the history as two short lists."""
    kept = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "history"}
    losses = [evaluation.loss for evaluation in result.history]
    return {**kept, "losses": losses, "error": 1 - result.train_accuracy}
