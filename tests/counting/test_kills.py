"""SIGKILL at random moments, twice a count: it goes on to the same last bit, and makes little again.

The oracle is the count that was not interrupted and kept nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kills import METHODS

from lanczos_saddle.machine.journal import is_journal

SCRIPT = Path(__file__).parents[1] / "killing.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

LOST = {method: 3 * 8 * 6 + 120 for method in METHODS} | {"exact by layers": 2 * 2 * 64 + 120}
"""Products of three processes beyond those of one: an interval's worth, in blocks of eight, and those made again.
Layers come in blocks of 64, each of which takes longer than an interval."""


@pytest.mark.slow  # forty counts each, half of them from the middle
@pytest.mark.parametrize("method", METHODS)
def test_a_count_that_is_killed_at_twenty_moments_goes_on(tmp_path, method):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, method, "20", "0"], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 20
    assert all(one["same"] for one in found)
    assert sum(one["kills"] for one in found) >= 20
    assert max(one["made"] for one in found) <= found[0]["whole"] + LOST[method]


SLOW = """
import time
import torch
from torch import nn
from lanczos_saddle.networks.curvature import Curvature

real = Curvature.__matmul__


def times(self, v):
    time.sleep(PAUSE)
    with open("products", "a") as file:
        file.write("x" * (1 if v.ndim == 1 else v.shape[1]))
    return real(self, v)


Curvature.__matmul__ = times


def f():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    return model, nn.CrossEntropyLoss(), (torch.randn(90, 8).double(), torch.randint(0, 4, (90,)))
"""


@pytest.mark.slow  # waits for another process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_enumeration_saves_it(tmp_path, number):
    (tmp_path / "slow.py").write_text(SLOW.replace("PAUSE", "0.2"))
    how = ["--threshold", "0.001", "--method", "lanczos", "--probes", "2", "--steps", "10", "--max-products", "300"]
    options = [*how, "--enumerate-negative"]
    command = [sys.executable, "-m", "lanczos_saddle", "count", "slow.py:f", *options, "--state", "run", "--json"]
    process = subprocess.Popen([*command, "a.json"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    products = tmp_path / "products"
    while not (products.exists() and products.stat().st_size > 60) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert said == f"lanczos-saddle: interrupted by {number.name}\n"
    assert is_journal(tmp_path / "run")
    assert not (tmp_path / "a.json").exists()
    first = products.stat().st_size
    (tmp_path / "slow.py").write_text(SLOW.replace("PAUSE", "0"))
    assert subprocess.run([*command, "a.json"], cwd=tmp_path).returncode == 0
    both = products.stat().st_size
    products.unlink()
    (tmp_path / "run").unlink()
    assert subprocess.run([*command, "b.json"], cwd=tmp_path).returncode == 0
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for one in (found, expected):
        one.pop("seconds")
        one.pop("provenance")  # with the time of day
    assert found == expected
    assert both <= products.stat().st_size + 40
    assert first > 60
