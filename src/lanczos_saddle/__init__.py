"""How many Hessian eigenvalues are negative, near zero, positive: intervals that hold, from H @ v alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lanczos_saddle import old_names
from lanczos_saddle import startup as startup  # before what takes seconds

if TYPE_CHECKING:
    from lanczos_saddle.certificates.intervals import Interval
    from lanczos_saddle.classification.classify import Classification, classify
    from lanczos_saddle.classification.definitions import Verdict
    from lanczos_saddle.classification.directions import Direction, extreme_eigenpairs
    from lanczos_saddle.classification.lipschitz import Variation
    from lanczos_saddle.counting.count import count_eigenvalues, recount
    from lanczos_saddle.counting.eliminated import Elimination, negative_count_by_elimination
    from lanczos_saddle.counting.enumeration import Enumeration, negative_eigenvectors
    from lanczos_saddle.counting.evidence import (
        CongruentEvidence,
        CountBand,
        EliminatedEvidence,
        Evidence,
        FixedEvidence,
        SampledEvidence,
    )
    from lanczos_saddle.counting.exact import SpectrumEvidence
    from lanczos_saddle.counting.inside import CountsIn, count_in
    from lanczos_saddle.counting.readings import Closing, Readings, closing, readings
    from lanczos_saddle.counting.result import Counts, Interrupted, JointCounts
    from lanczos_saddle.dense.exact import Dense, assemble, exact_eigenvalues, inertia
    from lanczos_saddle.dense.sylvester import Inertia
    from lanczos_saddle.density import Density, spectral_density
    from lanczos_saddle.distributed.data import data_parallel
    from lanczos_saddle.distributed.group import RankFailed, RankLost
    from lanczos_saddle.distributed.in_slices import vector_parallel
    from lanczos_saddle.distributed.over_ranks import OverRanks
    from lanczos_saddle.distributed.probes import lanczos_over_ranks
    from lanczos_saddle.distributed.replicas import probe_parallel
    from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
    from lanczos_saddle.distributed.shares import share
    from lanczos_saddle.distributed.slices import Sliced
    from lanczos_saddle.distributed.weights import weight_parallel
    from lanczos_saddle.eigenvectors import Eigenpairs, eigenpairs
    from lanczos_saddle.forecast.known import Way
    from lanczos_saddle.forecast.plan import Forecast, plan
    from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
    from lanczos_saddle.krylov.largest import largest_magnitude
    from lanczos_saddle.krylov.preflight import check_operator
    from lanczos_saddle.monitor.lightning_callback import LightningSpectrum as LightningSpectrum
    from lanczos_saddle.monitor.moments import FailedCount, WatchedMoment
    from lanczos_saddle.monitor.trainer_callback import TrainerSpectrum as TrainerSpectrum
    from lanczos_saddle.monitor.watch import SpectrumMonitor
    from lanczos_saddle.networks.columns.cache import Folding
    from lanczos_saddle.networks.gauss_newton import GaussNewton
    from lanczos_saddle.networks.hessian import Hessian
    from lanczos_saddle.networks.problem import Problem
    from lanczos_saddle.operators.fidelity import Fidelity
    from lanczos_saddle.operators.matrix_files import load_matrix
    from lanczos_saddle.operators.operator import (
        Operator,
        Projected,
        Restricted,
        Shifted,
        as_operator,
        to_cupy,
        to_curvlinops,
        to_pylops,
        to_scipy,
    )
    from lanczos_saddle.operators.pencil import PencilFactor, pencil
    from lanczos_saddle.operators.prescribed import PrescribedSpectrum, clustered_spectrum
    from lanczos_saddle.operators.resolution import OperatorCheck, RunNoise
    from lanczos_saddle.preconditioning.congruence import Factor
    from lanczos_saddle.reports.figures import (
        band_figure,
        closing_figure,
        density_figure,
        intervals_figure,
        layers_figure,
    )
    from lanczos_saddle.reports.page import report
    from lanczos_saddle.reports.plots import plot_count_band, plot_density
    from lanczos_saddle.reports.summary import record_of
    from lanczos_saddle.reports.terminal import show
    from lanczos_saddle.reports.training import plot_training
    from lanczos_saddle.spectral_sums import SpectralSum, log_determinant, spectral_sum, trace
    from lanczos_saddle.structure.facts import dead_coordinates, negative_bound
    from lanczos_saddle.structure.null_vectors import rescaling, softmax_shift
    from lanczos_saddle.structure.zero_rows import TensorRows, zero_rows

old_names.known()

__version__ = "0.1.0"

_PLACES = {
    "Classification": "lanczos_saddle.classification.classify",
    "Closing": "lanczos_saddle.counting.readings",
    "CongruentEvidence": "lanczos_saddle.counting.evidence",
    "CountBand": "lanczos_saddle.counting.evidence",
    "Counts": "lanczos_saddle.counting.result",
    "CountsIn": "lanczos_saddle.counting.inside",
    "Dense": "lanczos_saddle.dense.exact",
    "Density": "lanczos_saddle.density",
    "Direction": "lanczos_saddle.classification.directions",
    "EliminatedEvidence": "lanczos_saddle.counting.evidence",
    "Elimination": "lanczos_saddle.counting.eliminated",
    "Enumeration": "lanczos_saddle.counting.enumeration",
    "Evidence": "lanczos_saddle.counting.evidence",
    "Factor": "lanczos_saddle.preconditioning.congruence",
    "FailedCount": "lanczos_saddle.monitor.moments",
    "Fidelity": "lanczos_saddle.operators.fidelity",
    "FixedEvidence": "lanczos_saddle.counting.evidence",
    "Folding": "lanczos_saddle.networks.columns.cache",
    "Forecast": "lanczos_saddle.forecast.plan",
    "GaussNewton": "lanczos_saddle.networks.gauss_newton",
    "Hessian": "lanczos_saddle.networks.hessian",
    "Inertia": "lanczos_saddle.dense.sylvester",
    "Interrupted": "lanczos_saddle.counting.result",
    "Interval": "lanczos_saddle.certificates.intervals",
    "JointCounts": "lanczos_saddle.counting.result",
    "Lanczos": "lanczos_saddle.krylov.lanczos",
    "Operator": "lanczos_saddle.operators.operator",
    "OperatorCheck": "lanczos_saddle.operators.resolution",
    "OverRanks": "lanczos_saddle.distributed.over_ranks",
    "RankFailed": "lanczos_saddle.distributed.group",
    "RankLost": "lanczos_saddle.distributed.group",
    "PrescribedSpectrum": "lanczos_saddle.operators.prescribed",
    "Problem": "lanczos_saddle.networks.problem",
    "Projected": "lanczos_saddle.operators.operator",
    "Readings": "lanczos_saddle.counting.readings",
    "Restricted": "lanczos_saddle.operators.operator",
    "RunNoise": "lanczos_saddle.operators.resolution",
    "SampledEvidence": "lanczos_saddle.counting.evidence",
    "ShardedHessian": "lanczos_saddle.distributed.sharded_hessian",
    "Shifted": "lanczos_saddle.operators.operator",
    "Sliced": "lanczos_saddle.distributed.slices",
    "SpectrumEvidence": "lanczos_saddle.counting.exact",
    "TensorRows": "lanczos_saddle.structure.zero_rows",
    "SpectrumMonitor": "lanczos_saddle.monitor.watch",
    "Tridiagonalization": "lanczos_saddle.krylov.lanczos",
    "Way": "lanczos_saddle.forecast.known",
    "Variation": "lanczos_saddle.classification.lipschitz",
    "Verdict": "lanczos_saddle.classification.definitions",
    "WatchedMoment": "lanczos_saddle.monitor.moments",
    "as_operator": "lanczos_saddle.operators.operator",
    "assemble": "lanczos_saddle.dense.exact",
    "band_figure": "lanczos_saddle.reports.figures",
    "check_operator": "lanczos_saddle.krylov.preflight",
    "classify": "lanczos_saddle.classification.classify",
    "closing": "lanczos_saddle.counting.readings",
    "closing_figure": "lanczos_saddle.reports.figures",
    "clustered_spectrum": "lanczos_saddle.operators.prescribed",
    "count_eigenvalues": "lanczos_saddle.counting.count",
    "data_parallel": "lanczos_saddle.distributed.data",
    "share": "lanczos_saddle.distributed.shares",
    "count_in": "lanczos_saddle.counting.inside",
    "dead_coordinates": "lanczos_saddle.structure.facts",
    "density_figure": "lanczos_saddle.reports.figures",
    "exact_eigenvalues": "lanczos_saddle.dense.exact",
    "extreme_eigenpairs": "lanczos_saddle.classification.directions",
    "inertia": "lanczos_saddle.dense.exact",
    "lanczos_over_ranks": "lanczos_saddle.distributed.probes",
    "probe_parallel": "lanczos_saddle.distributed.replicas",
    "vector_parallel": "lanczos_saddle.distributed.in_slices",
    "intervals_figure": "lanczos_saddle.reports.figures",
    "largest_magnitude": "lanczos_saddle.krylov.largest",
    "layers_figure": "lanczos_saddle.reports.figures",
    "load_matrix": "lanczos_saddle.operators.matrix_files",
    "negative_bound": "lanczos_saddle.structure.facts",
    "negative_count_by_elimination": "lanczos_saddle.counting.eliminated",
    "negative_eigenvectors": "lanczos_saddle.counting.enumeration",
    "plan": "lanczos_saddle.forecast.plan",
    "plot_count_band": "lanczos_saddle.reports.plots",
    "plot_density": "lanczos_saddle.reports.plots",
    "readings": "lanczos_saddle.counting.readings",
    "record_of": "lanczos_saddle.reports.summary",
    "plot_training": "lanczos_saddle.reports.training",
    "recount": "lanczos_saddle.counting.count",
    "report": "lanczos_saddle.reports.page",
    "rescaling": "lanczos_saddle.structure.null_vectors",
    "show": "lanczos_saddle.reports.terminal",
    "softmax_shift": "lanczos_saddle.structure.null_vectors",
    "spectral_density": "lanczos_saddle.density",
    "to_cupy": "lanczos_saddle.operators.operator",
    "to_curvlinops": "lanczos_saddle.operators.operator",
    "to_pylops": "lanczos_saddle.operators.operator",
    "to_scipy": "lanczos_saddle.operators.operator",
    "weight_parallel": "lanczos_saddle.distributed.weights",
    "zero_rows": "lanczos_saddle.structure.zero_rows",
    "Eigenpairs": "lanczos_saddle.eigenvectors",
    "eigenpairs": "lanczos_saddle.eigenvectors",
    "PencilFactor": "lanczos_saddle.operators.pencil",
    "pencil": "lanczos_saddle.operators.pencil",
    "SpectralSum": "lanczos_saddle.spectral_sums",
    "log_determinant": "lanczos_saddle.spectral_sums",
    "spectral_sum": "lanczos_saddle.spectral_sums",
    "trace": "lanczos_saddle.spectral_sums",
}
"""Where each name of the face lives: it is imported when it is asked for, so that --help needs no torch."""

_OF_EXTRAS = {
    "LightningSpectrum": "lanczos_saddle.monitor.lightning_callback",
    "TrainerSpectrum": "lanczos_saddle.monitor.trainer_callback",
}
"""What is a class of another library's kind: not part of ``import *``, which would need that library."""

__all__ = [
    "Classification",
    "Closing",
    "CongruentEvidence",
    "CountBand",
    "Counts",
    "CountsIn",
    "Dense",
    "Density",
    "Direction",
    "Eigenpairs",
    "EliminatedEvidence",
    "Elimination",
    "Enumeration",
    "Evidence",
    "Factor",
    "FailedCount",
    "Fidelity",
    "FixedEvidence",
    "Folding",
    "Forecast",
    "GaussNewton",
    "Hessian",
    "Inertia",
    "Interrupted",
    "Interval",
    "JointCounts",
    "Lanczos",
    "Operator",
    "OperatorCheck",
    "OverRanks",
    "PencilFactor",
    "PrescribedSpectrum",
    "Problem",
    "Projected",
    "RankFailed",
    "RankLost",
    "Readings",
    "Restricted",
    "RunNoise",
    "SampledEvidence",
    "ShardedHessian",
    "Shifted",
    "Sliced",
    "SpectralSum",
    "SpectrumEvidence",
    "SpectrumMonitor",
    "TensorRows",
    "Tridiagonalization",
    "Variation",
    "Verdict",
    "WatchedMoment",
    "Way",
    "as_operator",
    "assemble",
    "band_figure",
    "check_operator",
    "classify",
    "closing",
    "closing_figure",
    "clustered_spectrum",
    "count_eigenvalues",
    "count_in",
    "data_parallel",
    "dead_coordinates",
    "density_figure",
    "eigenpairs",
    "exact_eigenvalues",
    "extreme_eigenpairs",
    "inertia",
    "intervals_figure",
    "lanczos_over_ranks",
    "largest_magnitude",
    "layers_figure",
    "load_matrix",
    "log_determinant",
    "negative_bound",
    "negative_count_by_elimination",
    "negative_eigenvectors",
    "pencil",
    "plan",
    "plot_count_band",
    "plot_density",
    "plot_training",
    "probe_parallel",
    "readings",
    "record_of",
    "recount",
    "report",
    "rescaling",
    "share",
    "show",
    "softmax_shift",
    "spectral_density",
    "spectral_sum",
    "to_cupy",
    "to_curvlinops",
    "to_pylops",
    "to_scipy",
    "trace",
    "vector_parallel",
    "weight_parallel",
    "zero_rows",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        place = _PLACES.get(name) or _OF_EXTRAS.get(name)
        if place is None:
            raise AttributeError(f"lanczos_saddle has {', '.join(__all__)}; got {name!r}")
        value = getattr(import_module(place), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_OF_EXTRAS])
