"""Tables on a terminal, and the plain text where there is none."""

import io
import sys

import pytest
import torch
from record_files import sampled

from lanczos_saddle import classify, count_eigenvalues
from lanczos_saddle.reports.terminal import plain_text, show
from lanczos_saddle.structure.zero_rows import TensorRows

TENSORS = (TensorRows("0.weight", (25, 64), 1600, 75, 0, 75, 0, 0), TensorRows("0.bias", (25,), 25, 0, 0, 0, 0, 0))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def coloured(monkeypatch):
    pytest.importorskip("rich", reason="needs lanczos-saddle[report]")
    for name in ("NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="module")
def results():
    matrix = torch.diag(torch.tensor([-1.0, -0.5, 1e-9, 0.7, 1000.0], dtype=torch.float64))
    several = count_eigenvalues(matrix, threshold=[1e-3, 0.6], method="exact")
    return sampled(), several, classify(matrix, threshold=1e-3)


def test_where_there_is_no_terminal_it_is_print(results, monkeypatch):
    for result in results:
        written, printed = io.StringIO(), io.StringIO()
        show(result, written)
        print(result, file=printed)
        assert written.getvalue() == printed.getvalue()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
        terminal = Terminal()
        show(results[0], terminal)
        assert terminal.getvalue() == f"{results[0]}\n"
        monkeypatch.delenv(name)


def test_without_rich_it_is_print(results, coloured, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal = Terminal()
    show(results[0], terminal)
    assert terminal.getvalue() == f"{results[0]}\n"


def test_a_terminal_gets_the_same_numbers_in_colour(results, coloured):
    counts, several, found = results
    for result in (*results, TENSORS):
        terminal = Terminal()
        show(result, terminal)
        assert "\x1b[" in terminal.getvalue()
    terminal = Terminal()
    show(counts, terminal)
    for one in (counts.negative, counts.near_zero, counts.positive):
        assert f"{one.lower:,}" in terminal.getvalue()
    terminal = Terminal()
    show(several, terminal)
    assert "95 % for all 2 thresholds together" in terminal.getvalue()
    terminal = Terminal()
    show(found, terminal)
    for name in found.verdicts:
        assert name.replace("_", " ") in terminal.getvalue()


def test_tensors_are_aligned_without_colour():
    lines = plain_text(TENSORS).splitlines()
    assert lines[0].split() == ["tensor", "shape", "parameters", "dead", "columns", "rows", "unused", "entries"]
    assert lines[1].split() == ["0.weight", "25", "x", "64", "1,600", "75", "75", "0", "0", "0"]
    assert lines[3].split()[:3] == ["all", "1,625", "75"]


def test_what_has_no_table_is_refused():
    with pytest.raises(ValueError, match="got int"):
        show(3, Terminal())
