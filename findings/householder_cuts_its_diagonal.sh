#!/usr/bin/env bash
# torch 2.13.0: an orthogonal parametrization by Householder reflections keeps the signs of its columns on the diagonal of a
# trainable matrix, and cuts that diagonal to integers at each call.
#
#     one step of SGD with weight decay 1e-4 moves the diagonal from 1 to 0.99999
#     expected:  another orthogonal matrix (the point of the parametrization), near the old one
#     seen:      the zero matrix, for good; Q'Q = 0
#
# The diagonal has the gradient 0, so nothing but the decay moves it, and autograd sees no jump: at the initial parameters every
# derivative is finite and plausible, while the loss is discontinuous there. Differences of the loss over a diagonal entry grow
# as 1 / h. A Hessian at this point describes one side of a cliff. The maps "cayley" and "matrix_exp" keep the matrix orthogonal
# after the same step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

print("torch", torch.__version__)
eye = torch.eye(4, dtype=torch.float64)
for kind in ("householder", "cayley", "matrix_exp"):
    torch.manual_seed(0)
    layer = orthogonal(nn.Linear(4, 4, bias=False).double(), orthogonal_map=kind)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=1e-4)
    layer(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    before = layer.weight.detach()
    optimizer.step()
    after = layer.weight.detach()
    print(f"{kind:12} |W'W - I| before {(before.T @ before - eye).norm():.0e}, after one step {(after.T @ after - eye).norm():.0e}")
    assert (before.T @ before - eye).norm() < 1e-10, "it begins orthogonal"
    if kind == "householder":
        assert bool((after == 0).all()), "this behaviour has changed"
        diagonal = layer.parametrizations.weight.original
        assert bool((diagonal.grad.diagonal() == 0).all()), "the diagonal has a gradient now"
    else:
        assert (after.T @ after - eye).norm() < 1e-8, "this behaviour has changed"
P
