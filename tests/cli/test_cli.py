"""The command line as its users see it: exit status, one line for misuse, JSON with the promised keys, files whole."""

import inspect
import json

import numpy as np
import pytest
import torch

from lanczos_saddle import Density, count_eigenvalues, spectral_density
from lanczos_saddle.cli.entry import main
from lanczos_saddle.reports.records import read
from lanczos_saddle.training import checkpoints


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Networks are trained once for the whole module, in a cache that is not the user's."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def user_problem(monkeypatch, tmp_path):
    """A module in the working folder with functions that return problems, good and bad."""
    (tmp_path / "my_problems.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))\n"
        "    return model, torch.nn.CrossEntropyLoss(), (torch.randn(30, 4), torch.randint(0, 2, (30,)))\n"
        "def dropout():\n"
        "    model, loss, data = small()\n"
        "    return torch.nn.Sequential(model, torch.nn.Dropout(0.5)), loss, data\n"
        "def nan():\n"
        "    model, loss, (x, y) = small()\n"
        "    x[0, 0] = float('nan')\n"
        "    return model, loss, (x, y)\n"
        "def empty():\n"
        "    model, loss, (x, y) = small()\n"
        "    return model, loss, (x[:0], y[:0])\n"
        "def broken():\n"
        "    raise RuntimeError('the file server is down,\\nthe other too')\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main([*arguments])


def test_count_writes_the_promised_object(user_problem, capsys):
    assert run("count", "my_problems:small", "--threshold", "1e-3", "--json", "out/c.json", "--record", "r.jsonl") == 0
    result = json.loads((user_problem / "out" / "c.json").read_text())
    assert result["parameters"] == 23
    assert result["threshold"] == 1e-3
    assert result["confidence"] == 0.95
    assert result["method"] == "exact"
    for name in ("negative", "near_zero", "positive"):
        assert set(result[name]) == {"lower", "estimate", "upper"}
    assert sum(result[name]["lower"] for name in ("negative", "near_zero", "positive")) == 23
    assert {"products", "probes", "steps", "seconds", "noise", "provenance", "options"} <= set(result)
    assert read(user_problem / "r.jsonl")[0]["result"]["negative"] == result["negative"]
    assert "near zero" in capsys.readouterr().out


def test_several_thresholds_are_rows_of_one_run(user_problem, capsys):
    taus = ("1e-1", "1e-3")
    given = ["count", "my_problems:small", "--method", "lanczos", "--seed", "4"]
    assert run(*given, "--relative-threshold", ",".join(taus), "--json", "j.json", "--record", "r.jsonl") == 0
    assert "95 % for all 2 thresholds together" in capsys.readouterr().out
    result = json.loads((user_problem / "j.json").read_text())
    assert [row["joint_confidence"] for row in result["rows"]] == [0.95, 0.95]
    assert {row["products"] for row in result["rows"]} == {result["products"]}
    values = np.linalg.eigvalsh(_dense(user_problem))
    for row in result["rows"]:
        tau = row["threshold"]
        inside = (abs(values) <= tau).sum()
        true = {"negative": (values < -tau).sum(), "near_zero": inside, "positive": (values > tau).sum()}
        for name, count in true.items():
            assert row[name]["lower"] <= count <= row[name]["upper"]
    assert run("report", "r.jsonl", "--output", "page.html") == 0
    assert run(*given, "--threshold", "1e-2,") == 2
    assert "--threshold: tau must be a number, or several with commas" in capsys.readouterr().err


def _dense(folder):
    """The Hessian of `small` by central differences of its gradient, float64."""
    import my_problems

    model, loss, (x, y) = my_problems.small()
    model, x = model.double(), x.double()
    at = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    def gradient(w):
        torch.nn.utils.vector_to_parameters(w, model.parameters())
        parts = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
        return torch.cat([part.reshape(-1) for part in parts])

    step = 1e-5 * torch.eye(len(at), dtype=torch.float64)
    return torch.stack([(gradient(at + e) - gradient(at - e)) / 2e-5 for e in step]).numpy()


def test_lanczos_and_exact_agree(user_problem):
    for method in ("exact", "lanczos"):
        arguments = ["--relative-threshold", "1e-2", "--method", method, "--json", f"{method}.json", "--quiet"]
        assert run("count", "my_problems:small", *arguments) == 0
    exact, lanczos = (json.loads((user_problem / f"{m}.json").read_text()) for m in ("exact", "lanczos"))
    for name in ("negative", "near_zero", "positive"):
        assert lanczos[name]["lower"] <= exact[name]["lower"] <= lanczos[name]["upper"]


def test_exact_density_and_check(user_problem, capsys):
    assert run("exact", "my_problems:small", "--output", "e.npz", "--quiet") == 0
    with np.load("e.npz", allow_pickle=False) as file:
        assert file["eigenvalues"].shape == (23,)
    assert run("density", "my_problems:small", "--probes", "2", "--steps", "10", "--output", "d.npz") == 0
    density = Density.load("d.npz")
    assert (density.size, density.probes, density.steps) == (23, 2, 10)
    assert (user_problem / "d.png").read_bytes().startswith(b"\x89PNG")
    assert run("check", "my_problems:small") == 0
    assert "asymmetry" in capsys.readouterr().out


def test_weights_are_used(user_problem):
    from my_problems import small

    model, _, _ = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    checkpoints.save_checkpoint("zero.safetensors", model, {})
    assert run("exact", "my_problems:small", "--weights", "zero.safetensors", "--json", "w.json") == 0
    assert json.loads((user_problem / "w.json").read_text())["problem"]["weights"] == "zero.safetensors"


def test_an_input_is_not_overwritten(user_problem, capsys):
    np.savez("w.npz", a=np.zeros(3))
    before = (user_problem / "w.npz").read_bytes()
    assert run("exact", "my_problems:small", "--weights", "w.npz", "--output", "./w.npz") == 2
    assert "the input w.npz and --output both name" in capsys.readouterr().err
    assert (user_problem / "w.npz").read_bytes() == before
    assert run("check", "my_problems:small", "--json", "my_problems") == 0  # of that name, but not the module


def test_a_layer_can_be_selected(user_problem):
    assert run("exact", "my_problems:small", "--parameters", "2.*", "--json", "l.json") == 0
    assert json.loads((user_problem / "l.json").read_text())["parameters"] == 8


def test_a_preconditioner_can_be_asked_for(user_problem):
    arguments = ["count", "my_problems:small", "--threshold", "1e-6", "--probes", "2", "--json", "p.json"]
    assert run(*arguments, "--preconditioner", "ekfac") == 0
    assert json.loads((user_problem / "p.json").read_text())["preconditioned"] is True
    assert run(*arguments) == 0
    assert json.loads((user_problem / "p.json").read_text())["preconditioned"] is False


def test_classify_writes_verdicts_with_their_certificates(user_problem, capsys):
    arguments = ["classify", "my_problems:small", "--threshold", "1e-3", "--epsilon", "10", "--kappa", "22"]
    assert run(*arguments, "--rho", "1e3", "--output", "ends.npz", "--json", "k.json", "--quiet") == 0
    result = json.loads((user_problem / "k.json").read_text())
    assert result["verdicts"]["critical"]["answer"] == "holds"
    assert "<= epsilon = 10" in result["verdicts"]["critical"]["because"]
    assert {verdict["answer"] for verdict in result["verdicts"].values()} <= {"holds", "fails", "undecided"}
    negative = result["counts"]["negative"]["lower"]
    assert result["verdicts"]["saddle"]["answer"] == ("holds" if negative else "undecided")
    assert result["smallest"][0] <= result["directions"]["lowest"]["quotient"] <= result["largest"][1]
    assert result["variation"]["at_least"] > 0
    assert {"loss", "gradient_norm", "products", "seconds", "provenance", "options"} <= set(result)
    with np.load("ends.npz", allow_pickle=False) as file:
        assert np.linalg.norm(file["lowest"]) == pytest.approx(1)
        assert file["highest"].shape == (23,)
    text = capsys.readouterr().out
    assert "degenerate saddle" in text
    assert "directions: ends.npz" in text
    assert run(*arguments, "--search-steps", "3", "--no-compare-hessians", "--json", "l.json", "--quiet") == 0
    less = json.loads((user_problem / "l.json").read_text())
    assert less["variation"] is None
    assert less["products"] <= less["counts"]["products"] + 3 + 2


def test_a_state_resumes_under_its_old_name_too(user_problem, capsys):
    arguments = ["count", "my_problems:small", "--threshold", "1e-3", "--method", "lanczos", "--precision", "1e-6"]
    assert run(*arguments, "--steps", "5", "--checkpoint", "k.st") == 0
    assert run(*arguments, "--steps", "9", "--state", "k.st") == 0
    assert "9 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "my_problems:small", "--threshold", "0"], "threshold must be positive"),
        (["count", "my_problems:small", "--threshold", "nan"], "threshold must be positive"),
        (["count", "my_problems:small", "--relative-threshold", "2"], "must be below 1"),
        (["count", "my_problems:small", "--threshold", "1", "--confidence", "1"], "confidence must be between"),
        (["count", "my_problems:small", "--threshold", "1", "--steps", "24"], "between 1 and 23"),
        (["count", "my_problems:small", "--threshold", "1", "--probes", "0"], "probes must be at least 1"),
        (
            ["count", "my_problems:small", "--threshold", "1", "--method", "lanczos", "--max-products", "16"],
            "--max-products",
        ),
        (["count", "my_problems:dropout", "--threshold", "1"], "eval"),
        (["count", "my_problems:nan", "--threshold", "1"], "finite"),
        (["count", "my_problems:empty", "--threshold", "1"], "sample"),
        (["count", "my_problems:missing", "--threshold", "1"], "missing"),
        (["count", "no_such_module:f", "--threshold", "1"], "no_such_module"),
        (["count", "nonsense", "--threshold", "1"], "digits"),
        (["count", "my_problems:small", "--threshold", "1", "--parameters", "9.*"], "9"),
        (["exact", "my_problems:small", "--weights", "absent.safetensors"], "absent.safetensors"),
        (["exact", "my_problems:small", "--weights", "my_problems.py"], "my_problems.py"),
        (["exact", "my_problems:small", "--json", "my_problems.py/x.json"], "folder"),
        (["density", "my_problems:small", "--probes", "0"], "at least 1"),
        (["train", "my_problems:small", "--output", "x.safetensors"], "built-in"),
        (["train", "digits", "--output", "x.png"], "must end in .safetensors; got x.png"),
        (["classify", "my_problems:small"], "one of the arguments --threshold --relative-threshold is required"),
        (["classify", "my_problems:small", "--threshold", "1", "--kappa", "23"], "between 0 and N - 1 = 22; got 23"),
        (["classify", "my_problems:small", "--threshold", "1", "--lowest", "9"], "lower bound on the loss"),
        (["classify", "my_problems:small", "--threshold", "-1e-3"], "threshold must be positive"),
        (["classify", "my_problems:small", "--threshold", "1", "--lowest", "-inf", "--kappa", "23"], "between 0 and"),
        (["classify", "my_problems:small", "--threshold", "1", "--output", "x"], "must end in .npz; got x"),
        (["exact", "my_problems:small", "--output", "x"], "must end in .npz; got x"),
        (["density", "my_problems:small", "--output", "x.png"], "must end in .npz; got x.png"),
        (["density", "my_problems:small", "--linear", "1"], "between 0 and 1, say 1e-4; got 1"),
        (["density", "my_problems:small", "--linear", "0"], "between 0 and 1, say 1e-4; got 0"),
        (["density", "my_problems:small", "--linear", "nan"], "between 0 and 1, say 1e-4; got nan"),
        (["density", "my_problems:dropout"], "eval"),
        (["check", "my_problems:small", "--device", "foo"], "cpu, cuda or cuda:i; got foo"),
        (["check", "my_problems:small", "--device", "cuda:x"], "cpu, cuda or cuda:i; got cuda:x"),
        (["check", "my_problems:small", "--device", "cuda:99"], "needs that CUDA device"),
        (["check", "my_problems:small", "--seed", "-1"], "from 0 to 2^63 - 1; got -1"),
        (["count", "my_problems:small", "--threshold", "one"], "--threshold: tau must be a number"),
        (
            ["count", "my_problems:small"],
            "one of the arguments --interval --threshold --relative-threshold is required",
        ),
        (["count", "--threshold", "1"], "PROBLEM"),
        (["check", "my_problems:small", "--json", "x.json", "--record", "./x.json"], "a file of its own"),
        (["density", "my_problems:small", "--output", "d.npz", "--json", "d.png"], "a file of its own"),
        (["check", "my_problems:small", "--json", "x/"], "a file in a writable folder"),
        (["demo", "--output", "my_problems.py"], "writable folder"),
        (
            ["count", "my_problems:small", "--threshold", "1", "--state", "my_problems.py"],
            "--state both name my_problems.py",
        ),
        (["count", "my_problems:small", "--threshold", "1", "--state", "a", "--checkpoint", "b"], "not allowed with"),
        (["exact", "my_problems:small", "--weights", "w.npz", "--output", "w.npz"], "no weights file w.npz"),
        (["count", "my_problems:small", "--threshold", "1", "--json", "my_problems.py"], "a file of its own"),
        (["exact", "my_problems:small", "--weights", f"{'x' * 300}.pt"], "there is no weights file"),
        (["exact", "my_problems:small", "--weights", "/dev/stdin.pt"], "there is no weights file"),
        (["check", "my_problems:broken_import"], "a function broken_import"),
    ],
)
def test_misuse_is_one_line_and_status_2(user_problem, capsys, arguments, message):
    before = sorted(path.name for path in user_problem.iterdir() if path.suffix != "")
    assert run(*arguments, "--quiet") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert sorted(path.name for path in user_problem.iterdir() if path.suffix != "") == before, "left something behind"


def test_an_unknown_command_is_one_line(capsys):
    assert run("nonsense") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lanczos-saddle: ")
    assert captured.err.count("\n") == 1


def test_help_shows_the_defaults_of_the_library(capsys):
    for command, name, function in (
        ("count", "confidence", count_eigenvalues),
        ("count", "precision", count_eigenvalues),
        ("density", "probes", spectral_density),
        ("density", "steps", spectral_density),
    ):
        with pytest.raises(SystemExit, match=r"^0$"):
            run(command, "--help")
        default = inspect.signature(function).parameters[name].default
        text = " ".join(capsys.readouterr().out.split())
        assert f"({default})" in text.partition(f"--{name} {name.upper()} ")[2].partition(" --")[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_said(user_problem, capsys):
    assert run("check", "my_problems:small", "--device", "cuda") == 2
    assert "torch sees none" in capsys.readouterr().err


def test_a_problem_that_raises_is_told_with_its_place(user_problem, capsys):
    assert run("check", "my_problems:broken") == 2
    said = capsys.readouterr().err
    assert "it raised RuntimeError: the file server is down, the other too (my_problems.py, line 17): mend it" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--traceback", "check", "my_problems:broken"], ["check", "my_problems:broken", "--traceback"]]
)
def test_a_traceback_is_shown_on_request_before_or_after_the_command(user_problem, arguments):
    with pytest.raises(ValueError, match="the file server is down") as failed:
        run(*arguments)
    assert isinstance(failed.value.__cause__, RuntimeError)


def test_density_of_a_zero_hessian_is_drawn(user_problem):
    (user_problem / "flat.py").write_text(
        "import torch\n"
        "def linear():\n"
        "    return torch.nn.Linear(3, 1), lambda y, t: (y * t).mean(), (torch.ones(4, 3), torch.ones(4, 1))\n"
    )
    assert run("density", "flat:linear", "--output", "z.npz", "--quiet") == 0
    assert (Density.load("z.npz").nodes == 0).all()
    assert (user_problem / "z.png").read_bytes().startswith(b"\x89PNG")


def test_demo_holds_and_draws(tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    assert run("demo", "--output", f"{tmp_path}/figures", "--json", f"{tmp_path}/d.json", "--quiet") == 0
    text = capsys.readouterr().out
    assert text.count("| holds\n") == 5
    assert "MISSED" not in text
    for name in ("density.png", "counts.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")
    assert len(json.loads((tmp_path / "d.json").read_text())["rows"]) == 5


def test_train_writes_a_checkpoint(tmp_path, capsys):
    assert run("train", "digits", "--output", f"{tmp_path}/d.safetensors", "--quiet") == 0
    tensors, provenance = checkpoints.load_checkpoint(tmp_path / "d.safetensors")
    assert set(tensors) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert provenance["test_accuracy"] > 0.93


def test_the_json_of_a_preconditioned_count_has_no_run_in_it(user_problem, tmp_path):
    arguments = ("--threshold", "1e-3", "--preconditioner", "ekfac", "--probes", "2", "--steps", "8")
    assert run("count", "my_problems:small", *arguments, "--json", f"{tmp_path}/p.json", "--quiet") == 0
    assert (tmp_path / "p.json").stat().st_size < 10_000


MODULES = {
    "syntax": ("def f(:\n", "SyntaxError: invalid syntax (user_syntax.py, line 1)"),
    "raises": ("x = 1\nraise RuntimeError('no\\nserver')\n", "RuntimeError: no server (user_raises.py, line 2)"),
    "exits": ("import sys\nsys.exit(0)\n", "SystemExit: 0 (user_exits.py, line 2)"),
    "imports": ("import there_is_no_such_module\n", "No module named 'there_is_no_such_module'"),
    "binary": ("\0\1", "cannot be imported"),
    "nothing": ("", "must have a function f"),
    "number": ("f = 3\n", "must have a function f"),
    "needs": ("def f(x): return x\n", "callable without arguments; missing a required argument: 'x'"),
    "none": ("def f(): pass\n", "three (model, loss, data), or a Hessian; got NoneType"),
    "two": ("def f(): return 1, 2\n", "three (model, loss, data), or a Hessian; got 2 things"),
    "matrix": ("import torch\ndef f(): return torch.eye(3)\n", "three (model, loss, data), or a Hessian; got Tensor"),
    "generator": ("def f(): yield 1\n", "three (model, loss, data), or a Hessian; got generator"),
    "class": ("import torch\ndef f(): return torch.nn.Linear, sum, []\n", "a torch.nn.Module first; got type"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_is_no_problem_is_one_line_and_status_2(user_problem, capsys, name):
    text, message = MODULES[name]
    (user_problem / f"user_{name}.py").write_text(text)
    assert run("count", f"user_{name}:f", "--threshold", "1", "--json", "new/c.json") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (user_problem / "new").exists()


def test_code_of_the_user_that_exits_is_refused(user_problem, capsys):
    (user_problem / "user_exit.py").write_text("import sys\ndef f(): sys.exit(0)\n")
    assert run("check", "user_exit:f") == 2
    assert "it ended the program, exit(0) (user_exit.py, line 2)" in capsys.readouterr().err


PLACES = [
    "", ".", "dir", "dir/", "new/", "file/x", "file/x/y", "loop", "loop/x", "x" * 256, "new/" + "x" * 256, "a\0b",
    "/proc/x", "/proc/x/y", "/dev/fd/999", "/dev/null/x",
]  # fmt: skip


@pytest.mark.parametrize("option", ["--json", "--record", "--state", "--checkpoint"])
def test_a_place_that_takes_no_result_is_refused_before_the_problem_is_looked_at(user_problem, capsys, option):
    (user_problem / "dir").mkdir()
    (user_problem / "file").write_text("kept")
    (user_problem / "loop").symlink_to("loop")
    before = sorted(user_problem.rglob("*"))
    for place in PLACES:
        assert run("count", "no_such_module:f", "--threshold", "1", option, place) == 2
        captured = capsys.readouterr()
        assert "a file in a writable folder" in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert sorted(user_problem.rglob("*")) == before


def test_a_problem_function_may_return_a_hessian_or_leave_the_loss_to_the_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_problems.py").write_text(
        "import torch\n"
        "from lanczos_saddle import Hessian\n"
        "net = torch.nn.Linear(2, 1).double()\n"
        "def of():\n"
        "    return Hessian.of(lambda: sum(p.square().sum() for p in net.parameters()) / 2, net)\n"
        "class Own(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        return super().forward(x).square().mean()\n"
        "def own():\n"
        "    return Own(2, 1), None, torch.ones(3, 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["count", "own_problems:of", "--threshold", "0.5"]) == 0
    assert "positive  lambda > 5.000e-01     3" in capsys.readouterr().out
    assert main(["count", "own_problems:own", "--threshold", "0.5", "--no-fidelity"]) == 0
    assert "not checked" in capsys.readouterr().out
    assert main(["count", "own_problems:of", "--threshold", "0.5", "--parameters", "weight"]) == 2
    assert "leave --weights, --parameters and --device out" in capsys.readouterr().err


def test_inertia_in_memory_and_on_disk_counts_like_the_eigenvalues(user_problem, capsys):
    assert run("exact", "my_problems:small", "--output", "e.npz", "--quiet") == 0
    values = np.load("e.npz")["eigenvalues"]
    (user_problem / "files").mkdir()
    for place in ([], ["--directory", "files", "--memory", "0.000028"]):
        where = ["inertia", "my_problems:small", "--at", "-1e-3", "1e-3", *place]
        assert run(*where, "--plan") == 0
        assert "GiB of memory" in capsys.readouterr().out
        assert run(*where, "--json", "i.json") == 0
        result = json.loads((user_problem / "i.json").read_text())
        assert [(row["below"], row["above"]) for row in result["rows"]] == [
            (int((values < t).sum()), int((values > t).sum())) for t in (-1e-3, 1e-3)
        ]
        assert all(row["certified"] for row in result["rows"])
        told = capsys.readouterr()
        assert told.out.count("yes") == 2
        assert "hours, an assembly not counted" in told.err
        assert list((user_problem / "files").iterdir()) == []


def test_inertia_without_room_takes_one_line(user_problem, capsys):
    assert run("inertia", "my_problems:small", "--at", "0.1", "--memory", "1e-9") == 2
    assert "pass --directory for a file" in capsys.readouterr().err
    assert run("inertia", "my_problems:small", "--at", "0.1", "--directory", "absent", "--memory", "0.000028") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_exact_says_beforehand_what_it_takes(user_problem, capsys, monkeypatch):
    monkeypatch.setattr("lanczos_saddle.cli.commands.LONG", 1)
    assert run("exact", "my_problems:small") == 0
    assert "N = 23: eigenvalues from a copy, 0.0 GiB; about 0.0 minutes" in capsys.readouterr().err
