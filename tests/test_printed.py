"""What the pages show is what their code prints (validate/printed.py); the site is built without a warning."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
TESTED = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
SAME_DIGITS = torch.__version__.partition("+")[0] == TESTED[1]
"""The last digits of a trained network belong to one version of torch; with another one the code runs all the same."""


@pytest.fixture(scope="module")
def printed():
    spec = importlib.util.spec_from_file_location("printed", ROOT / "validate" / "printed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["index.md", "tutorial.md"])
def test_a_page_shows_what_its_blocks_print(printed, name):
    assert name in printed.SHOWN
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    texts, shown = printed.printed_by_blocks(page), printed.shown_by_blocks(page)
    assert all(texts)
    assert None not in shown
    if SAME_DIGITS:
        assert list(map(printed.comparable, texts)) == list(map(printed.comparable, shown))


def test_the_gallery_has_every_example(printed):
    assert len(printed.EXAMPLES) >= 10
    page = printed.GALLERY.read_text(encoding="utf-8")
    assert all(f"](../examples/{example.name})" in page for example in printed.EXAMPLES), (
        "run python validate/printed.py"
    )
    runnable = [example for example in printed.EXAMPLES if not printed.missing(example)]
    silent = [example.name for example in runnable if not printed.shown_in_gallery(example).strip()]
    assert not silent, "run python validate/printed.py"


def test_output_is_put_below_its_block(printed):
    page = "a\n```python\nprint(1)\n```\n\n```\nold\n```\nb\n```python\nprint(2)\n```\nc\n```\nold\n```\n"
    new = page.replace("old", "1", 1).replace("old", "2", 1)
    assert printed.with_output(page) == new
    assert printed.shown_by_blocks(new) == ["1\n", "2\n"]
    assert printed.without_seconds("N = 3, 1.6 s\nb") == "N = 3\nb"
    assert printed.comparable("off by 1.2e-09, 1.6 s\n") == printed.comparable("off by 8e-10, 12 s")
    assert printed.comparable("off by 1.2e-03") != printed.comparable("off by 1.3e-03")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    """Links, anchors, names in docstrings, the reference of everything public."""
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason=f"the site needs {name}: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "-n", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    import lanczos_saddle

    reference = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "api").glob("*.html"))
    assert not [name for name in lanczos_saddle.__all__ if f'id="lanczos_saddle.{name}"' not in reference]
