"""Chunks and groups within a stated memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lanczos_saddle import Hessian
from lanczos_saddle.networks.footprint import COLUMNS, FEW_FOLDED, Footprint

MIB = 2**20


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("saved", [1_000, MIB, 5 * MIB])
@pytest.mark.parametrize("columns", [1, 3, 8, 70])
def test_a_chunk_fits_and_cannot_grow(saved, columns, cached, folded):
    """What is chosen fits; on a device one more sample, or one more column beside a few samples, would not."""
    footprint, free = Footprint(saved, 8 * MIB), 600 * MIB
    samples, width = footprint.chunk(columns, free, folded, cached)
    predict = footprint.folded if folded else footprint.plain
    assert 1 <= width <= min(columns, COLUMNS)
    if (samples, width) != (1, 1):
        assert predict(samples, width) <= free
    if not cached:
        assert predict(samples + 1, width) > free
    if folded and columns <= COLUMNS and width < columns:
        assert predict(FEW_FOLDED, 2 * width) > free


@pytest.mark.parametrize("free", [200 * MIB, 600 * MIB, 4096 * MIB])
@pytest.mark.parametrize("samples", [17, 32, 100, 100_000])
@pytest.mark.parametrize("columns", [1, 8, 70])
def test_heavy_weights_take_more_samples_and_fewer_columns(columns, samples, free):
    """As many weights as activations of ten samples: chunks outweigh three vectors where they fit, in equal shares."""
    footprint = Footprint(5 * MIB, 50 * MIB)
    share, width = footprint.chunk(columns, free, True, True, samples)
    assert 1 <= width <= min(columns, COLUMNS)
    assert 1 <= share <= samples
    assert footprint.folded(share, width) <= free or (share, width) == (1, 1)
    if free == 4096 * MIB and columns >= 8 and samples > 17:
        assert share * footprint.saved >= 3 * footprint.vector
        assert share * width * footprint.saved <= 300 * MIB
        assert width < footprint.chunk(columns, free, True, True)[1]
    light = Footprint(5 * MIB, MIB)  # few weights: as without knowing the samples
    assert light.chunk(columns, free, True, True, samples) == light.chunk(columns, free, True, True)


def test_recorded_operations_need_less():
    """So that more columns stay together than torch's transforms could hold."""
    footprint, free = Footprint(5 * MIB, 8 * MIB), 1024 * MIB
    assert footprint.chunk(8, free, True, True)[1] > footprint.chunk(8, free, False, True)[1]
    few, width = footprint.pieces(16, 8, free)
    assert width < footprint.chunk(8, free, True, True)[1]
    assert footprint.plain(few, width) <= free


def refusing():
    """A Hessian of a network that nothing can be recorded of, and a dense one of the same function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 3)).double()
    data = torch.randn(50, 6, dtype=torch.float64), torch.arange(50) % 3
    return model, data


def test_a_refused_recording_falls_back_within_the_memory(monkeypatch):
    """Where nothing can be recorded, rows are multiplied in groups that the transforms can hold, and rightly."""
    model, data = refusing()
    whole = Hessian(model, nn.CrossEntropyLoss(), data)
    block = torch.randn(whole.shape[0], 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = whole @ block
    monkeypatch.setattr("lanczos_saddle.networks.columns.cache.record", no_recording)
    small = Hessian(model, nn.CrossEntropyLoss(), data, memory=4 * whole.predict(2, 2))
    asked = []
    local = small._local
    monkeypatch.setattr(small, "_local", lambda batch: (asked.append(batch.size), local(batch))[1])
    found = small @ block
    assert not small.folding.folded
    assert "no recording today" in small.folding.reason
    assert max(small.footprint.plain(*small.pieces(size, 20)) for size in asked) <= small.memory
    assert max(asked) < 50
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    assert small.plan(20)[1] <= whole.plan(20)[1]


def no_recording(*_):
    raise RuntimeError("no recording today")
