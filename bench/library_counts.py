"""Counts by the libraries for Hessians of networks, called as their documentation shows, read as `answers` says.

Each gets its own copy of the model. None of them returns a count or an interval.
"""

from __future__ import annotations

import copy
from unittest.mock import patch

import numpy as np
import torch
from answers import Found, Task, as_array, from_density, from_extremes, from_weights
from peers import BATCH, batches, kept_graph
from torch import Tensor

from lanczos_saddle import as_operator, count_eigenvalues
from lanczos_saddle.counting.comparison import FOREVER, row_of


def pyhessian_density(task: Task) -> Found:
    """`hessian(...).density(iter, n_v)`: all data as one batch; Ritz values and weights as it returns them."""
    from pyhessian import hessian

    model, loss, data = copied(task)
    torch.manual_seed(task.seed)
    with patch.object(torch, "eig", eig, create=True):
        runs = hessian(model, loss, data=data, cuda=on_cuda(task)).density(iter=task.steps, n_v=task.probes)
    pairs = [(np.array(nodes, float), np.array(weights, float)) for nodes, weights in zip(*runs, strict=True)]
    size = task.loaded.size
    return Found([from_weights(pairs, size, tau) for tau in task.taus], task.probes * task.steps)


def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    """What `torch.eig` was before torch 2.0: real and imaginary parts (n, 2), eigenvectors as columns."""
    if not eigenvectors:
        raise ValueError("PyHessian asks for eigenvectors; got eigenvectors=False")
    values, vectors = torch.linalg.eig(matrix)
    return torch.view_as_real(values), vectors.real


def kept_graph_count(task: Task) -> Found:
    """Our count without a basis, on a product that knows no network: the graph of the gradient of one batch, kept.

    The intervals are those of "lanczos, plain"; seconds and memory are the kept graph's.
    """
    model, loss, data = copied(task)
    product, size = kept_graph(model, loss, data, BATCH), task.loaded.size
    base = task.loaded.operator
    operator = as_operator(product, size, dtype=base.dtype, device=base.device)
    (tau,) = task.taus
    counts = count_eigenvalues(
        operator,
        threshold=tau,
        confidence=task.confidence,
        probes=task.probes,
        steps=min(task.steps, size),
        precision=FOREVER,
        method="lanczos",
        reorthogonalize=False,
        generator=torch.Generator().manual_seed(task.seed),
    )
    return Found([row_of("kept graph", counts, 0.0, None).answers], counts.products)


def curvlinops_density(task: Task) -> Found:
    """`lanczos_approximate_spectrum(operator, ncv, num_repeats)`, Papyan 2020; its own 1024 points."""
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    operator, columns = curvlinops_operator(task)
    torch.manual_seed(task.seed)
    grid, density = lanczos_approximate_spectrum(operator, task.steps, num_repeats=task.probes)
    size = task.loaded.size
    answers = [from_density(as_array(grid), as_array(density), size, tau) for tau in task.taus]
    return Found(answers, sum(columns))


def curvlinops_weights(task: Task) -> Found:
    """`fast_lanczos`, which its density smooths: the Ritz values and weights themselves."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    operator, columns = curvlinops_operator(task)
    torch.manual_seed(task.seed)
    pairs = []
    for _ in range(task.probes):
        values, vectors = fast_lanczos(operator, task.steps)
        pairs.append((as_array(values), as_array(vectors[0].square())))
    size = task.loaded.size
    return Found([from_weights(pairs, size, tau) for tau in task.taus], sum(columns))


def curvlinops_operator(task: Task):
    """Its Hessian, or where there is no network a linear operator of its kind; and a list of columns multiplied."""
    from curvlinops import HessianLinearOperator
    from curvlinops._torch_base import PyTorchLinearOperator

    base = task.loaded.operator

    class Prescribed(PyTorchLinearOperator):
        SELF_ADJOINT = True
        device, dtype = base.device, base.dtype

        def _matmat(self, parts: list[Tensor]) -> list[Tensor]:
            return [base @ parts[0]]

    if task.loaded.network is None:
        operator = Prescribed([(task.loaded.size,)], [(task.loaded.size,)])
    else:
        model, loss, data = copied(task)
        operator = HessianLinearOperator(model, loss, list(model.parameters()), batches(data, BATCH))
    columns: list[int] = []
    multiply = operator._matmat

    def counted(parts: list[Tensor]) -> list[Tensor]:
        columns.append(parts[0].shape[-1])
        return multiply(parts)

    operator._matmat = counted
    return operator, columns


def eigenthings_weights(task: Task) -> Found:
    """`spectral_density(operator, num_runs, lanczos_steps)`: its raw Ritz values and weights."""
    result = eigenthings_result(task)
    runs = list(zip(as_array(result.raw_eigenvalues), as_array(result.raw_weights), strict=True))
    size = task.loaded.size
    return Found([from_weights(runs, size, tau) for tau in task.taus], task.probes * task.steps)


def eigenthings_density(task: Task) -> Found:
    """The same, smoothed on its own grid."""
    result = eigenthings_result(task)
    size = task.loaded.size
    answers = [from_density(as_array(result.grid), as_array(result.density), size, tau) for tau in task.taus]
    return Found(answers, task.probes * task.steps)


def eigenthings_result(task: Task):
    from hessian_eigenthings.algorithms.spectral_density import spectral_density

    operator = eigenthings_operator(task)
    return spectral_density(operator, num_runs=task.probes, lanczos_steps=task.steps, seed=task.seed)


def eigenthings_extremes(task: Task) -> Found:
    """`lanczos(operator, k, which)`, 2 k steps by default, at both ends; what it reports as converged."""
    from hessian_eigenthings.algorithms.lanczos import lanczos

    operator = eigenthings_operator(task)
    ends = [lanczos(operator, k=task.wanted, which=which, seed=task.seed) for which in ("SA", "LA")]
    lowest, highest = (as_array(end.eigenvalues[end.converged]) for end in ends)
    answers = [from_extremes(lowest, highest, task.wanted, task.loaded.size, tau) for tau in task.taus]
    return Found(answers, sum(end.iterations for end in ends))


def eigenthings_operator(task: Task):
    from hessian_eigenthings import HessianOperator, supervised_loss
    from hessian_eigenthings.operators.base import LambdaOperator

    base = task.loaded.operator
    if task.loaded.network is None:
        return LambdaOperator(lambda v: base @ v, task.loaded.size, base.device, base.dtype)
    model, loss, data = copied(task)
    return HessianOperator(model, batches(data, BATCH), supervised_loss(loss))


def copied(task: Task):
    """The network with a model of its own: PyHessian leaves gradients in it."""
    assert task.loaded.network is not None
    model, loss, data = task.loaded.network
    return copy.deepcopy(model), loss, data


def on_cuda(task: Task) -> bool:
    return task.loaded.operator.device.type == "cuda"
