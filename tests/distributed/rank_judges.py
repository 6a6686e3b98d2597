"""What tests of several ranks have in common: one start of all scenarios, and what is the same in two counts."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lanczos_saddle import Hessian

HERE = Path(__file__).parent


def told(folder, *asked, program="rank_program.py"):
    """{number of ranks: {scenario: results}}: "2:products,counts" asks for two scenarios on two ranks."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(HERE / program), str(folder), *asked],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {
        int(r): pickle.loads((folder / f"{r}.pickle").read_bytes()) for r in (one.partition(":")[0] for one in asked)
    }


NUMBERS = [2, pytest.param(4, marks=pytest.mark.slow)]
"""Of ranks: what holds for two and four alike. CI has four in `test_ranks` alone."""


class Lazily(dict):
    """What `told` gives, of each number of ranks when it is first asked for, after those before it in `asked`."""

    def __init__(self, folder, *asked):
        super().__init__()
        self.folder, self.asked = folder, list(asked)

    def left_by(self, number):
        """The folder with the states that so many ranks leave."""
        assert self[number]
        return self.folder

    def __missing__(self, number):
        at = next(i for i, one in enumerate(self.asked) if one.startswith(f"{number}:"))
        self.update(told(self.folder, *self.asked[: at + 1]))
        del self.asked[: at + 1]
        return self[number]


def whole(problem, **options):
    """The matrix of one process."""
    return Hessian(*problem, **options)


def same_counts(found, expected, digits=1e-6):
    """Bounds to the last count; estimates move by what recurrences make of rounding."""
    for name in ("negative", "near_zero", "positive"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one.lower, one.upper) == (other.lower, other.upper)
        assert one.estimate == pytest.approx(other.estimate, rel=digits)
    assert (found.products, found.probes, found.steps) == (expected.products, expected.probes, expected.steps)
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-9)
    assert found.method == expected.method
