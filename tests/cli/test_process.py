"""The command line as a process: what it leaves behind and with which status, whatever happens to it.

Few tests, since every process imports torch; what needs none stands in test_cli, test_files and test_states.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from lanczos_saddle.cli.entry import main
from lanczos_saddle.reports.records import read

PROBLEMS = """
import torch
def _net(samples, *sizes):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(sizes[0], sizes[1]), torch.nn.Tanh(), torch.nn.Linear(sizes[1], sizes[2])]
    data = torch.randn(samples, sizes[0]), torch.randint(0, sizes[2], (samples,))
    return torch.nn.Sequential(*layers), torch.nn.CrossEntropyLoss(), data
def small():
    return _net(60, 5, 4, 3)
def large():
    return _net(3000, 200, 30, 10)
"""

SMALL = ["count", "problems_here:small", "--threshold", "1e-3", "--quiet"]
LARGE = ["count", "problems_here:large", "--threshold", "1e-6", "--probes", "4"]
DEEP = ["--steps", "4000", "--precision", "1e-9"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problems_here.py").write_text(PROBLEMS)
    return tmp_path


def command(*arguments):
    return [sys.executable, "-m", "lanczos_saddle", *arguments]


def started(here, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command(*arguments), cwd=here, **options)


def done(here, *arguments, **options):
    process = started(here, *arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def left(here):
    return sorted(path.name for path in here.iterdir() if path.name not in ("problems_here.py", "__pycache__"))


def until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.slow  # waits for a state to be written: on a loaded machine that takes minutes
def test_an_interrupted_count_says_what_it_knows_and_saves_it(here):
    names = ["--json", "c.json", "--record", "r.jsonl", "--state", "run"]
    process = started(here, *LARGE, *DEEP, *names)
    until(lambda: (here / "run").exists() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "lanczos-saddle: interrupted by SIGINT"
    assert "near zero" in out
    found = json.loads((here / "c.json").read_text())
    assert found["stopped"] == "interrupted"
    assert found["negative"]["lower"] <= found["negative"]["upper"]
    assert read(here / "r.jsonl")[0]["result"]["steps"] == found["steps"]
    assert left(here) == ["c.json", "r.jsonl", "run"]
    assert main([*LARGE, "--steps", str(found["steps"]), *names, "--quiet"]) == 0  # the state is of that depth
    assert json.loads((here / "c.json").read_text())["negative"] == found["negative"]


def test_an_interrupt_before_anything_is_known_leaves_nothing(here):
    (here / "slow.py").write_text(
        "import pathlib, time\ndef f():\n    pathlib.Path('on').touch()\n    time.sleep(60)\n"
    )
    process = started(here, "count", "slow:f", "--threshold", "1", "--json", "new/c.json", "--state", "run")
    until((here / "on").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "lanczos-saddle: interrupted by SIGTERM\n")
    assert left(here) == ["on", "slow.py"]


def test_a_reader_that_leaves_early_ends_nothing(here):
    """As `| head -1` does, whose end of the pipe is closed; every line is written at once here."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    names = ["--json", "c.json", "--record", "/dev/stdout"]
    status, _, err = done(here, *SMALL, *names, stdout=write_end, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    os.close(write_end)
    assert (status, err) == (0, "")
    assert json.loads((here / "c.json").read_text())["parameters"] == 39


def test_a_full_output_is_one_line_and_the_files_are_written(here):
    with Path("/dev/full").open("w") as full:
        status, _, err = done(here, *SMALL, "--json", "c.json", stdout=full)
    assert status == 1
    assert err.count("\n") == 1
    assert "No space left" in err
    assert json.loads((here / "c.json").read_text())["parameters"] == 39


def test_closed_streams_do_not_reach_into_results(here):
    shell = " ".join([*command(*SMALL), "--json", "c.json", "0<&-", ">&-", "2>&-"])
    assert subprocess.run(["sh", "-c", shell], cwd=here).returncode == 1  # it could not print
    assert json.loads((here / "c.json").read_text())["parameters"] == 39


# in this process


@pytest.mark.parametrize("option", ["--json", "--record"])
def test_a_result_that_cannot_be_written_does_not_keep_the_others(here, capfd, option):
    other = {"--json": "--record", "--record": "--json"}[option]
    assert main([*SMALL, option, "/dev/full", other, "other"]) == 1
    out, err = capfd.readouterr()
    assert "near zero" in out
    assert err.count("\n") == 1
    assert "No space left" in err
    assert json.loads((here / "other").read_text())
    assert left(here) == ["other"]


def test_a_fifo_that_nobody_reads_yet_keeps_no_other_result(here):
    os.mkfifo(here / "fifo")

    def read_late():
        until((here / "r.jsonl").exists)  # written although the FIFO is named first
        return (here / "fifo").read_text()

    received = []
    reader = threading.Thread(target=lambda: received.append(read_late()))
    reader.start()
    assert main([*SMALL, "--json", "fifo", "--record", "r.jsonl"]) == 0
    reader.join(timeout=10)
    assert json.loads(received[0])["negative"] == read(here / "r.jsonl")[0]["result"]["negative"]


def test_results_go_to_standard_output_and_to_a_fifo(here, capfd):
    os.mkfifo(here / "fifo")
    received = []
    reader = threading.Thread(target=lambda: received.append((here / "fifo").read_text()))
    reader.start()
    assert main([*SMALL, "--json", "fifo", "--record", "/dev/stdout"]) == 0
    reader.join(timeout=10)
    out, err = capfd.readouterr()
    assert err == ""
    *text, record = out.splitlines()
    assert "near zero" in "\n".join(text)
    assert json.loads(record)["result"]["negative"] == json.loads(received[0])["negative"]
    assert left(here) == ["fifo"]


def test_a_state_on_a_full_disk(here, capfd):
    disk = here / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([*LARGE, "--steps", "20", "--json", "disk/c.json", "--state", "disk/run"]) == 1
        out, err = capfd.readouterr()
        assert "near zero" in out
        assert err.count("\n") == 1
        assert "the state could not be saved" in err
        assert "No space left" in json.loads((disk / "c.json").read_text())["unsaved"]
        assert [path.name for path in disk.iterdir()] == ["c.json"]
    finally:
        subprocess.run(["umount", disk], check=True)
