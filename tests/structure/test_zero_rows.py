"""Dead coordinates by tensor and pattern, against the zero rows of the dense matrix."""

import torch
from torch import nn

from lanczos_saddle import Hessian, assemble
from lanczos_saddle.structure.zero_rows import zero_rows


def test_patterns_of_zero_rows():
    torch.manual_seed(0)
    inputs = torch.randn(40, 5).double()
    inputs[:, 2] = 0
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[0].bias[1] = -100.0  # never fires
    hessian = Hessian(model, nn.CrossEntropyLoss(), (inputs, torch.randint(0, 3, (40,))))
    found = {one.name: one for one in zero_rows(hessian)}
    zero = (assemble(hessian).matrix == 0).all(dim=1)
    for name, one in found.items():
        assert one.dead == int(zero[hessian.problem.ranges[name]].sum())
        assert one.dead == one.unused + one.columns + one.rows + one.entries
        assert one.parameters == model.get_parameter(name).numel()
    first = found["0.weight"]
    assert (first.columns, first.rows, first.entries) == (4, 4, 0)  # the input in 4 units; the unit's 4 other weights
    assert found["0.bias"].rows == 1
    assert found["2.weight"].columns == 3
    assert found["2.bias"].dead == 0


def test_a_matrix_has_no_tensors():
    assert zero_rows(torch.eye(3, dtype=torch.float64)) == ()
