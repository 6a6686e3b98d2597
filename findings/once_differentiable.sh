#!/usr/bin/env bash
# torch 2.13.0: a custom autograd.Function whose backward is marked with @once_differentiable does not refuse a second
# derivative. Its documentation promises an error; instead the path through the Function is cut without a word.
#
#     f(x) = sum (x^2)^2 + x^2, with the inner square a once-differentiable Function
#     second derivatives along 1:   12 x^2 + 2 = (14, 50) at x = (1, 2)
#     seen:                         (2, 2), by autograd twice and by torch.func (reverse over reverse), no error
#
# Both styles of Function (ctx in forward, setup_context) behave alike under plain autograd. Whoever marked a backward so, in
# order to be safe from wrong Hessians, gets wrong Hessians.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch
from torch.autograd.function import once_differentiable


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class New(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


point, ones = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
truth = 12 * point**2 + 2
print("torch", torch.__version__, "truth", truth.tolist())
for kind in (Old, New):
    f = lambda x: kind.apply(x).square().sum() + x.square().sum()
    x = point.clone().requires_grad_()
    gradient = torch.autograd.grad(f(x), x, create_graph=True)[0]
    assert torch.equal(gradient.detach(), 4 * point**3 + 2 * point), "the first derivative is right"
    second = torch.autograd.grad(gradient.sum(), x)[0]
    print(kind.__name__, "autograd twice", second.tolist())
    assert torch.equal(second, 2 * ones), "this behaviour has changed"
second = torch.func.vjp(torch.func.grad(f), point)[1](ones)[0]
print("New, torch.func.vjp of grad", second.tolist())
assert torch.equal(second, 2 * ones), "this behaviour has changed"
P
