"""bench/rank_costs.py: its arithmetic by hand at one machine, and the page has its tables."""

from pathlib import Path

import pytest
from rank_costs import Assumed, all_over_ranks, largest, on_rank_0, over_ranks, products, table

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ranks.md"


def test_one_row_by_hand():
    """N = 1e9, 8 cards, 4 probes, 200 steps, a million samples, float32."""
    a = Assumed()
    one, slices, everything = (way(1e9, 8, a) for way in (on_rank_0, over_ranks, all_over_ranks))
    assert products(1e9, 8, a) == pytest.approx(12 * 1e9 * 1e6 * 4 / 8e14)  # 60 s
    assert one.talking == pytest.approx((4e9 * 12 + 4e9 * 16) / 3e11)
    # weights 4, block and product 32, five vectors a probe and seven 216, basis 3200 / 8 GB
    assert one.memory == pytest.approx((4 + 32 + 216 + 400) * 1e9)
    assert slices.memory == pytest.approx((4 + 3 * 4 + (216 + 3200) / 8) * 1e9)
    assert slices.talking == pytest.approx(2 * 4e9 * 4 / 3e11)
    assert everything.memory == pytest.approx((4 + 32 + 216 + 3200) / 8 * 1e9)
    batches = 1e6 / (8 * 1e4)
    assert everything.talking == pytest.approx(batches * (4 * 1e9 + 4e9 + 1e9 + 2 * 4e9) * 4 / 3e11)
    assert one.hours(a) == pytest.approx(200 * (one.computing + one.talking) / 3600)
    assert one.computing == pytest.approx(60 + 2 * 100 * 4e9 * 4 / 8 / 2e12 + 10 * 8 * 4e9 / 2e12)
    assert everything.computing == pytest.approx(65 + 2 * 100 * 4e9 * 4 / 8 / 2e12 + 10 * 8 * 4e9 / 8 / 2e12)


def test_the_page_has_the_tables():
    page = PAGE.read_text(encoding="utf-8").splitlines()
    for line in [*table(Assumed()), *largest(Assumed())]:
        assert line in page
