"""How many eigenvalues are negative, near zero, positive: one module a method, one form of result."""
