"""Training by any of the `methods` to the paper's stopping rule; every step on the mean objective of a batch.

Training stops after the first epoch whose training error, the mean objective over all training images,
differs from that of the epoch before by less than 10e-4 (so the paper writes it; it is 1e-3). The rule would
also stop on the flat start of a run, so it is not asked before `epochs_min`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lanczos_saddle.machine.progress import stage
from lanczos_saddle.machine.threads import one_thread
from lanczos_saddle.training.datasets import Dataset
from lanczos_saddle.training.evaluation import Evaluation, evaluate, loss_and_gradient_norm, mode_kept
from lanczos_saddle.training.methods import STEPS, check_method, make_optimizer, take_step
from lanczos_saddle.training.objectives import OBJECTIVES, Objective, check_objective, targets_for

SMALL_STEP = 10**7  # batch times parameters, below which threads cost more than they give


@dataclass(frozen=True)
class TrainingSettings:
    """Options of a run; the defaults are the paper's, with the batch and step of the reference networks."""

    batch: int = 128
    step: float = 0.05
    momentum: float = 0.9
    nesterov: bool = True
    tolerance: float = 10e-4  # on the difference of two consecutive training errors
    epochs_min: int = 5
    epochs_max: int = 100
    method: str = "sgd"  # one of `methods`; nesterov is sgd's alone, momentum that of sgd and noisy-sgd
    objective: str = "cross-entropy"  # one of `objectives`

    def __post_init__(self) -> None:
        check_method(self.method)
        check_objective(self.objective)
        rules = {
            "batch must be at least 1": self.batch >= 1,
            "step must be positive and finite": 0 < self.step < math.inf,
            "momentum must be in [0, 1)": 0 <= self.momentum < 1,
            "nesterov needs a momentum above 0": self.momentum > 0 or not self.nesterov,
            "tolerance must be at least 0 (0: all epochs_max epochs)": self.tolerance >= 0,
            "epochs must satisfy 1 <= epochs_min <= epochs_max": 1 <= self.epochs_min <= self.epochs_max,
        }
        for rule, kept in rules.items():
            if not kept:
                raise ValueError(f"{rule}; got {self}")


DEFAULTS = TrainingSettings()


def settings_for(method: str) -> TrainingSettings:
    """The settings of a run by `method`, with its own step. Raises ValueError for an unknown method."""
    check_method(method)
    stated = TrainingSettings(method=method, step=STEPS[method])
    return replace(stated, momentum=0.0, nesterov=False) if method == "noisy-sgd" else stated  # as Ge et al. have it


@dataclass(frozen=True)
class TrainingResult:
    """Where training ended; loss and gradient are of the mean objective over all training images."""

    epochs: int
    converged: bool  # whether the stopping rule ended it, not epochs_max
    loss: float  # in float64
    gradient_norm: float  # 2-norm, in float64
    train_accuracy: float  # fractions; NaN for a reconstruction
    test_accuracy: float
    history: tuple[Evaluation, ...]  # (epochs,), the training set at the end of each
    settings: TrainingSettings
    data: str  # the digest of the dataset
    perturbations: int = 0  # by perturbed gradient descent


def train(
    model: nn.Module,
    dataset: Dataset,
    *,
    generator: torch.Generator,
    settings: TrainingSettings = DEFAULTS,
    progress: bool = False,
    after_step: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Train `model` in place, on the device and in the dtype of its parameters.

    `generator` (CPU) shuffles, draws the noise of a method, and seeds what the model draws itself; the global
    random state and the train/eval mode are left as found; gradients are cleared. An epoch costs one pass with
    gradients and one without over the training set; by saddle-free Newton, 20 products and 7 losses more a batch.

    `after_step` is called with the number of steps made so far, after each: to look at the weights along the way,
    which it must not change. An epoch is ceil(n / batch) steps.

    Raises:
        ValueError: before the first step, when model, data and generator do not fit; later, when the loss
            stops being finite.
    """
    place = _check(model, dataset, generator, settings.objective)
    x, y = _inputs_and_targets(dataset.x_train, dataset.y_train, place, settings.objective)
    objective = OBJECTIVES[settings.objective]
    optimizer = make_optimizer(
        settings.method,
        model.parameters(),
        step=settings.step,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        generator=generator,
    )
    history: list[Evaluation] = []
    with (
        _own_randomness(generator, place.device),
        one_thread(settings.batch * sum(p.numel() for p in model.parameters()) < SMALL_STEP),
        mode_kept(model),
        stage("training", settings.epochs_max, unit="epoch", bound="at most", shown=progress) as told,
    ):
        while len(history) < settings.epochs_max and not _stopped(history, settings):
            order = torch.randperm(len(x), generator=generator)
            made = len(history) * math.ceil(len(x) / settings.batch)
            batches = torch.split(order.to(x.device), settings.batch)
            for _ in _epoch(model.train(), optimizer, objective, x, y, batches):
                made += 1
                if after_step is not None:
                    after_step(made)
            history.append(evaluate(model, x, y, settings.objective))
            _check_finite(history, settings)
            told.advance()
            told.say(f"loss={history[-1].loss:.4f}, accuracy={history[-1].accuracy:.4f}")
    optimizer.zero_grad()
    unseen = _inputs_and_targets(dataset.x_test, dataset.y_test, place, settings.objective)
    test = evaluate(model, *unseen, settings.objective)
    loss, gradient_norm = loss_and_gradient_norm(model, x, y, settings.objective)
    return TrainingResult(
        epochs=len(history),
        converged=_stopped(history, settings),
        loss=loss,
        gradient_norm=gradient_norm,
        train_accuracy=history[-1].accuracy,
        test_accuracy=test.accuracy,
        history=tuple(history),
        settings=settings,
        data=dataset.digest,
        perturbations=getattr(optimizer, "perturbations", 0),
    )


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    x: Tensor,
    y: Tensor,
    batches: Sequence[Tensor],
) -> Iterator[None]:
    """One pass over the training set, batches as indices into it, paused after every step."""
    for index in batches:
        take_step(optimizer, lambda index=index: objective(model(x[index]), y[index]))  # type: ignore[misc]
        yield


def _inputs_and_targets(images: Tensor, labels: Tensor, place: Tensor, objective: str) -> tuple[Tensor, Tensor]:
    """On the device of the parameters, and in their type."""
    x = images.to(place)
    return x, targets_for(objective, x, labels.to(place.device))


def _stopped(history: list[Evaluation], settings: TrainingSettings) -> bool:
    """Whether the last two training errors differ by less than the tolerance, after the minimum of epochs."""
    if len(history) < max(2, settings.epochs_min):
        return False
    return abs(history[-1].loss - history[-2].loss) < settings.tolerance


def _check(model: nn.Module, dataset: Dataset, generator: torch.Generator, objective: str) -> Tensor:
    """Refuse what cannot be trained, before work starts; returns a parameter, for device and dtype."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("training needs at least one parameter with requires_grad=True; the model has none")
    if not all(bool(torch.isfinite(p).all()) for p in trainable):
        raise ValueError(
            "training must start from finite weights; some are NaN or infinite: initialize the model again"
        )
    if generator.device.type != "cpu":
        raise ValueError(f"the shuffling is drawn on the CPU; got a generator on {generator.device}")
    _check_outputs(model, dataset, trainable[0], objective)
    return trainable[0]


@torch.no_grad()
def _check_outputs(model: nn.Module, dataset: Dataset, place: Tensor, objective: str) -> None:
    with mode_kept(model):
        try:
            outputs = model.eval()(dataset.x_train[:1].to(place))
        except RuntimeError as error:
            raise ValueError(
                f"the model must take images of {dataset.features} features ({dataset.name}): {error}"
            ) from error
    if objective == "reconstruction" and outputs.shape != (1, dataset.features):
        raise ValueError(
            f"to reconstruct {dataset.name} the model must give (n, {dataset.features}) outputs; "
            f"got {tuple(outputs.shape)} for one image"
        )
    if outputs.ndim != 2 or (objective != "reconstruction" and outputs.shape[1] < dataset.classes):
        raise ValueError(
            f"the model must give one output a class, (n, {dataset.classes}) for {dataset.name}; "
            f"got {tuple(outputs.shape)} for one image"
        )


def _check_finite(history: list[Evaluation], settings: TrainingSettings) -> None:
    if not math.isfinite(history[-1].loss):
        raise ValueError(
            f"training diverged: the loss must stay finite; it is {history[-1].loss} after epoch "
            f"{len(history)} by {settings.method} with step {settings.step} and momentum {settings.momentum}: take a "
            "smaller step"
        )


@contextmanager
def _own_randomness(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global generators from `generator` for the block (dropout draws there), then put them back."""
    seed = int(torch.randint(2**62, (), generator=generator))
    cuda = list(range(torch.cuda.device_count())) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        yield
