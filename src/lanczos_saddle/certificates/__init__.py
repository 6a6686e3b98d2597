"""Theorems, which spend none: from coefficients and products that were made to bounds on counts."""
