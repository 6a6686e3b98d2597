"""Everything that is raced: a name, what it needs, and how it answers. A row here is a row in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import library_counts as libraries
import solver_counts as solvers
import torch
from answers import Found, Task
from peers import importable, quiet, version_of

from lanczos_saddle.counting.comparison import FOREVER, METHODS, Method, row_of

NETWORK, MATRIX, CUDA = "network", "matrix", "cuda"


@dataclass(frozen=True)
class Counter:
    """A way to count. `needs`: a network (no bare operator), N x N numbers, a CUDA device."""

    name: str  # that tables show
    package: str  # distribution
    module: str  # what is imported
    count: Callable[[Task], Found]
    once: bool = False  # whether one run serves all thresholds
    samples: bool = False  # whether probes and steps mean something to it
    needs: frozenset[str] = frozenset()

    def missing(self, has_network: bool, size: int, dense_up_to: int) -> str | None:
        """Why it cannot run on a problem here; None where it can."""
        if NETWORK in self.needs and not has_network:
            return "not applicable: takes networks, not operators"
        if CUDA in self.needs and not torch.cuda.is_available():
            return "no CUDA device"
        if MATRIX in self.needs and size > dense_up_to:
            return f"not run: takes a matrix, {8 * size**2 / 2**30:.1f} GiB and N products (--dense-up-to)"
        return None if self.installed() else "not installed"

    def installed(self) -> bool:
        return importable(self.module)

    @property
    def version(self) -> str | None:
        return version_of(self.package)

    def run(self, task: Task) -> Found:
        """The libraries' warnings are not shown."""
        with quiet():
            return self.count(task)


def ours(task: Task, method: Method) -> Found:
    (tau,) = task.taus
    budget = {"probes": task.probes, "steps": min(task.steps, task.loaded.size), "precision": FOREVER}
    counts = method.count(
        task.loaded.operator,
        threshold=tau,
        confidence=task.confidence,
        generator=torch.Generator().manual_seed(task.seed),
        **(budget if method.samples else {}),
    )
    return Found([row_of(method.name, counts, 0.0, None).answers], counts.products)


def our_counter(method: Method) -> Counter:
    needs = frozenset() if method.samples else frozenset([MATRIX])
    return Counter(
        f"ours: {method.name}",
        "lanczos-saddle",
        "lanczos_saddle",
        partial(ours, method=method),
        samples=method.samples,
        needs=needs,
    )


ON_NETWORK, ON_MATRIX, ON_CUDA = frozenset([NETWORK]), frozenset([MATRIX]), frozenset([CUDA])
CURVLINOPS = ("curvlinops-for-pytorch", "curvlinops")
EIGENTHINGS = ("hessian-eigenthings", "hessian_eigenthings")

COUNTERS = (
    *(our_counter(method) for method in METHODS),
    Counter("kept graph, our count", "torch", "torch", libraries.kept_graph_count, samples=True, needs=ON_NETWORK),
    Counter("PyHessian, weights", "pyhessian", "pyhessian", libraries.pyhessian_density, True, True, ON_NETWORK),
    Counter("curvlinops, density", *CURVLINOPS, libraries.curvlinops_density, True, True),
    Counter("curvlinops, weights", *CURVLINOPS, libraries.curvlinops_weights, True, True),
    Counter("eigenthings, density", *EIGENTHINGS, libraries.eigenthings_density, True, True),
    Counter("eigenthings, weights", *EIGENTHINGS, libraries.eigenthings_weights, True, True),
    Counter("eigenthings, extremes", *EIGENTHINGS, libraries.eigenthings_extremes, True),
    Counter("imate eigencount", "imate", "imate", solvers.imate_eigencount, samples=True, needs=ON_MATRIX),
    Counter("primate hutch", "scikit-primate", "primate.trace", solvers.primate_trace, samples=True),
    Counter("resona trace", "resona", "resona", solvers.resona_trace, True, True),
    Counter("scipy eigsh", "scipy", "scipy", solvers.scipy_eigsh, True),
    Counter("PRIMME eigsh", "primme", "primme", solvers.primme_eigsh, True),
    Counter("torch.lobpcg", "torch", "torch", solvers.torch_lobpcg, True, needs=ON_MATRIX),
    Counter("torch eigvalsh", "torch", "torch", solvers.torch_eigvalsh, True, needs=ON_MATRIX),
    Counter("cupyx eigsh", "cupy-cuda12x", "cupyx", solvers.cupyx_eigsh, True, needs=ON_CUDA),
    Counter("cupy eigvalsh", "cupy-cuda12x", "cupy", solvers.cupy_eigvalsh, True, needs=ON_MATRIX | ON_CUDA),
)
