"""The most memory that a closed form takes beside its matrix, in a process of its own: (foretold, measured) as JSON."""

import itertools
import json

import torch
from torch import nn

from lanczos_saddle import Hessian
from lanczos_saddle.machine.measuring import held_bytes, measure
from lanczos_saddle.structure import closed_form
from lanczos_saddle.structure.layers import recognize, separable

CPU = torch.device("cpu")
NETWORKS = {
    "a curvature": ([4, 120, 3], nn.CrossEntropyLoss(), 1200),  # 3 x 120^2 numbers a sample
    "across layers": ([30, 16, 90], nn.MSELoss(), 4000),
    "three pairs": ([10, 40, 40, 5], nn.CrossEntropyLoss(), 3000),
}


def matrix_of(sizes, loss, samples):
    torch.manual_seed(0)
    modules = [module for a, b in itertools.pairwise(sizes) for module in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*modules[:-1]).double()
    x = torch.randn(samples, sizes[0], dtype=torch.float64)
    classes, values = torch.randint(sizes[-1], (samples,)), torch.rand(samples, sizes[-1], dtype=torch.float64)
    return Hessian(model, loss, (x, classes if isinstance(loss, nn.CrossEntropyLoss) else values), fidelity=False)


def peaks():
    found = {}
    for name, case in NETWORKS.items():
        hessian = matrix_of(*case)
        layers = recognize(hessian.problem)
        diagonal = separable(hessian.problem, layers)
        foretold = 8 * case[2] * closed_form.numbers_per_sample(layers, diagonal=diagonal)
        matrix = torch.zeros(hessian.shape, dtype=torch.float64)
        held_bytes(CPU)
        done, cost = measure(lambda hessian=hessian, matrix=matrix: closed_form.fill(hessian, matrix), CPU)
        assert done
        found[name] = foretold, cost.peak_bytes
    return found


if __name__ == "__main__":
    print(json.dumps(peaks()))
