"""Problems whose counts are known, in one table: what tests, bench and validate judge by.

    digits                                       the built-in network; its eigenvalues by the dense solver
    softmax regression, linear layers, ...       networks whose Hessian has a closed form
    clusters beside tau, uniform, normal, ...    H = Q diag(lambda) Q'
    the names of the landscapes' catalogue       critical points

`KNOWN` makes each by its name, in float64 on the CPU. MNIST needs a file of weights: `mnist` is given its path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lanczos_saddle.dense.exact import exact_eigenvalues, three_counts
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.known_hessians import KnownProblem, relu_zero_output, softmax_regression, two_layer_linear
from lanczos_saddle.operators.operator import Operator
from lanczos_saddle.operators.prescribed import Counts, PrescribedSpectrum, clustered_spectrum
from lanczos_saddle.studies.landscapes.catalogue import catalogue
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint
from lanczos_saddle.training.checkpoints import apply_weights, load_weights, sequential_names
from lanczos_saddle.training.data_files import mnist_array
from lanczos_saddle.training.networks import mlp
from lanczos_saddle.training.problems import built_in

Network = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]  # model, loss, (inputs, targets)

CPU = torch.device("cpu")
F64 = torch.float64
SIZE = 1000  # of a spectrum in the table


@dataclass(frozen=True)
class Known:
    """A symmetric matrix and the truth about it."""

    operator: Operator  # (N, N)
    eigenvalues: Callable[[], Tensor]  # () -> (N,) float64, ascending; those of a network are of its float64 Hessian
    signs: Counts | None = None  # (negative, zero, positive), where theory gives them
    network: Network | None = None  # in the operator's type and on its device

    @property
    def size(self) -> int:
        """N."""
        return self.operator.shape[0]

    def count(self, tau: float) -> Counts:
        """(negative, near zero, positive) at the threshold tau."""
        return three_counts(self.eigenvalues(), tau)


def of_network(network: Network, dtype: torch.dtype = F64, device: torch.device = CPU) -> Known:
    """A network's Hessian, the model moved in place; eigenvalues by the dense solver, each time they are asked for."""
    model, loss, (inputs, targets) = network

    def moved(data: Tensor) -> Tensor:
        """In the network's type, unless it is whole numbers."""
        return data.to(device, dtype) if data.is_floating_point() else data.to(device)

    network = (model.to(device, dtype), loss, (moved(inputs), moved(targets)))
    hessian = Hessian(*network, dtype=dtype, device=device)
    return Known(hessian, lambda: exact_eigenvalues(Hessian(*network, dtype=F64)), network=network)


def of_theory(problem: KnownProblem | CriticalPoint) -> Known:
    """A network at a point where theory gives the signs, and the eigenvalues or not."""
    hessian, values = Hessian(problem.model, problem.loss, problem.data), problem.eigenvalues
    spectrum = (lambda: exact_eigenvalues(hessian)) if values is None else (lambda: values)
    return Known(hessian, spectrum, problem.counts, (problem.model, problem.loss, problem.data))


def of_spectrum(operator: PrescribedSpectrum) -> Known:
    """An operator that was made of its eigenvalues."""
    return Known(operator, lambda: operator.eigenvalues.sort().values)


def digits(dtype: torch.dtype = F64, device: torch.device = CPU) -> Known:
    """The built-in network on the digits images, N = 1,885."""
    problem = built_in("digits")
    assert problem.loss is not None
    return of_network((problem.model, problem.loss, problem.data), dtype, device)


def mnist(weights: Path, dtype: torch.dtype = F64, device: torch.device = CPU) -> Known:
    """The network 784-25-10 at the weights of a file, which has its eigenvalues on all training images, N = 19,885."""
    found = of_network(mnist_network(weights, 60_000), dtype, device)
    return Known(found.operator, lambda: load_weights(weights)["eigenvalues"], network=found.network)


def mnist_network(weights: Path, images: int, dtype: torch.dtype = torch.float32) -> Network:
    """The network 784-25-10 at the weights of a file, on the first `images` training images.

    Raises:
        ValueError: when there are fewer images; DataNotFoundError, when there are no files.
    """
    pixels, labels = mnist_array("train-images-idx3-ubyte"), mnist_array("train-labels-idx1-ubyte")
    if not 1 <= images <= len(pixels):
        raise ValueError(f"images must be between 1 and {len(pixels)}, the training images; got {images}")
    arrays = load_weights(weights)
    model = mlp([784, 25, 10], generator=torch.Generator()).to(dtype)
    apply_weights(model, sequential_names(arrays))
    inputs = torch.from_numpy(pixels[:images].reshape(images, -1).astype(np.float32)).to(dtype)
    inputs.div_(255).sub_(arrays["pixel_mean"].to(dtype))
    return model, nn.CrossEntropyLoss(), (inputs, torch.from_numpy(labels[:images].astype(np.int64)))


def clustered(
    size: int, tau: float, generator: torch.Generator, dtype: torch.dtype = F64, device: torch.device | str = CPU
) -> PrescribedSpectrum:
    """The operator of `clustered_spectrum`: eigenvalues and basis from one generator."""
    return PrescribedSpectrum(clustered_spectrum(size, tau, generator), generator, dtype, device)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SPECTRA: dict[str, tuple[Callable[[int], Tensor], float]] = {
    "clusters beside tau": (lambda size: clustered_spectrum(size, 1e-2, _seeded(0)), 1e-2),
    "clusters beside a small tau": (lambda size: clustered_spectrum(size, 1e-3, _seeded(0)), 1e-3),
    "uniform": (lambda size: torch.linspace(-0.3, 1, size, dtype=F64), 0.05),
    "normal": (lambda size: torch.randn(size, generator=_seeded(1), dtype=F64), 0.1),
    "no negative eigenvalue": (lambda size: torch.linspace(0, 1, size, dtype=F64), 0.05),
}
"""Name -> (N -> eigenvalues (N,), the threshold that is asked of them)."""


def spectrum(name: str, size: int) -> tuple[Tensor, float]:
    """(the eigenvalues (N,) of that name, the threshold that is asked of them)."""
    values, tau = SPECTRA[name]
    return values(size), tau


def _samples(n: int, d: int, classes: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(n, d, generator=_seeded(0), dtype=F64)
    return inputs, torch.randint(0, classes, (n,), generator=_seeded(100))


def _linear_layers() -> KnownProblem:
    targets = torch.randn(25, 3, generator=_seeded(9), dtype=F64)
    return two_layer_linear(_samples(25, 5, 2)[0], targets, 4)


KNOWN: dict[str, Callable[[], Known]] = {
    "digits": digits,
    "softmax regression": lambda: of_theory(softmax_regression(*_samples(30, 5, 4), 4)),
    "linear layers": lambda: of_theory(_linear_layers()),
    "ReLU, output zero": lambda: of_theory(relu_zero_output(*_samples(60, 4, 3), 5, 3, _seeded(4))),
    **{
        name: lambda name=name: of_spectrum(PrescribedSpectrum(spectrum(name, SIZE)[0], _seeded(5)))  # type: ignore[misc]
        for name in SPECTRA
    },
    **{point.name: partial(of_theory, point) for point in catalogue()},
}
