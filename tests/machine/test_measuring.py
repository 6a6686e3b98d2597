"""Measurements look for garbage among new objects alone, and leave the collector as it was."""

import gc

import pytest
import torch

from lanczos_saddle import plan
from lanczos_saddle.machine.measuring import settled


@pytest.fixture
def thawed():
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("thawed")
def test_what_is_there_is_not_looked_through_again():
    with settled():
        assert gc.get_freeze_count() > 10_000
        with settled():
            pass
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
    with pytest.raises(KeyError), settled():
        raise KeyError
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("thawed")
def test_what_the_caller_froze_stays_so():
    gc.freeze()
    frozen = gc.get_freeze_count()
    with settled():
        pass
    assert gc.get_freeze_count() > frozen // 2  # some may end of themselves; thawed are all


@pytest.mark.usefixtures("thawed")
def test_a_plan_leaves_nothing_frozen():
    plan(torch.diag(torch.linspace(-1, 1, 40, dtype=torch.float64)), threshold=1e-2)
    assert gc.get_freeze_count() == 0
