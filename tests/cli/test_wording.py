"""Errors name options as they are typed: invented sentences, every refusal in the source, and real commands."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import lanczos_saddle
from lanczos_saddle import count_eigenvalues
from lanczos_saddle.cli.arguments import COMMANDS
from lanczos_saddle.cli.entry import main
from lanczos_saddle.cli.options import Parser
from lanczos_saddle.cli.wording import flags_of, on_command_line

SOURCE = Path(lanczos_saddle.__file__).parent


def flags(command):
    parser = Parser(prog="x")
    COMMANDS[command].add(parser)
    return flags_of(parser)


@pytest.mark.parametrize(
    ("command", "said", "wanted"),
    [
        (
            "count",
            "max_products must leave one step for 4 probes; got 9: raise it to at least 13, or pass fewer probes",
            "--max-products must leave one step for 4 probes; got 9: raise it to at least 13, or pass fewer --probes",
        ),
        ("count", "steps must be between 1 and 23; got 24", "--steps must be between 1 and 23; got 24"),
        ("count", "every product was zero: pass threshold=", "every product was zero: pass --threshold"),
        ("count", "got torch.float16: pass dtype=torch.float64", "got torch.float16: pass --dtype float64"),
        ("count", "by autograd alone: pass preconditioner=None", "by autograd alone: pass --preconditioner none"),
        ("count", 'try method="exact"', "try --method exact"),
        ("count", "products differ: pass fidelity=False to go on", "products differ: pass --no-fidelity to go on"),
        ("count", "pass enumerate_negative=False", "leave --enumerate-negative out"),
        ("classify", "pass compare_hessians=False", "pass --no-compare-hessians"),
        ("count", "3 probes of 4 steps: the threshold is low", "3 probes of 4 steps: the threshold is low"),
        ("count", "null_vectors belong to real operators", "null_vectors belong to real operators"),
        ("count", "x --max-products 3, my_max_products, max_products.py", None),
        ("check", "pass fewer probes, or max_products=9", "pass fewer probes, or max_products=9"),
    ],
)
def test_names_become_options_where_they_are_names(command, said, wanted):
    assert on_command_line(said, flags(command)) == (said if wanted is None else wanted)


def test_without_a_command_nothing_changes():
    assert on_command_line("steps must be 1", None) == "steps must be 1"


def refusals():
    """The constant text of every message that a ValueError is raised with; what is filled in is a 7."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and "Error" in call.func.id and call.args:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", text_of(call.args[0])


def text_of(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return text_of(node.body)
    return "7"


def test_no_refusal_names_an_argument_that_has_an_option():
    known = flags("count")
    names = set(inspect.signature(count_eigenvalues).parameters) & set(known)
    assert names > {"threshold", "max_products", "probes", "steps", "state", "enumerate_negative"}
    messages = list(refusals())
    assert len(messages) > 200
    changed = 0
    for place, message in messages:
        said = on_command_line(message, known)
        changed += said != message
        for name in names:
            assert not re.search(rf"(?<![\w.-]){name}=", said), f"{place}: {said}"
            assert not re.match(rf"{name} must", said), f"{place}: {said}"
            if "_" in name:
                assert not re.search(rf"(?<![\w-]){name}(?![\w.])", said), f"{place}: {said}"
    assert changed > 10


MATRIX = "%%MatrixMarket matrix array real symmetric\n3 3\n1\n0\n0\n2\n0\n3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "0.5", "--max-products", "3"], "--max-products must leave"),
        (["--threshold", "0.5", "--steps", "9"], "--steps must be between 1 and 3"),
        (["--threshold", "0.5", "--probes", "0"], "--probes must be at least 1"),
        (["--relative-threshold", "2"], "--relative-threshold must be below 1"),
        (["--threshold", "0.5", "--precision", "2"], "--precision is a fraction"),
        (["--threshold", "0.5", "--confidence", "2"], "--confidence must be between"),
        (["--threshold", "-1"], "--threshold must be positive"),
        (["--relative-threshold", "-1"], "--relative-threshold must be positive"),
    ],
)
def test_real_commands_name_the_option_to_change(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.mtx").write_text(MATRIX)
    assert main(["count", "m.mtx", *arguments, "--method", "lanczos"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"lanczos-saddle: {message}")
    assert told.count("\n") == 1
