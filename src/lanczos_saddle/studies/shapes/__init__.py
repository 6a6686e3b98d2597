"""Degeneracy against depth and width: what is counted, in tables and figures."""
