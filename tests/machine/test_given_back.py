"""Memory that was freed is given back, so that what a call holds is seen."""

import os
import subprocess
import sys

import pytest
import torch

from lanczos_saddle.machine.measuring import held_bytes, measure
from lanczos_saddle.machine.memory import give_back, require_directory

CPU, MIB = torch.device("cpu"), 2**20


@pytest.mark.skipif(not held_bytes(CPU), reason="the system does not say what is resident")
def test_freed_blocks_are_given_back_and_seen_again():
    """In a process of its own, whose allocator holds nothing of other tests."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__], check=True, timeout=300, env=found)


def freed_blocks():
    """64 blocks of 1 MiB, every second one freed: pieces that the allocator keeps between those in use."""
    before = held_bytes(CPU)
    blocks = [torch.ones(MIB // 8, dtype=torch.float64) for _ in range(64)]
    full = held_bytes(CPU)
    assert full - before == pytest.approx(64 * MIB, rel=0.1)
    del blocks[::2]
    assert held_bytes(CPU) - before == pytest.approx(32 * MIB, rel=0.1)
    _, cost = measure(lambda: [torch.ones(MIB // 8, dtype=torch.float64) for _ in range(16)], CPU)
    assert cost.peak_bytes == pytest.approx(16 * MIB, rel=0.2)
    give_back()
    assert float(sum(block.sum() for block in blocks)) == 32 * MIB // 8


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    require_directory(tmp_path)
    with pytest.raises(ValueError, match="a directory that is there"):
        require_directory(tmp_path / "none")


if __name__ == "__main__":
    freed_blocks()
