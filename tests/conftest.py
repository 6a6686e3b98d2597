"""Shared helpers lie beside it: `matrices`, `oracles`, `needs`; fixtures in the folder that uses them."""

import pytest


@pytest.fixture(autouse=True)
def _no_lines_of_a_slow_machine(monkeypatch):
    """Where others compute, anything may take the two seconds after which a command says how far it is."""
    monkeypatch.setattr("lanczos_saddle.cli.display.NEW", float("inf"))
