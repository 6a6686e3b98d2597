"""One run for one state; records of two processes side by side. The oracle is what the files hold."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.counting import deepening
from lanczos_saddle.machine.files import append_bytes
from lanczos_saddle.machine.locks import held
from lanczos_saddle.machine.states import read_state

H = torch.diag(torch.linspace(-1, 2, 200, dtype=torch.float64))

HOLD = """
import sys, time
from pathlib import Path
from lanczos_saddle.machine.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

APPEND = """
import sys
from lanczos_saddle.machine.files import append_bytes
for i in range(100):
    append_bytes(sys.argv[1], (sys.argv[2] * 5000 + f" {i}\\n").encode())
"""


def counted(path, **options):
    return count_eigenvalues(
        H, threshold=1e-2, method="lanczos", probes=2, precision=1e-9, state=path, **{"steps": 10, **options}
    )


def test_a_state_in_use_is_refused_and_one_of_a_killed_process_is_not(tmp_path):
    path = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="one run at a time") as refused:
        counted(path)
    assert "\n" not in str(refused.value)
    assert not path.exists()
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert counted(path).steps == 10
    assert os.listdir(tmp_path) == ["run"]


def test_a_lock_is_given_back_whatever_ends_the_block(tmp_path):
    def failing():
        with held(tmp_path / "run"):
            raise RuntimeError("within")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="within"):
            failing()
    assert os.listdir(tmp_path) == []


def test_two_processes_on_one_record_lose_no_line(tmp_path):
    path = tmp_path / "record"
    both = [subprocess.Popen([sys.executable, "-c", APPEND, path, letter]) for letter in "ab"]
    assert [process.wait(timeout=100) for process in both] == [0, 0]
    append_bytes(path, b"end\n")
    lines = path.read_text().splitlines()
    expected = [f"{letter * 5000} {i}" for letter in "ab" for i in range(100)]
    assert sorted(lines) == sorted([*expected, "end"])


def test_a_run_is_saved_between_looks_at_an_interval(tmp_path, monkeypatch):
    """Killed at step 9, before the first look at 16: the state holds the steps until then."""
    path, clock = tmp_path / "run", itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(deepening, "INTERVAL", 3.0)
    seen = []

    class Killed(Exception):
        pass

    real = deepening.Lanczos.advance

    def advance(run, steps):
        if steps == 9 and run.probes == 2:
            seen.append(read_state(path, ("alpha",), run.operator.device)["alpha"].shape[1])
            raise Killed
        real(run, steps)

    monkeypatch.setattr(deepening.Lanczos, "advance", advance)
    with pytest.raises(Killed):
        counted(path, steps=40)
    assert len(seen) == 1
    assert 1 <= seen[0] < 9
    monkeypatch.undo()
    resumed, whole = counted(path, steps=40), counted(tmp_path / "other", steps=40)
    assert resumed.evidence.run.diagonal.tobytes() == whole.evidence.run.diagonal.tobytes()
    assert resumed.negative == whole.negative
