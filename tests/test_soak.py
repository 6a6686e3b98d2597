"""What grows is found out, and products, counts and threads leave nothing behind (validate/soak.py, in small)."""

import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "validate" / "soak.py"

TINY = "--products 40 --counts 3 --rounds 1 --networks mlp --kinds products counts threads"
SHORT = "--products 1000 --counts 10 --rounds 2"  # with children that import torch anew

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    gc.collect()
    gc.freeze()  # what was imported is not looked at at every step
    yield module
    gc.unfreeze()


def test_a_slope_and_its_error(soak):
    rng, x = np.random.default_rng(0), np.arange(200) * 5.0
    assert soak.slope(3 + 2 * x, 5.0) == pytest.approx((2, 0), abs=1e-9)
    assert soak.slope(np.full(200, 7.0), 5.0) == (0, 0)
    plain, wandering = rng.standard_normal((300, 200)), rng.standard_normal((300, 200)).cumsum(axis=1)
    within = [abs(found) < 3 * error for found, error in (soak.slope(values, 5.0) for values in plain)]
    assert sum(within) >= 290  # 99.7 % of normal ones, less correlations that are estimated
    _, error = np.array([soak.slope(values, 5.0) for values in wandering]).T
    independent = [np.polyfit(x, values, 1, cov=True)[1][0, 0] ** 0.5 for values in wandering]
    assert np.median(error) > 3 * np.median(independent)  # a walk's slope is no growth


@pytest.mark.parametrize("leak", ["nothing", "bytes", "objects", "descriptors"])
def test_what_grows_is_found_out(soak, leak):
    kept = []
    take = {
        "nothing": lambda: None,
        "bytes": lambda: kept.append(os.urandom(2**22)),
        "objects": lambda: kept.append([]),
        "descriptors": lambda: kept.append(os.open(os.devnull, os.O_RDONLY)),
    }
    row = soak.along(take[leak], 20, soak.GROWN["products"])
    assert row["passed"] == (leak == "nothing")
    if leak == "descriptors":
        for descriptor in kept:
            os.close(descriptor)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [TINY, SHORT])
def test_a_process_of_its_own_holds_what_it_says(asked, tmp_path):
    """A test's own process keeps log records, which are no growth of ours."""
    record = tmp_path / "soak.jsonl"
    command = [sys.executable, SCRIPT, *asked.split(), "--record", record]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert record.read_text(encoding="utf-8").count('"kind": "soak"') == 1
