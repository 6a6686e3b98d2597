"""How many eigenvalues are negative, near zero, positive: one module a method, one form of result."""

from lanczos_saddle.old_names import moved

__getattr__ = moved(__name__, {"count_eigenvalues": "counting.count", "recount": "counting.count"})
