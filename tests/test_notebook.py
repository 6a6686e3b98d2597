"""The notebook of examples/ runs from top to bottom, prints what it shows, and is small."""

import os
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "digits.ipynb"
TESTED = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
SAME_DIGITS = torch.__version__.partition("+")[0] == TESTED[1]


def printed(notebook) -> str:
    """All that is printed, without seconds and without what is of the size of rounding."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return re.sub(
        r"\d+(?:\.\d+)? s\b", "s", "".join(output.text for output in outputs if output.get("name") == "stdout")
    )


def read():
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient, which is not installed here")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_small_and_shows_what_it_found():
    assert NOTEBOOK.stat().st_size < 100_000
    notebook = read()
    assert "negative" in printed(notebook)
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert "image/png" in kinds
    assert not [1 for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_it_runs(tmp_path):
    client = pytest.importorskip("nbclient", reason="notebooks need nbclient, which is not installed here")
    pytest.importorskip("ipykernel", reason="notebooks need a kernel: ipykernel")
    shown = printed(notebook := read())
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    client.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute(
        env={**os.environ, "PYTHONPATH": paths}
    )
    assert not SAME_DIGITS or printed(notebook) == shown
