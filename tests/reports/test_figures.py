"""Figures for papers: what was drawn, the widths, the three kinds of files; what a record lacks is said."""

import math

import numpy as np
import pytest
from record_files import VALUES, exact, sampled

pytest.importorskip("matplotlib", reason="needs lanczos-saddle[plots]")

from lanczos_saddle.reports import figures
from lanczos_saddle.reports.charts import band_corners
from lanczos_saddle.reports.sources import views
from lanczos_saddle.reports.summary import record_of


@pytest.fixture(scope="module")
def record():
    (made,) = record_of(sampled())
    tensors = [{"name": "0.weight", "parameters": 70, "dead": 10}, {"name": "0.bias", "parameters": 10, "dead": 0}]
    return made | {"layers": {"products": 2, "tensors": tensors}}


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("name", ["band", "intervals", "density", "closing", "layers"])
def test_every_figure_is_written_in_every_width(record, name, width, tmp_path):
    draw = getattr(figures, f"{name}_figure")
    draw(tmp_path / "f.svg", record, width=width)
    text = (tmp_path / "f.svg").read_text()
    assert f'width="{72 * figures.WIDTHS[width]:g}pt"' in text
    again = tmp_path / "again.svg"
    draw(again, record, width=width)
    assert again.read_text() == text  # the same record, the same file


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_kinds_are_what_their_names_say(record, kind, start, tmp_path):
    figures.band_figure(tmp_path / f"f.{kind}", record)
    assert (tmp_path / f"f.{kind}").read_bytes().startswith(start)


def test_the_band_encloses_the_staircase(record):
    (view,) = views([record])
    corners = band_corners(view.grid, view.size)
    linear = view.grid.thresholds[0]
    for left, right in zip(corners[::2], corners[1::2], strict=True):
        assert left["u"] < right["u"]
        for u in np.linspace(left["u"], right["u"], 7)[1:-1]:
            count = int((linear * math.sinh(u) >= VALUES).sum())
            assert left["lower"] <= count <= left["upper"]
    assert [c["u"] for c in corners[2::2]] == [c["u"] for c in corners[1:-1:2]]


def test_what_a_record_lacks_is_said(tmp_path):
    (record,) = record_of(exact())
    with pytest.raises(ValueError, match="does not say how its intervals closed"):
        figures.closing_figure(tmp_path / "f.pdf", record)
    with pytest.raises(ValueError, match="has no layers"):
        figures.layers_figure(tmp_path / "f.pdf", record)
    with pytest.raises(ValueError, match="needs readings"):
        figures.band_figure(tmp_path / "f.pdf", record | {"readings": None})
    with pytest.raises(ValueError, match=r"\.pdf, \.png or \.svg"):
        figures.band_figure(tmp_path / "f.jpg", record)
    assert list(tmp_path.iterdir()) == []
