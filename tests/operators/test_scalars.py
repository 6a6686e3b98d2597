"""Numbers that no float64 holds are refused like others that are none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lanczos_saddle.operators.scalars import real


@pytest.mark.parametrize("value", [10**400, Fraction(-(10**400), 3)])
def test_a_number_beyond_float64_is_refused_by_name(value):
    with pytest.raises(ValueError, match="threshold must be a number that float64 can hold") as caught:
        real("threshold", value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160
