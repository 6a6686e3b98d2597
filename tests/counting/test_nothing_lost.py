"""A count that is killed anywhere goes on from there: the same answer to the last bit, and nothing made twice.

The oracle is the count that was not interrupted and kept nothing. Here a kill is an exception at a product that nothing
is written for; `test_kills.py` sends SIGKILL at random moments.
"""

import random

import pytest
from kills import METHODS, Killed, answer, begun, counting, network

from lanczos_saddle import Interrupted, count_eigenvalues
from lanczos_saddle.machine import journal as journal_module

AGAIN = 60
"""Products that a resumed count makes once more, at most: the first of every operator, a step of the recurrence."""

FAST = ("plain", "enumerated", "deflated", "ekfac", "exact", "interval")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Everything is written at once."""
    monkeypatch.setattr(journal_module, "INTERVAL", 0.0)
    monkeypatch.setattr("lanczos_saddle.counting.deepening.INTERVAL", 0.0)


def killed_and_resumed(method, path, stop):
    """(the answer, products of both processes) of a count that is killed at that product."""
    with counting(stop) as first, pytest.raises(Killed):
        begun(method, state=path)
    with counting() as rest:
        found = begun(method, state=path)
    return answer(found), first.columns + rest.columns


@pytest.mark.parametrize("method", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_a_killed_count_goes_on_where_it_was(tmp_path, method):
    with counting() as whole:
        expected = answer(begun(method))
    moments = random.Random(method).sample(range(2, whole.calls), min(2, whole.calls - 2))
    for stop in [1, *moments]:
        path = tmp_path / str(stop)
        found, made = killed_and_resumed(method, path, stop)
        assert found == expected, f"killed at product {stop} of {whole.calls}"
        assert made <= whole.columns + whole.widest + AGAIN


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["ekfac", "own S"])
def test_an_interrupted_count_with_a_preconditioner_says_what_it_knows(tmp_path, method):
    """Of the side that has not begun, nothing; and all of it goes on."""
    with counting() as whole:
        expected = begun(method)
    judge = count_eigenvalues(network(), threshold=1e-3, method="exact")
    for number, stop in enumerate((whole.calls // 2 - 4, whole.calls - 6)):
        path = tmp_path / str(number)
        with counting(stop, interrupted), pytest.raises(Interrupted) as stopped:
            begun(method, state=path)
        known = stopped.value.counts
        assert known.stopped == "interrupted"
        assert known.products < expected.products
        assert all(getattr(judge, name).lower in getattr(known, name) for name in ("negative", "near_zero", "positive"))
        if number == 0:
            assert (known.positive.lower, known.positive.upper) == (0, known.size - known.dead - known.negative.lower)
        assert answer(begun(method, state=path)) == answer(expected)
