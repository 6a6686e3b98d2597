"""Functions with known critical points: how many eigenvalues are negative, zero, positive is known in closed form."""
