"""Every script in examples/ runs by itself, quickly, through the public face alone, and prints something to read."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
CORE = {"lanczos_saddle", "torch", "numpy", "scipy", "pathlib"}


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
    assert others or not printed.err  # other libraries have things to say there
    assert not list(tmp_path.iterdir())  # what it writes it takes away


def test_it_is_short_and_uses_the_public_face(example):
    text = example.read_text()
    assert text.startswith('"""')
    assert len(text.splitlines()) < 40
    assert not re.search(r"lanczos_saddle\.\w", text)


def test_they_are_found():
    assert len(EXAMPLES) >= 5
