#!/usr/bin/env bash
# torch 2.13.0: torch.polar(r, angle) is r cos + i r sin for every r, also negative; its gradient in r is that of |r|.
#
#     the real part of polar(r, 0.3) in r = (-0.5, 0, 0.5); it is linear in r, with the slope cos 0.3 = 0.955 everywhere
#     expected:  0.955 at all three
#     seen:      -0.955, 0 and 0.955: the wrong sign below zero, no slope at zero. Forward mode has it right
#
# A trained modulus passes zero. With parameters that start at 0 the gradient is zero, and stays so. r * angle.cos() and
# r * angle.sin() are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import math

import torch

print("torch", torch.__version__)
r, angle = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64), torch.full((3,), 0.3, dtype=torch.float64)
f = lambda r: torch.polar(r, angle).real
slope = torch.func.grad(lambda r: f(r).sum())(r)
forward = torch.func.jvp(f, (r,), (torch.ones_like(r),))[1]
difference = (f(r + 1e-5) - f(r - 1e-5)) / 2e-5
print("values", f(r).tolist())
print("gradient", slope.tolist(), "forward", forward.tolist(), "differences", difference.tolist())
true = torch.full((3,), math.cos(0.3), dtype=torch.float64)
assert torch.allclose(f(r), r * math.cos(0.3)) and torch.allclose(difference, true)
assert torch.allclose(slope, true * torch.tensor([-1.0, 0, 1], dtype=torch.float64)), "this behaviour has changed"
P
