#!/usr/bin/env bash
# torch 2.13.0: scatter_reduce with "amax" or "amin" and include_self=False leaves the old entries out of the value, but not out of
# the gradient: where the largest source equals the old entry, the gradient is halved.
#
#     y = zeros(2).scatter_reduce(0, index, w, "amax", include_self=False), w = (0, -1, 0, -2): the largest of each pair is w_0, w_2
#     expected:  dy/dw = 1 at the two largest; the zeros of y's buffer are excluded
#     seen:      1/2 at both in reverse mode, 1 in forward mode. A buffer of other numbers gives 1
#
# The function is smooth there. Buffers of zeros and parameters that start at 0 meet often (biases, gates), and a pooling over
# segments in a graph network is written this way. A gradient that is wrong at one point alone looks like a kink. Fill with -inf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch

print("torch", torch.__version__)
index = torch.tensor([0, 0, 1, 1])
w, tangent = torch.tensor([0.0, -1, 0, -2], dtype=torch.float64), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
for fill in (0.0, -7.0, 5.0):
    for kind, sign in (("amax", 1), ("amin", -1)):
        f = lambda w: torch.full((2,), fill, dtype=torch.float64).scatter_reduce(0, index, sign * w, kind, include_self=False).sum()
        gradient = torch.func.grad(f)(w)
        forward = torch.func.jvp(f, (w,), (tangent,))[1]
        h = 1e-4
        difference = (f(w + h * tangent) - f(w - h * tangent)) / (2 * h)
        print(f"{kind}, buffer of {fill:4.1f}: gradient {gradient.tolist()}, along w_0 forward {forward:.2f}, difference {difference:.2f}")
        assert abs(abs(difference) - 1) < 1e-9 and abs(forward - difference) < 1e-9
        expected = 0.5 if fill == 0 else 1.0
        assert abs(abs(gradient[0]) - expected) < 1e-12, "this behaviour has changed"
P
