"""Two ranks that are ended at random moments go on as one, two or four, to the counts of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed_ranks import ENDS, WAYS

PROGRAM = Path(__file__).parent / "killed_ranks.py"


@pytest.mark.slow  # a command on several processes, twice for each of five moments
@pytest.mark.parametrize("way", WAYS)
def test_ranks_that_are_ended_go_on(tmp_path, way):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, "5", "0", way], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["how"] for one in found] == list(ENDS)
    for one in found:
        assert one["same"], one
        if one["statuses"] == [0, 0]:  # it had ended
            continue
        if "SIGKILL" in one["how"]:
            killed = [status == -9 for status in one["statuses"]]
            assert killed == ["all" in one["how"] or str(rank) in one["how"] for rank in range(2)]
            assert all(status in (-9, 1) for status in one["statuses"])
        else:
            number = 143 if "SIGTERM" in one["how"] else 130
            assert one["statuses"][0] == number
            assert one["said"].splitlines()[-1].startswith("lanczos-saddle: interrupted by SIG")
        assert one["said"].count("lanczos-saddle: ") == (one["how"] != "SIGKILL all")
        assert "Traceback" not in one["said"]
