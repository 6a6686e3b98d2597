"""`lanczos-saddle plan`: a table, complete JSON, refusals in one line with status 2, the choice of a count."""

import json

import numpy as np
import pytest

from lanczos_saddle.cli.entry import main
from lanczos_saddle.forecast.ranks import SHARED

VALUES = np.concatenate([-np.logspace(-1.6, -0.2, 12), np.logspace(-1.6, 0.3, 28), np.linspace(-1e-3, 1e-3, 320)])
KEYS = {
    "name",
    "how",
    "parts",
    "peak",
    "others",
    "other_peak",
    "disk",
    "products",
    "most_products",
    "rank_products",
    "seconds",
    "fastest",
    "slowest",
    "width",
    "ends",
    "probes",
    "steps",
    "fits",
    "instead",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A matrix and a problem in the working folder."""
    monkeypatch.chdir(tmp_path)
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((len(VALUES), len(VALUES)))).Q
    matrix = (q * VALUES) @ q.T
    np.save("matrix.npy", (matrix + matrix.T) / 2)
    return tmp_path


def test_it_prints_a_table_and_writes_all_of_it(folder, capsys):
    assert main(["plan", "matrix.npy", "--threshold", "1e-2", "--json", "plan.json", "--quiet"]) == 0
    text = capsys.readouterr().out
    found = json.loads((folder / "plan.json").read_text())
    assert found["parameters"] == len(VALUES)
    assert found["chosen"] == "eigenvalues"
    assert found["products"] == sum(found["spent"].values()) > 0
    assert f"spent on this plan: {found['products']} products" in text
    assert {way["name"] for way in found["ways"]} == {
        "eigenvalues",
        "inertia, one triangle",
        "plain",
        "plain, basis kept",
    }
    assert set(found["missing"]) == {"deflated", "ekfac", "subset", "eliminated"}
    for way in found["ways"]:
        assert set(way) == KEYS
        assert way["peak"] == sum(way["parts"].values())
        assert way["fastest"] <= way["seconds"] <= way["slowest"]
        assert f"\n{way['name']} " in text
    assert "a count with these options takes: eigenvalues (N is at most 3000" in text
    assert found["options"]["memory"] is None
    assert found["problem"] == {"problem": "matrix.npy"}
    assert sorted(path.name for path in folder.iterdir()) == ["matrix.npy", "plan.json"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--max-products", "1000"],
        ["--method", "lanczos", "--max-products", "250", "--precision", "1e-9"],
        ["--method", "lanczos", "--probes", "2", "--steps", "40"],
    ],
    ids=["exact", "affordable", "deflated", "plain"],
)
def test_the_choice_is_that_of_count(folder, options):
    asked = ["matrix.npy", "--threshold", "1e-2", "--quiet", *options]
    assert main(["plan", *asked, "--json", "plan.json"]) == 0
    assert main(["count", *asked, "--json", "count.json"]) == 0
    planned, counted = (json.loads((folder / name).read_text()) for name in ("plan.json", "count.json"))
    way = next(way for way in planned["ways"] if way["name"] == planned["chosen"])
    if counted["method"] == "exact":
        assert planned["chosen"] == "eigenvalues"
        return
    assert (planned["chosen"] == "deflated") == counted["plan"].startswith("deflated")
    assert counted["products"] <= way["most_products"]
    if planned["chosen"] != "deflated":
        assert (way["probes"], way["steps"]) == (counted["probes"], 40)
        assert counted["steps"] <= 40


def test_several_thresholds_take_one_plan(folder):
    assert main(["plan", "matrix.npy", "--threshold", "1e-2,1e-1", "--method", "lanczos", "--quiet"]) == 0


def test_without_a_pilot_widths_are_unknown(folder, capsys):
    words = ["plan", "matrix.npy", "--relative-threshold", "1e-2", "--probes", "2", "--steps", "30", "--no-pilot"]
    assert main([*words, "--json", "plan.json"]) == 0
    text = capsys.readouterr().out
    assert "tau = not known without a pilot" in text
    assert "spent on this plan: 34 products (timing 34)" in text
    found = json.loads((folder / "plan.json").read_text())
    assert {way["width"] for way in found["ways"] if way["probes"]} == {None}


PROBLEM = """
import torch

def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return model, torch.nn.CrossEntropyLoss(), (torch.randn(60, 6), torch.randint(3, (60,)))
"""


@pytest.mark.parametrize("over", ["data", "all"])
def test_ranks_have_columns_of_their_own(folder, capsys, over):
    (folder / "own.py").write_text(PROBLEM)
    words = ["own.py:problem", "--relative-threshold", "1e-2", "--method", "lanczos", "--no-pilot", "--quiet"]
    shared = ["--ranks", "3", "--over-ranks", over, "--link", "10"]
    assert main(["plan", *words, *shared, "--json", "plan.json"]) == 0
    text, found = capsys.readouterr().out, json.loads((folder / "plan.json").read_text())
    assert (found["ranks"], found["over"], found["link"]) == (3, over, 1e10)
    assert f"3 ranks share {SHARED[over]}; 1e+10 bytes a second between them are assumed" in text
    assert all(way["other_peak"] == sum(way["others"].values()) > 0 for way in found["ways"])
    assert all(way["fits"] for way in found["ways"])


def test_under_torchrun_it_says_how(folder, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["plan", "matrix.npy", "--threshold", "1e-2", "--quiet"]) == 2
    assert "start it without torchrun as plan --ranks 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "2"], "got a matrix: it is not cut into samples"),
        (["--ranks", "0"], "must be at least 1; got 0"),
        (["--link", "-1"], "--link must be a positive number"),
        (
            ["--link", "2"],
            "--link is of what goes between ranks; got 2e+09 bytes a second and one process: pass --ranks",
        ),
        (["--memory", "0.001"], "0.00 GiB may be used: raise --memory"),
        (["--memory", "none"], "invalid float value"),
        (["--memory", "-1"], "--memory must be a number of GiB above 0; got -1"),
        (["--directory", "nowhere"], "a directory that is there; got nowhere"),
        (["--max-products", "3", "--method", "lanczos"], "--max-products must leave one step for each of"),
        (["--method", "elimination"], "structure proves a block"),
    ],
    ids=[
        "ranks of a matrix",
        "no rank",
        "no link",
        "link of one",
        "memory",
        "no number",
        "none of it",
        "no directory",
        "budget",
        "no layer",
    ],
)
def test_refusals_take_one_line_and_status_2(folder, capsys, words, message):
    assert main(["plan", "matrix.npy", "--threshold", "1e-2", "--json", "plan.json", "--quiet", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (folder / "plan.json").exists()
