"""Every script in examples/ runs by itself, quickly, through the public face alone, and prints something to read."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
GALLERY = (Path(__file__).parents[1] / "docs" / "gallery.md").read_text(encoding="utf-8")
TESTED = re.search(r"^torch==(.*)$", (Path(__file__).parents[1] / "constraints.txt").read_text(), flags=re.MULTILINE)
SAME_DIGITS = torch.__version__.partition("+")[0] == TESTED[1]
CORE = {"lanczos_saddle", "torch", "numpy", "scipy", "pathlib"}


def shown_below(example: Path) -> str:
    """What the gallery shows below a script."""
    section = GALLERY.partition(f"](../examples/{example.name})\n")[2].partition("\n## ")[0]
    found = re.search(r"```text\n(.*?)```", section, flags=re.DOTALL)
    return "" if found is None else found[1]


def comparable(text: str) -> str:
    """What is the same in every run: no seconds, nothing of the size of rounding."""
    without_seconds = re.sub(r",? \d+(?:\.\d+)? s$", "", text, flags=re.MULTILINE)
    return re.sub(r"\d(?:\.\d+)?e-(?:0[7-9]|[1-9]\d)", "rounding", without_seconds).strip()


@pytest.fixture(params=EXAMPLES, ids=lambda path: path.stem)
def example(request):
    return request.param


def test_it_runs(example, tmp_path, monkeypatch, capsys):
    others = set(re.findall(r"^(?:from|import) (\w+)", example.read_text(), flags=re.MULTILINE)) - CORE
    for library in others:
        pytest.importorskip(library, reason=f"{example.name} needs {library}, which is not installed here")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) >= 5
    shown = shown_below(example)  # that every example is shown is asked in test_printed.py
    if shown.strip() and SAME_DIGITS and not others:  # other libraries draw weights of their own
        assert comparable(printed.out) == comparable(shown), "run python validate/printed.py"
    assert others or not printed.err  # other libraries have things to say there
    assert not list(tmp_path.iterdir())  # what it writes it takes away


def test_it_is_short_and_uses_the_public_face(example):
    text = example.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) < 40
    assert not re.search(r"lanczos_saddle\.\w", text)


def test_they_are_found():
    assert len(EXAMPLES) >= 5
