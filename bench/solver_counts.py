"""Counts by eigensolvers and trace estimators for any symmetric operator, on this package's products.

Eigensolvers compute `wanted` eigenvalues from each end; those beyond -+tau are a lower bound, if they are eigenvalues,
each found once: `checked` looks at residuals and at the angles between eigenvectors, by products that are not counted.
imate, torch.lobpcg and the dense solvers take a matrix: N products to assemble it, and no more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from answers import Answers, Array, Counted, Found, Task, as_array, from_extremes
from scipy.stats import t as student

from lanczos_saddle.counting.comparison import Answer
from lanczos_saddle.dense.exact import assemble, three_counts
from lanczos_saddle.operators.operator import to_scipy

RIGHT = 1e-6
"""A converged eigenpair's residual, as a share of the largest eigenvalue, and its overlap with another one."""


def scipy_eigsh(task: Task) -> Found:
    """ARPACK: `eigsh(A, k, which)`, tolerance and basis as by default."""
    from scipy.sparse.linalg import eigsh

    counted = Counted(task.loaded.operator)
    start = np.random.default_rng(task.seed).standard_normal(task.loaded.size)
    operator = to_scipy(counted)
    pairs = [eigsh(operator, task.wanted, which=w, v0=start) for w in ("SA", "LA")]
    return extremes(task, *(checked(task, *pair) for pair in pairs), counted.columns)


def primme_eigsh(task: Task) -> Found:
    """`primme.eigsh(A, k, which)`, method and tolerance as by default."""
    import primme

    counted = Counted(task.loaded.operator)
    operator = to_scipy(counted)
    pairs = [primme.eigsh(operator, task.wanted, which=w) for w in ("SA", "LA")]
    return extremes(task, *(checked(task, *pair) for pair in pairs), counted.columns)


def checked(task: Task, values: Array, vectors: Array) -> Array:
    """The eigenvalues, ascending; raises ValueError unless residuals are small and eigenvectors orthonormal.

    Then as many eigenvalues of H lie near them (Kahan), so that the bounds are true. Whether they are the outermost
    ones no residual tells: a bound may be lower than it could be.
    """
    order = np.argsort(values)
    values, vectors = values[order], vectors[:, order]
    images = as_array(
        task.loaded.operator @ torch.from_numpy(np.ascontiguousarray(vectors)).to(task.loaded.operator.dtype)
    )
    residual = float(np.linalg.norm(images - vectors * values, axis=0).max()) / float(abs(values).max())
    overlap = float(abs(vectors.T @ vectors - np.eye(len(values))).max())
    if not max(residual, overlap) <= RIGHT:
        raise ValueError(
            f"eigenpairs are off: residual {residual:.0e} of the largest, overlap of eigenvectors {overlap:.0e}"
        )
    return values


def torch_lobpcg(task: Task) -> Found:
    """`torch.lobpcg(A, k, largest)` on the assembled matrix: it takes no operator."""
    matrix = assemble(task.loaded.operator).matrix
    torch.manual_seed(task.seed)
    ends = [torch.lobpcg(matrix, k=task.wanted, largest=largest)[0] for largest in (False, True)]
    return extremes(task, *(as_array(values) for values in ends), task.loaded.size)


def cupyx_eigsh(task: Task) -> Found:
    """`cupyx.scipy.sparse.linalg.eigsh(A, k, which)`; products stay on the device."""
    import cupy
    from cupyx.scipy.sparse.linalg import LinearOperator, eigsh

    counted = Counted(task.loaded.operator)

    def product(v):
        return cupy.from_dlpack(counted @ torch.from_dlpack(cupy.ascontiguousarray(v)))

    operator = LinearOperator(counted.shape, matvec=product, dtype=str(counted.dtype).removeprefix("torch."))
    ends = [eigsh(operator, task.wanted, which=w, return_eigenvectors=False).get() for w in ("SA", "LA")]
    return extremes(task, *ends, counted.columns)


def extremes(task: Task, lowest: Array, highest: Array, products: int) -> Found:
    return Found([from_extremes(lowest, highest, task.wanted, task.loaded.size, tau) for tau in task.taus], products)


def torch_eigvalsh(task: Task) -> Found:
    """All eigenvalues of the assembled matrix."""
    return dense(task, as_array(torch.linalg.eigvalsh(assemble(task.loaded.operator).matrix)))


def cupy_eigvalsh(task: Task) -> Found:
    import cupy

    matrix = cupy.from_dlpack(assemble(task.loaded.operator).matrix)
    return dense(task, cupy.linalg.eigvalsh(matrix).get())


def dense(task: Task, values: Array) -> Found:
    counts = [three_counts(values, tau) for tau in task.taus]
    return Found([(Answer(a), Answer(b), Answer(c)) for a, b, c in counts], task.loaded.size)


def imate_eigencount(task: Task) -> Found:
    """`imate.eigencount(A, interval, method="slq")` on the assembled matrix; its own interval from the samples.

    The products of its own Lanczos runs are with the matrix, not with the Hessian: they are not counted.
    """
    import imate

    matrix = assemble(task.loaded.operator).matrix.cpu().numpy()
    far = float(np.linalg.norm(matrix))
    (tau,) = task.taus
    answers = []
    for interval in ([-far, float(np.nextafter(-tau, -far))], [-tau, tau], [float(np.nextafter(tau, far)), far]):
        count, info = imate.eigencount(
            matrix,
            interval=interval,
            method="slq",
            lanczos_degree=task.steps,
            min_num_samples=task.probes,
            max_num_samples=task.probes,
            confidence_level=task.confidence,
            seed=task.seed,
            num_threads=torch.get_num_threads(),
            return_info=True,
        )
        error = float(info["error"]["absolute_error"])
        answers.append(Answer(float(count), float(count) - error, float(count) + error))
    negative, near_zero, positive = answers
    return Found([(negative, near_zero, positive)], task.loaded.size)


def resona_trace(task: Task) -> Found:
    """`resona.of(A, k=, probes=)` and the traces of three indicators, with its standard errors (Student's t)."""
    import resona

    counted = Counted(task.loaded.operator)
    spectrum = resona.of(to_scipy(counted), task.loaded.size, k=task.steps, probes=task.probes, seed=task.seed)
    quantile = float(student.ppf((1 + task.confidence) / 2, task.probes - 1))

    def answer(inside: Callable[[Array], Array]) -> Answer:
        value, error = spectrum.trace(lambda x: inside(x).astype(float), with_err=True)
        return Answer(value, value - quantile * error, value + quantile * error)

    return Found(
        [
            (answer(lambda x: x < -tau), answer(lambda x: abs(x) <= tau), answer(lambda x: x > tau))  # noqa: B023
            for tau in task.taus
        ],
        counted.columns,
    )


def primate_trace(task: Task) -> Found:
    """`hutch(MatrixFunction(A, fun, deg))`: the trace of the indicator of (-inf, -tau), and its numerical rank."""
    counted = Counted(task.loaded.operator)
    (tau,) = task.taus
    negative = primate_count(task, counted, fun=lambda x: (x < -tau).astype(float))
    rank = primate_count(task, counted, fun="numrank", threshold=tau)
    size = task.loaded.size
    answers: Answers = (
        negative,
        Answer(*(None if end is None else size - end for end in (rank.estimate, rank.upper, rank.lower))),
        Answer(rank.estimate - negative.estimate),
    )
    return Found([answers], counted.columns)


def primate_count(task: Task, operator: Counted, **function) -> Answer:
    """A trace, with the margin of its own `ConfidenceCriterion` (Student's t over the probes)."""
    from primate.estimators import ConfidenceCriterion
    from primate.operators import MatrixFunction
    from primate.trace import hutch

    class Fresh:
        """x -> x'f(A)x by a `MatrixFunction` of its own: used twice, one orthogonalizes against the last basis."""

        base = to_scipy(operator)
        shape, dtype = base.shape, base.dtype

        def matmul(self, x):  # asked for, never called
            raise NotImplementedError

        __matmul__ = matmul

        def quad(self, block: Array) -> Array:
            return np.concatenate([MatrixFunction(self.base, deg=task.steps, **function).quad(x) for x in block.T])

    trace, result = hutch(Fresh(), batch=task.probes, converge="count", count=task.probes, seed=task.seed, full=True)
    margin = float(np.squeeze(ConfidenceCriterion(confidence=task.confidence)._error(result.estimator)[0]))
    return Answer(float(trace), float(trace) - margin, float(trace) + margin) if np.isfinite(margin) else Answer(trace)
