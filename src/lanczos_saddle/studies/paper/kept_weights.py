"""Weights at chosen moments of one training run, kept on the way.

A moment is a number of optimizer steps; 0 is the network as it is drawn, the last one the trained network of the store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import nn

from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.studies.paper.experiments import Experiment, hessian_of, untrained
from lanczos_saddle.studies.paper.store import Store, UnfinishedError
from lanczos_saddle.training import datasets
from lanczos_saddle.training.checkpoints import apply_weights, load_checkpoint, save_checkpoint
from lanczos_saddle.training.training import train

DRIFT = 1e-6
"""Relative: another CPU trains to weights that differ in the last digits, and to losses by parts in 1e8; such moments
may stand beside the recorded ones. A larger difference is another run."""

_IMAGES = {"mnist": 60_000, "cifar10_features": 50_000}
"""Of the training sets of the paper: what a store has is drawn where the data are not at hand."""


@cache
def steps_per_epoch(experiment: Experiment) -> int:
    """Optimizer steps in one pass over the training set."""
    try:
        images = len(datasets.load(experiment.dataset).x_train)
    except datasets.DataNotFoundError:
        if experiment.dataset not in _IMAGES:
            raise
        images = _IMAGES[experiment.dataset]
    return math.ceil(images / experiment.settings().batch)


def _end(store: Store, experiment: Experiment) -> int | None:
    """Steps of the recorded training, if there is one."""
    recorded = store.trained(experiment)
    return None if recorded is None else int(recorded["epochs"]) * steps_per_epoch(experiment)


def run_length(store: Store, experiment: Experiment, *, progress: bool = False) -> int:
    """Steps that training makes until its stopping rule ends it; trains where the store does not know."""
    if store.trained(experiment) is None:
        store.model(experiment, progress=progress)
    end = _end(store, experiment)
    if end is None:
        raise UnfinishedError(f"{store.path} has no training of {experiment}: run without --report-only")
    return end


def keep_weights(store: Store, experiment: Experiment, moments: Sequence[int], *, progress: bool = False) -> None:
    """Train once and keep a checkpoint at each moment, unless they all lie there.

    The last moment is the store's trained network itself. Raises ValueError for moments outside of the run, and where
    this machine's training ends elsewhere than the recorded one (DRIFT).
    """
    if min(moments) < 0:
        raise ValueError(f"a moment is a number of steps, at least 0; got {min(moments)}")
    if _end(store, experiment) in moments:
        store.model(experiment, progress=progress)
    wanted = {after: path for after in moments if not (path := weights_at(store, experiment, after)).is_file()}
    if not wanted:
        return
    if store.finished:
        raise UnfinishedError(f"{next(iter(wanted.values()))} is missing: run without --report-only")
    model, generator = untrained(experiment)

    def keep(after: int) -> None:
        if after in wanted:
            wanted[after].parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(wanted[after], model, {"experiment": experiment.parameters(), "after": after})

    keep(0)
    dataset = datasets.load(experiment.dataset)
    result = train(
        model, dataset, generator=generator, settings=experiment.settings(), progress=progress, after_step=keep
    )
    last = result.epochs * steps_per_epoch(experiment)
    if max(wanted) > last:
        raise ValueError(f"training ended after {last} steps; got a moment after {max(wanted)}: take `run_length`")
    recorded = store.trained(experiment)
    if recorded is not None and abs(result.loss - recorded["loss"]) > DRIFT * recorded["loss"]:
        for path in wanted.values():
            path.unlink(missing_ok=True)
        raise ValueError(
            f"the same seed leads {experiment} along another path on this machine (loss {result.loss} at the end, "
            f"recorded {recorded['loss']}): fill a store of your own"
        )


def weights_at(store: Store, experiment: Experiment, after: int) -> Path:
    """Where the weights after so many steps lie; at the recorded end of training, the store's trained network."""
    path = store.weights(experiment)
    if after == _end(store, experiment):
        return path
    return path.with_name(f"{path.stem}-after-{after:06d}.safetensors")


def model_at(store: Store, experiment: Experiment, after: int) -> nn.Sequential:
    """The network after so many steps."""
    model, _ = untrained(experiment)
    apply_weights(model, load_checkpoint(weights_at(store, experiment, after))[0])
    return model


def hessian_at(store: Store, experiment: Experiment, after: int, dtype: torch.dtype = torch.float64) -> Hessian:
    """Of the mean objective over the whole training set."""
    return hessian_of(experiment, model_at(store, experiment, after), dtype=dtype, device=store.device)
