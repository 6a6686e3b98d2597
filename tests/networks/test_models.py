"""Models and losses of torch alone against differences of gradients: right, or refused with a way out that is right."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "validate"))
zoo = pytest.importorskip("zoo.torch_models", reason="validate/zoo is part of a checkout, not of an installed package")
from zoo.entries import ENTRIES, judge  # noqa: E402

TORCH = [item for item in ENTRIES.values() if item.library == "torch"]
LONG = (
    "LSTM, both ways, two layers",
    "transformer decoder over an encoder's memory",
    "orthogonal parametrization, householder",
    "GRU over packed sequences",
    "float32 data in a closure, GRU",
)
"""Of kinds that have a quicker one."""
assert {item.name for item in TORCH}.issuperset(LONG)


def marked(item):
    """The item, slow where it takes long."""
    return pytest.param(item, id=item.name, marks=[pytest.mark.slow] if item.name in LONG else [])


@pytest.mark.parametrize("item", [marked(item) for item in TORCH])
def test_a_model_is_right_or_refused_with_a_way_out_that_is_right(item):
    finding = judge(item)
    wanted = "right" if item.expect == "right" else "refused; way out right"
    assert (finding.verdict, finding.fine) == (wanted, True), finding.said


def test_a_wrong_matrix_is_seen():
    """The judge itself: an oracle of another function than the package's finds every entry wrong or refused."""
    names = ("MLP, Tanh", "multi-head attention with a mask", "LSTM", "PINN, autograd.grad in forward")
    for name in names:
        item = ENTRIES[name]
        assert (
            judge(item.__class__(**{**vars(item), "make": lambda item=item: _scaled(item.make())})).verdict == "WRONG"
        )


def _scaled(case):
    """The user's function, one parameter of it in other units by one part in 10,000."""

    def other():
        return case.function() + 1e-4 * case.parameters[0].reshape(-1)[0] ** 2

    return case.__class__(case.build, other, case.parameters, case.frozen)
