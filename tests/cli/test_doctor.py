"""What the doctor says: sizes that fit and next ones that do not, switches that are noticed, all of it as JSON."""

import json

import pytest
import torch

from lanczos_saddle.cli.doctor import largest_sizes
from lanczos_saddle.cli.entry import main
from lanczos_saddle.machine.rates import Limits
from lanczos_saddle.machine.surroundings import EXTRAS, surroundings


def test_it_says_what_is_there_and_what_limits(capsys, tmp_path):
    assert main(["doctor", "--no-rates", "--json", f"{tmp_path}/d.json"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__}" in text
    assert "what will limit you" in text
    assert "GFLOP" not in text
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["surroundings"]["threads"] == torch.get_num_threads()
    assert {one["library"] for one in found["surroundings"]["extras"]} == set(EXTRAS)
    free = found["surroundings"]["devices"][0]["free"]
    assert found["largest"]["cpu"] == largest_sizes(free)


@pytest.mark.parametrize("free", [2**30, 2**34, 2**38])
def test_the_largest_sizes_are_those_of_the_formulas(free):
    """8 N^2 bytes; 4 N^2; (4 probes x 200 + 27) N numbers within half; 27 N numbers: to two digits, rounded down."""
    sizes = largest_sizes(free)
    assert 0.8 * (free / 8) ** 0.5 <= sizes["all eigenvalues"] <= (free / 8) ** 0.5
    assert 0.3 * (free / 4) ** 0.5 <= sizes["exact counts"] <= (free / 4) ** 0.5
    assert 0.9 * free / 2 / 8 / 827 <= sizes["intervals, basis kept"] <= free / 2 / 8 / 827
    assert 0.9 * free / 8 / 27 <= sizes["intervals"] <= free / 8 / 27


def test_a_switch_that_changes_products_is_noticed(capsys):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert main(["doctor", "--no-rates"]) == 0
    finally:
        torch.set_float32_matmul_precision(before)
    assert "float32_matmul_precision is high: float32 products are rounded" in capsys.readouterr().out
    assert all(one.usual for one in surroundings().switches if one.name == "float32_matmul_precision")


def test_a_missing_extra_says_what_brings_it(monkeypatch, capsys):
    monkeypatch.setattr("lanczos_saddle.machine.surroundings.find_spec", lambda _: None)
    assert main(["doctor", "--no-rates"]) == 0
    assert "shtab        missing: pip install 'lanczos-saddle[completion]' brings" in capsys.readouterr().out


def test_rates_are_those_that_were_measured(monkeypatch, capsys):
    asked = []

    def limits(dtype, device):
        asked.append((dtype, device.type))
        return Limits(123.0, 4.5)

    monkeypatch.setattr("lanczos_saddle.cli.doctor.machine_limits", limits)
    monkeypatch.setattr("lanczos_saddle.cli.doctor.foretold_seconds", lambda *_, **__: 60.0)
    assert main(["doctor"]) == 0
    assert {(torch.float32, "cpu"), (torch.float64, "cpu")} <= set(asked)
    text = capsys.readouterr().out
    assert "cpu float64: 123 GFLOP/s in a matrix product, 4.5 GB/s in a copy" in text
    assert "take about 1.0 minutes" in text
