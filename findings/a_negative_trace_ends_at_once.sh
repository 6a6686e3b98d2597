#!/usr/bin/env bash
# PyHessian 0.1: the trace of a Hessian whose trace is negative stops after two vectors, whatever tolerance is asked for.
#
#     one quadratic loss in 200 parameters, trace 29, and its negative, trace -29; the same random signs
#     expected:  as many vectors for one as for the other: v'Hv only changes its sign
#     seen:      with tol=1e-6 hundreds of vectors for the one, two for the other, for every seed; the mean of two is off by
#                ten per cent. The change is divided by the mean with its sign, so that the ratio is negative: below tol
#
# Near saddles, where one wants to know, traces are negative. Take the standard error of the mean, or abs() of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -m pip install --quiet --no-deps PyHessian==0.1
"$folder/venv/bin/python" - <<'P'
import warnings

import numpy as np
import torch
from pyhessian import hessian

warnings.filterwarnings("ignore")  # PyHessian keeps a graph in .grad, which torch remarks on
rng = np.random.default_rng(0)
basis = np.linalg.qr(rng.standard_normal((200, 200)))[0]
values = np.concatenate([np.full(190, 0.1), np.linspace(-2, 4, 10)])  # trace 29
matrix = (basis * values) @ basis.T


class Quadratic(torch.nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.matrix, self.weight = torch.from_numpy(sign * matrix), torch.nn.Parameter(torch.ones(200, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * self.weight @ (self.matrix @ self.weight) * x.mean()


seen = {}
for sign in (1, -1):
    made = []
    for seed in range(10):
        torch.manual_seed(seed)
        batch = (torch.ones(1, dtype=torch.float64), None)
        made.append(hessian(Quadratic(sign), lambda out, _: out, data=batch, cuda=False).trace(maxIter=300, tol=1e-6))
    numbers, means = [len(one) for one in made], [float(np.mean(one)) for one in made]
    seen[sign] = numbers
    off = np.median(np.abs(np.array(means) / (sign * 29) - 1))
    print(f"trace {sign * np.trace(matrix):7.2f}: vectors {numbers}, the median mean is off by {100 * off:.0f} %")
assert min(seen[1]) > 10, "this behaviour has changed"
assert seen[-1] == [2] * 10, "this behaviour has changed"
P
