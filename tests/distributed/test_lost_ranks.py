"""A rank that dies or hangs ends the job, on all other ranks, within the timeout, with one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rank_losses import RANKS, TIMEOUT

PROGRAM = Path(__file__).parent / "rank_losses.py"


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path_factory.mktemp("losses"))],
        capture_output=True,
        text=True,
        timeout=400,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {tuple(one): said for *one, said in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("question", ["sampled", "by columns"])
def test_a_lost_rank_ends_all_others(losses, name, victim, question):
    said = losses[name, victim, question]
    assert len(said) == RANKS - 1
    for kind, text, seconds in said.values():
        assert kind in ("RankLost", "LeaderLost"), text
        assert "a rank ended, or gave no sign of life for 3 s" in text
        assert "\n" not in text
        assert seconds < 2 * TIMEOUT + 2  # a rank may have waited since just before: and a busy machine
