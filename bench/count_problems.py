"""The problems that the counts are raced on; each knows its exact eigenvalues.

    digits     MLP 64-25-10 on the digits images, the package's built-in, N = 1,885
    conv       two convolutions and a linear layer on 500 of the same images, N = 1,210, trained here once and cached
    spectrum   H = Q diag(lambda) Q' with an atom at 0 and clusters at +-tau (1 +- 1e-3): no network, N = 4,000
    resnet     ResNet-18 with 1, 2, 4 and 8 channels on 100 of the images, N = 2,973  (count_networks.py, these three)
    gpt        two blocks of width 10 on sequences of a Markov chain, N = 3,080
    pinn       Poisson's equation in one dimension, N = 1,951
    mnist      MLP 784-25-10 on MNIST's 60,000 training images at the reference weights, N = 19,885

Exact eigenvalues of the small networks are computed once (`exact_eigenvalues`, in a process of their own) and kept in
the cache folder under a digest of the weights; those of mnist lie in validate/reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mnist_mlp
import numpy as np
import torch
from count_networks import TRAINED
from numpy.typing import NDArray
from torch import nn

from lanczos_saddle.machine.files import replacing
from lanczos_saddle.studies import known_problems
from lanczos_saddle.studies.known_problems import Known, Network, clustered, digits, of_network, of_spectrum
from lanczos_saddle.training import datasets
from lanczos_saddle.training.checkpoints import apply_weights, load_checkpoint, load_weights, save_checkpoint

CPU = torch.device("cpu")

CONV_IMAGES, ITERATIONS = 500, 40
SPECTRUM_SIZE, SPECTRUM_TAU = 4_000, 1e-2


@dataclass(frozen=True)
class Problem:
    name: str
    relative_thresholds: tuple[float, ...]  # tau as fractions of the largest |eigenvalue|
    load: Callable[[torch.dtype, torch.device], Known]
    eigenvalues: Callable[[], NDArray[np.float64]]
    network: bool = True  # whether it is one


def conv(dtype: torch.dtype, device: torch.device) -> Known:
    """Conv 1-6, ReLU, pool, conv 6-12, ReLU, pool, linear 48-10; trained by Adam from a fixed seed, then cached."""
    data = datasets.load("digits")
    inputs, targets = data.x_train[:CONV_IMAGES].reshape(-1, 1, 8, 8), data.y_train[:CONV_IMAGES]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
    )
    network = model, nn.CrossEntropyLoss(), (inputs, targets)
    return of_network(trained(network, "conv-6-12-40", ITERATIONS), dtype, device)


def small(name: str, dtype: torch.dtype, device: torch.device) -> Known:
    """A network of count_networks.py, trained here once and cached."""
    make, iterations, rate = TRAINED[name]
    return of_network(trained(make(), f"{name}-{iterations}", iterations, rate), dtype, device)


def trained(network: Network, name: str, iterations: int, rate: float = 1e-2) -> Network:
    """Adam with all samples as one batch: no order to draw; stopped while some eigenvalues are still negative."""
    model, loss, (inputs, targets) = network
    path = cache() / f"{name}.safetensors"
    if not path.is_file():
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(iterations):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
        save_checkpoint(path, model, {"problem": name})
    apply_weights(model, load_checkpoint(path)[0])
    return model.eval(), loss, (inputs, targets)


def spectrum(dtype: torch.dtype, device: torch.device) -> Known:
    return of_spectrum(clustered(SPECTRUM_SIZE, SPECTRUM_TAU, torch.Generator().manual_seed(0), dtype, device))


def mnist(dtype: torch.dtype, device: torch.device) -> Known:
    return known_problems.mnist(mnist_mlp.WEIGHTS, dtype, device)


def computed(name: str, load: Callable[[torch.dtype, torch.device], Known]) -> Callable[[], NDArray[np.float64]]:
    """All eigenvalues of the float64 Hessian, computed once for these weights and buffers."""

    def eigenvalues() -> NDArray[np.float64]:
        loaded = load(torch.float64, CPU)
        assert loaded.network is not None
        weights = torch.cat([t.double().reshape(-1) for t in loaded.network[0].state_dict().values()])
        digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16]
        path = cache() / f"{name}-{digest}.npy"
        if not path.is_file():
            values = loaded.eigenvalues().numpy()
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, values)
        return np.load(path, allow_pickle=False)

    return eigenvalues


def cache() -> Path:
    folder = datasets.cache_root() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("digits", (1e-3, 1e-4), digits, computed("digits", digits)),
        Problem("conv", (1e-3, 1e-4), conv, computed("conv", conv)),
        Problem(
            "spectrum",
            (SPECTRUM_TAU, 3 * SPECTRUM_TAU),
            spectrum,
            lambda: spectrum(torch.float64, CPU).eigenvalues().numpy(),
            False,
        ),
        *(
            Problem(name, thresholds, partial(small, name), computed(name, partial(small, name)))
            for name, thresholds in (("resnet", (1e-3, 1e-4)), ("gpt", (1e-3, 1e-4)), ("pinn", (1e-4, 1e-5)))
        ),
        Problem("mnist", (1e-3, 1e-4), mnist, lambda: load_weights(mnist_mlp.WEIGHTS)["eigenvalues"].numpy()),
    )
}
