#!/usr/bin/env bash
# torch 2.13.0: in eval() a spectrally normalized layer has the value and the gradient of W / sigma(W), and another Hessian.
#
#     a loss of W / sigma(W), sigma the largest singular value, by torch.nn.utils.parametrizations.spectral_norm and written out
#     expected:  a layer that agrees in value and gradient to 1e-11 agrees in its second derivatives, too
#     seen:      products with the Hessian differ by 100 %, at any number of power steps
#
# The layer divides by u'Wv with u and v held constant. At the singular vectors the slope of u'Wv in u and v is zero, so that the
# gradient is right though they are held; the second derivative is not. So whoever checks the gradient has checked nothing of
# the Hessian. In train() each call takes a power step, and the function changes between two products.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

print("torch", torch.__version__)
torch.manual_seed(0)
layer = spectral_norm(nn.Linear(4, 4, bias=False).double(), n_power_iterations=50)
for _ in range(20):
    layer(torch.ones(1, 4, dtype=torch.float64))
layer.eval()
weight = layer.parametrizations.weight.original
data, direction = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
functions = {
    "layer": lambda: (layer.weight @ data).tanh().square().sum(),
    "written out": lambda: (weight / torch.linalg.matrix_norm(weight, 2) @ data).tanh().square().sum(),
}
seen = {}
for name, function in functions.items():
    value = function()
    gradient = torch.autograd.grad(value, weight, create_graph=True)[0]
    product = torch.autograd.grad((gradient * direction).sum(), weight)[0]
    seen[name] = value.detach(), gradient.detach(), product
names = ("value", "gradient", "Hessian times v")
apart = [float((a - b).norm() / b.norm()) for a, b in zip(seen["layer"], seen["written out"])]
for name, relative in zip(names, apart):
    print(f"{name:16} differs by {relative:.1e}")
assert apart[0] < 1e-12 and apart[1] < 1e-9, "value and gradient are those of W / sigma(W)"
assert apart[2] > 0.1, "this behaviour has changed"
P
