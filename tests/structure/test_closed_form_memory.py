"""What a closed form takes beside its matrix, in a process of its own: other tests have threads that hold and free."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lanczos_saddle.machine.measuring import held_bytes


@pytest.mark.slow
@pytest.mark.skipif(not held_bytes(torch.device("cpu")), reason="the system does not say what is resident")
def test_the_widest_moment_is_what_is_foretold():
    """Of networks whose widest moments differ: a curvature while it is made, a pair of layers, the third pair."""
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives freed blocks back at once: none are left in pieces
    found = {**os.environ, **at_once, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = Path(__file__).with_name("closed_form_peaks.py")
    done = subprocess.run([sys.executable, program], check=True, timeout=300, env=found, capture_output=True, text=True)
    for name, (foretold, measured) in json.loads(done.stdout).items():
        assert foretold == pytest.approx(measured, rel=0.15), name
