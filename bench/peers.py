"""One product V -> H V per library, for the Hessian H of the mean loss over all samples; V (N,) or (N, k).

The libraries are called as their documentation shows. Each gets its own copy of the model: PyHessian leaves
gradients with their graph in ``.grad`` (a second object on the same model would multiply with 2 H) and
switches the model to eval mode. H is the mean over samples for batches of one size; with an uneven last batch
hessian-eigenthings multiplies with the mean of the batches' Hessians instead.

PyHessian's density calls ``torch.eig``, which current torch lacks; its products do not need it.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hand_written import linear_relu_linear
from torch import Tensor, nn

from lanczos_saddle import Hessian

Data = tuple[Tensor, Tensor]  # all inputs, all targets
Product = Callable[[Tensor], Tensor]  # V (N,) or (N, k) -> H V

BATCH = 2500  # samples; divides 60,000, and the activations stay near the cache


@dataclass(frozen=True)
class Library:
    """A way to multiply with the Hessian, under the name that tables show."""

    name: str
    package: str  # distribution
    module: str  # what is imported
    build: Callable[[nn.Module, nn.Module, Data, int], Product]

    def available(self) -> bool:
        """Whether it can be imported here."""
        return importable(self.module)

    @property
    def version(self) -> str | None:
        return version_of(self.package)

    def make(self, model: nn.Module, loss: nn.Module, data: Data, batch: int = BATCH) -> Product:
        """V -> H V; `batch` is for those that are given batches. The libraries' warnings are not shown."""
        with quiet():
            _import(self.module)
            product = self.build(copy.deepcopy(model), loss, data, batch)

        def multiply(vectors: Tensor) -> Tensor:
            with quiet():
                return product(vectors)

        return multiply


def ours(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:  # noqa: ARG001
    hessian = Hessian(model, loss, data)
    return lambda vectors: hessian @ vectors


def kept_graph(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:  # noqa: ARG001
    """The textbook's product, `autograd.grad` of a gradient whose graph is kept; all samples at once."""
    parameters = list(model.parameters())
    inputs, targets = data
    gradient = torch.autograd.grad(loss(model(inputs), targets), parameters, create_graph=True)

    def product(v: list[Tensor]) -> list[Tensor]:
        parts = torch.autograd.grad(gradient, parameters, v, retain_graph=True, materialize_grads=True)
        return list(parts)

    return columnwise(on_lists(product, parameters))


def pyhessian_one_batch(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:  # noqa: ARG001
    """All samples as one batch, whose gradient and graph are kept between products."""
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    kept = hessian(model, loss, data=data, cuda=False)
    return columnwise(on_lists(lambda v: hessian_vector_product(kept.gradsH, kept.params, v), kept.params))


def pyhessian_loader(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:
    from pyhessian import hessian

    over_batches = hessian(model, loss, dataloader=batches(data, batch), cuda=False)
    return columnwise(on_lists(lambda v: over_batches.dataloader_hv_product(v)[1], over_batches.params))


def curvlinops(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(model, loss, list(model.parameters()), batches(data, batch))
    return lambda vectors: operator @ vectors


def curvlinops_single(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:
    """One vector at a time, as its scipy solvers call it."""
    return columnwise(curvlinops(model, loss, data, batch))


def hessian_eigenthings(model: nn.Module, loss: nn.Module, data: Data, batch: int) -> Product:
    from hessian_eigenthings import HessianOperator, supervised_loss

    operator = HessianOperator(model, batches(data, batch), supervised_loss(loss))
    return columnwise(lambda v: operator @ v)


LIBRARIES = (
    Library("lanczos_saddle", "lanczos-saddle", "lanczos_saddle", ours),
    Library("curvlinops, block", "curvlinops-for-pytorch", "curvlinops", curvlinops),
    Library("curvlinops, single", "curvlinops-for-pytorch", "curvlinops", curvlinops_single),
    Library("kept graph, one batch", "torch", "torch", kept_graph),
    Library("PyHessian, one batch", "pyhessian", "pyhessian", pyhessian_one_batch),
    Library("PyHessian, loader", "pyhessian", "pyhessian", pyhessian_loader),
    Library("hessian-eigenthings", "hessian-eigenthings", "hessian_eigenthings", hessian_eigenthings),
)
OURS = LIBRARIES[0]

HAND_WRITTEN = Library("hand-written, this net", "torch", "torch", linear_relu_linear)
"""For the MLP alone: what a library can reach."""


def batches(data: Data, size: int) -> list[Data]:
    """Views of the data, `size` samples each; the last may be shorter."""
    return list(zip(*(part.split(size) for part in data), strict=True))


def columnwise(product: Product) -> Product:
    """A product of one vector (N,), for blocks (N, k) too."""

    def multiply(vectors: Tensor) -> Tensor:
        if vectors.ndim == 1:
            return product(vectors)
        return torch.stack([product(column) for column in vectors.mT.contiguous()], dim=1)

    return multiply


def on_lists(product: Callable[[list[Tensor]], list[Tensor]], parameters: list[nn.Parameter]) -> Product:
    """A product of lists in the parameters' shapes, for flat vectors (N,)."""
    sizes = [p.numel() for p in parameters]

    def multiply(vector: Tensor) -> Tensor:
        parts = [v.view_as(p) for v, p in zip(vector.split(sizes), parameters, strict=True)]
        return torch.cat([part.reshape(-1) for part in product(parts)])

    return multiply


def relative_error(product: Tensor, reference: Tensor) -> float:
    """|product - reference| / |reference| in the Frobenius norm, in float64."""
    exact = reference.double()
    return float((product.detach().double() - exact).norm() / exact.norm())


def importable(module: str) -> bool:
    """Whether it can be imported here."""
    try:
        _import(module)
    except ImportError:
        return False
    return True


def version_of(package: str) -> str | None:
    """Of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import(module: str) -> None:
    with quiet():
        importlib.import_module(module)


def quiet() -> warnings.catch_warnings:
    """What peers and torch warn of inside them (create_graph, jit) is theirs."""
    return warnings.catch_warnings(action="ignore")
