"""The command line on two ranks, as torchrun starts them: one answer, printed once, that of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lanczos_saddle.cli.entry import main
from lanczos_saddle.cli.ranks import first_rank, launched, ranks

HERE = Path(__file__).parent
COUNT = ["count", "rank_networks:relu", "--threshold", "1e-3", "--method", "lanczos", "--probes", "4", "--steps", "12"]
IGNORED = ["count", "rank_networks:half_ignored", "--threshold", "1e-3"]
INERTIA = ["inertia", "rank_networks:relu", "--at", "-1e-3", "1e-3"]
ONE_START = """
import os, sys
sys.path.append({here!r})
import torch, lanczos_saddle.cli.commands, lanczos_saddle.distributed.leading
from lanczos_saddle.cli.entry import main
from lanczos_saddle.cli.ranks import first_rank, launched, ranks
for port, arguments in {jobs!r}:
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            sys.stdout.flush()
            status = main(arguments)
            sys.stdout.flush()
            os._exit(status)
        children.append(child)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """(stdout, stderr, the JSON of the count) of a count, and of two that are refused."""
    json_file = tmp_path_factory.mktemp("counts") / "two.json"
    misuse = ["count", "rank_networks:relu", "--threshold", "-1"]
    alone = ["train", "digits", "--output", str(json_file.with_name("x.safetensors"))]
    counts = [*COUNT, "--json", str(json_file)]
    probes = [*COUNT, "--json", str(json_file.with_name("probes.json")), "--over-ranks", "probes"]
    file = str(json_file.with_name("inertia.json"))
    inertia = [*INERTIA, "--exact-over-ranks", "columns", "--over-ranks", "probes", "--json", file]
    planned = [*INERTIA, "--plan"]
    vectors = [*COUNT, "--json", str(json_file.with_name("vectors.json")), "--over-ranks", "vectors"]
    weights = [*COUNT, "--json", str(json_file.with_name("weights.json")), "--over-ranks", "weights"]
    everything = [*COUNT, "--json", str(json_file.with_name("all.json")), "--over-ranks", "all"]
    ignored = [*IGNORED, "--json", str(json_file.with_name("ignored.json"))]
    asked = (counts, misuse, alone, probes, inertia, planned, vectors, weights, everything, ignored)
    jobs = [(free_port(), words) for words in asked]
    done = subprocess.run(
        [sys.executable, "-c", ONE_START.format(here=str(HERE), jobs=jobs)],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    names = ("two", "probes", "inertia", "vectors", "ignored", "all", "weights")
    found = [json.loads(json_file.with_name(f"{name}.json").read_text()) for name in names]
    return done.stdout, done.stderr, found


def test_weights_over_ranks_are_counted_by_the_same_recurrences(two_ranks):
    """Fewer facts are proved of a network that nobody has whole: bounds may be wider, and hold the others."""
    own, *_, everything, found = two_ranks[2]
    for name in ("ranks", "parameters", "probes", "steps", "method"):
        assert found[name] == own[name] == everything[name], name
    for name in ("negative", "near_zero", "positive"):
        assert found[name]["lower"] <= own[name]["upper"]
        assert own[name]["lower"] <= found[name]["upper"]
        assert everything[name] == pytest.approx(found[name])


def test_two_ranks_print_and_write_the_counts_of_one_process(two_ranks, tmp_path, monkeypatch, capsys):
    out, _, every = two_ranks
    monkeypatch.syspath_prepend(str(HERE))
    assert main([*COUNT, "--json", str(tmp_path / "one.json")]) == 0
    own = json.loads((tmp_path / "one.json").read_text())
    for found in (*every[:2], every[3]):
        assert (found["ranks"], own["ranks"]) == (2, 1)
        for name in ("negative", "near_zero", "positive", "products", "parameters", "probes", "steps", "method"):
            assert found[name] == pytest.approx(own[name]), name
    printed = capsys.readouterr().out
    assert out.count("negative") == 6
    assert out.splitlines()[:3] == printed.splitlines()[:3]
    assert "[0, 0]" in out


def test_a_rank_whose_targets_are_all_ignored_has_no_samples(two_ranks, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    assert main([*IGNORED, "--json", str(tmp_path / "one.json")]) == 0
    own = json.loads((tmp_path / "one.json").read_text())
    for name in ("negative", "near_zero", "positive"):
        assert two_ranks[2][4][name] == own[name]


def test_inertia_by_columns_is_that_of_one_triangle(two_ranks, tmp_path, monkeypatch):
    found = two_ranks[2][2]
    monkeypatch.syspath_prepend(str(HERE))
    assert main([*INERTIA, "--json", str(tmp_path / "one.json")]) == 0
    own = json.loads((tmp_path / "one.json").read_text())
    assert (found["ranks"], own["ranks"]) == (2, 1)
    for one, other in zip(found["rows"], own["rows"], strict=True):
        assert all(one[name] == other[name] for name in ("threshold", "below", "above", "certified"))
        assert one["certified"]


def test_misuse_is_said_once(two_ranks):
    out, err, _ = two_ranks
    assert out.splitlines().count("[2, 0]") == 3
    said = [line for line in err.splitlines() if line.startswith("lanczos-saddle: ")]
    assert sum("--threshold must be positive" in line for line in said) == 1, said
    assert sum("several ranks work on count, classify" in line for line in said) == 1
    assert sum("--plan, --memory and --directory are of one process; got several ranks" in line for line in said) == 1


@pytest.mark.parametrize(("rank", "size"), [("0", "two"), ("", ""), ("1", "1"), ("x", "2")])
def test_what_is_no_number_of_ranks_is_one_process(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert (launched(), first_rank(), ranks()) == (False, True, 1)
