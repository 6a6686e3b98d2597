"""A template of a problem file, and problems that are named by their file."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from lanczos_saddle.cli.entry import main
from lanczos_saddle.cli.options import source_of
from lanczos_saddle.training.problems import from_spec


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("problem_"):
            del sys.modules[name]


def test_the_template_is_counted_as_it_is(tmp_path, capsys):
    assert main(["new", "problem.py"]) == 0
    assert "count problem.py:problem" in capsys.readouterr().out
    compile((tmp_path / "problem.py").read_text(), "problem.py", "exec")
    assert main(["count", "problem.py:problem", "--threshold", "1e-3", "--json", "c.json"]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["parameters"] == 8 * 16 + 16 + 16 * 3 + 3

    model, loss, (inputs, targets) = from_spec("problem.py:problem").model, torch.nn.CrossEntropyLoss(), (None, None)
    inputs, targets = from_spec("problem.py:problem").data
    parameters = {name: p.detach().double() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    def value(theta):
        parts = [part.reshape(p.shape) for part, p in zip(theta.split(sizes), parameters.values(), strict=True)]
        named = dict(zip(parameters, parts, strict=True))
        return loss(torch.func.functional_call(model, named, (inputs.double(),)), targets)

    theta = torch.cat([p.reshape(-1) for p in parameters.values()])
    values = np.linalg.eigvalsh(torch.func.hessian(value)(theta).numpy())
    assert found["negative"]["lower"] <= (values < -1e-3).sum() <= found["negative"]["upper"]
    assert found["positive"]["lower"] <= (values > 1e-3).sum() <= found["positive"]["upper"]
    assert found["negative"]["lower"] == found["negative"]["upper"]


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert main(["new", "mine.py"]) == 2
    assert "pass --force" in capsys.readouterr().err
    assert (tmp_path / "mine.py").read_text() == "x = 1\n"
    assert main(["new", "mine.py", "--force"]) == 0
    assert "def problem()" in (tmp_path / "mine.py").read_text()
    assert main(["new", "mine.txt"]) == 2
    assert "must end in .py" in capsys.readouterr().err


FILE = """
import torch
from beside import SIZE
class Net(torch.nn.Linear):
    pass
def f():
    return Net(SIZE, 1), torch.nn.MSELoss(), (torch.ones(3, SIZE), torch.zeros(3, 1))
"""


def test_a_file_shadows_no_module_and_finds_its_neighbours(tmp_path, monkeypatch):
    folder = tmp_path / "far away"
    folder.mkdir()
    (folder / "torch.py").write_text(FILE)
    (folder / "beside.py").write_text("SIZE = 4\n")
    path = list(sys.path)
    try:
        first = from_spec("far away/torch.py:f")
        again = from_spec(f"{folder}/torch.py:f")
    finally:
        sys.modules.pop("beside", None)
    assert sys.modules["torch"] is torch
    assert sys.path == path
    assert first.model.weight.shape == (1, 4)
    assert type(pickle.loads(pickle.dumps(again.model))) is type(again.model)


def test_what_changed_in_a_file_is_seen(tmp_path):
    text = "import torch\ndef f(): return torch.nn.Linear({}, 1), None, []\n"
    (tmp_path / "p.py").write_text(text.format(2))
    assert from_spec("p.py:f").model.in_features == 2
    (tmp_path / "p.py").write_text(text.format(31))
    assert from_spec("p.py:f").model.in_features == 31


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent.py:f", "there is no file absent.py to take a problem from: `lanczos-saddle new absent.py`"),
        ("bad.py:f", "SyntaxError"),
        ("raises.py:f", "RuntimeError: no server (raises.py, line 2)"),
        ("imports.py:f", "No module named 'there_is_no_such'"),
        ("empty.py:f", "must have a function f"),
        ("empty.py:", "path/to/file.py:function; got 'empty.py:'"),
        ("empty.py", "file.py:function"),
        (".:f", "path/to/file.py:function; got '.:f'"),
    ],
)
def test_a_file_that_is_no_problem_is_one_line(tmp_path, capsys, spec, message):
    texts = {
        "bad": "def f(:\n",
        "raises": "x = 1\nraise RuntimeError('no server')\n",
        "imports": "import there_is_no_such\n",
        "empty": "",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert main(["check", spec]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_the_file_of_a_problem_is_never_written_over(capsys):
    assert source_of("a.b:f") == "a/b.py"
    assert source_of("folder/a.b.py:f") == "folder/a.b.py"
    assert source_of("matrix.mtx") == "matrix.mtx"
    assert main(["new", "problem.py"]) == 0
    assert main(["check", "problem.py:problem", "--json", "problem.py"]) == 2
    assert "the input problem.py" in capsys.readouterr().err
