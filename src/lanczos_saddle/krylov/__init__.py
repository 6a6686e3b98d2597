"""Recurrences, which spend products: Lanczos, block Lanczos, block conjugate gradients."""
