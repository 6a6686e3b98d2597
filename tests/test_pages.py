"""The documents' tables come from the committed records (validate/pages.py)."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "validate" / "pages.py"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_records_say():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python validate/pages.py`; {done.stderr}"


def test_empty_blocks_stay_apart(pages):
    page = "a\n<!-- one -->\n<!-- end -->\nb\n<!-- two -->\n| old |\n<!-- end -->\nc\n"
    texts = {"one": "", "two": "| new |"}
    once = pages.rendered(page, texts.__getitem__)
    assert once == "a\n<!-- one -->\n<!-- end -->\nb\n<!-- two -->\n| new |\n<!-- end -->\nc\n"
    assert pages.rendered(once, texts.__getitem__) == once


def test_a_block_that_does_not_end_is_refused(pages):
    with pytest.raises(ValueError, match="2 blocks begin and 1 of them end"):
        pages.rendered("<!-- one -->\n<!-- two -->\n<!-- end -->\n", lambda _: "")
