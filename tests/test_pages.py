"""The documents' tables come from the committed records (validate/pages.py)."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lanczos_saddle.reports.records import read
from lanczos_saddle.studies.landscapes.tables import BLOCKS
from lanczos_saddle.studies.paper import judged
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import parameters_of
from lanczos_saddle.studies.paper.rows import table_names
from lanczos_saddle.studies.paper.store import Store

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "validate" / "pages.py"
STORIES = {"paper.md": ("paper-tables.md",), "depth-and-width.md": ("depth-and-width-tables.md", "paper-tables.md")}


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_records_say(tmp_path):
    command, data = [sys.executable, SCRIPT, "--check"], {**os.environ, "LANCZOS_SADDLE_DATA": str(tmp_path)}  # none
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=data)
    assert done.returncode == 0, f"run `python validate/pages.py`; {done.stderr}"


def test_every_figure_has_its_table_and_is_drawn_from_the_records_alone(pages, tmp_path, monkeypatch):
    texts = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("paper.md", "paper-tables.md")]
    marked = {match[1] for text in texts for match in pages.BLOCK.finditer(text)}
    assert pages.FIGURES.keys() | {"judged", "verdicts", *table_names()} - {"table3"} <= marked
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    done = Store(tmp_path, finished=True)  # neither weights nor spectra
    done.path.write_bytes((pages.STORE / "records.jsonl").read_bytes())
    pages.draw_figures(done, tmp_path)
    of_the_paper = {f"paper-{name}.png" for name in ("fig1", "fig2", "fig3", "wigner")}
    assert {path.name for path in tmp_path.glob("*.png")} == of_the_paper | {"depth.png", "width.png", "layers.png"}


def numbers(text: str) -> set[str]:
    """Counts of three digits and more, and what stands behind +-, without the commas of thousands."""
    return {found.replace(",", "") for found in re.findall(r"\d[\d,]*\d{2,}(?!\.?\d)", text)}


@pytest.mark.parametrize(("story", "sources"), STORIES.items())
def test_a_story_quotes_its_tables(pages, story, sources):
    """What the small tables of a story say is on the pages of the large ones."""
    told = pages.BLOCK.sub("", (ROOT / "docs" / story).read_text(encoding="utf-8"))
    rows = "\n".join(line for line in told.splitlines() if line.startswith("|") and "http" not in line)
    known = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in sources)
    assert numbers(re.sub(r"\(.*?\.md.*?\)|\[.*?\]\(#.*?\)", "", rows)) <= numbers(known)


def test_empty_blocks_stay_apart(pages):
    page = "a\n<!-- one -->\n<!-- end -->\nb\n<!-- two -->\n| old |\n<!-- end -->\nc\n"
    texts = {"one": "", "two": "| new |"}
    once = pages.rendered(page, texts.__getitem__)
    assert once == "a\n<!-- one -->\n<!-- end -->\nb\n<!-- two -->\n| new |\n<!-- end -->\nc\n"
    assert pages.rendered(once, texts.__getitem__) == once


def test_a_block_that_does_not_end_is_refused(pages):
    with pytest.raises(ValueError, match="2 blocks begin and 1 of them end"):
        pages.rendered("<!-- one -->\n<!-- two -->\n<!-- end -->\n", lambda _: "")


def test_intervals_are_judged_by_the_exact_counts_of_the_same_network(tmp_path):
    store = Store(tmp_path)
    first, second, alone = (Experiment("digits", (64, 25, 10), trial=trial) for trial in range(3))
    intervals = {"1e-03": [[0, 1.0, 2], [5, 6.0, 9], [0, 3.0, 4]], "1e-04": [[0, 1.0, 5], [4, 6.0, 9], [0, 3.0, 4]]}
    for one in (first, second, alone):
        store.fill("certified", parameters_of("certified", one), lambda: {"intervals": intervals})
    for one, negative in ((first, 2), (second, 3)):  # at 1e-03 the second has one more than its interval allows
        counts = {tau: [negative, 5, 10 - 5 - negative] for tau in (*intervals, "1e-02")}
        store.fill("exact", parameters_of("exact", one), lambda counts=counts: {"counts": counts, "size": 10})
    rows = judged.markdown(store).splitlines()[2:]
    assert rows == ["| 1e-03 | 2 | 1 | 40.0 |", "| 1e-04 | 2 | 2 | 50.0 |"]


def test_the_record_of_the_landscapes_is_all_on_its_page(pages):
    result = read(pages.LANDSCAPES)[-1]["result"]
    assert len(result["counts"]) == 22
    assert all(one["known"] == one["computed"] for one in result["counts"])
    page = (ROOT / "docs" / "landscapes.md").read_text(encoding="utf-8")
    assert [match[1] for match in pages.BLOCK.finditer(page)] == list(BLOCKS)
