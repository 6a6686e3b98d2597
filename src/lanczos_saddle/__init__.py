"""How many Hessian eigenvalues are negative, near zero, positive: intervals that hold, from H @ v alone."""

from lanczos_saddle import startup as startup  # isort: skip  # before what takes seconds
from lanczos_saddle.certificates.intervals import Interval
from lanczos_saddle.classification.classify import Classification, classify
from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.counting.eliminated import Elimination, negative_count_by_elimination
from lanczos_saddle.counting.enumeration import Enumeration, negative_eigenvectors
from lanczos_saddle.counting.evidence import CountBand, Evidence
from lanczos_saddle.counting.result import Counts, Interrupted
from lanczos_saddle.dense.exact import assemble, exact_eigenvalues, inertia
from lanczos_saddle.dense.sylvester import Inertia
from lanczos_saddle.density import Density, spectral_density
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.networks.columns.cache import Folding
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.operator import Operator, Projected, Restricted, Shifted, as_operator, to_scipy
from lanczos_saddle.operators.resolution import OperatorCheck
from lanczos_saddle.structure.null_vectors import softmax_shift

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "CountBand",
    "Counts",
    "Density",
    "Elimination",
    "Enumeration",
    "Evidence",
    "Folding",
    "GaussNewton",
    "Hessian",
    "Inertia",
    "Interrupted",
    "Interval",
    "Lanczos",
    "Operator",
    "OperatorCheck",
    "Projected",
    "Restricted",
    "Shifted",
    "Tridiagonalization",
    "as_operator",
    "assemble",
    "check_operator",
    "classify",
    "count_eigenvalues",
    "exact_eigenvalues",
    "inertia",
    "negative_count_by_elimination",
    "negative_eigenvectors",
    "recount",
    "softmax_shift",
    "spectral_density",
    "to_scipy",
]
