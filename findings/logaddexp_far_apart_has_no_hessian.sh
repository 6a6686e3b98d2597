#!/usr/bin/env bash
# torch 2.13.0: torch.logaddexp has NaN second derivatives where its arguments are far apart, though value and gradient are right there
# and every second derivative is zero to machine precision.
#
#     logaddexp(0, x) = log(1 + exp x), at x = -100 in float32 and at x = -800 in float64
#     expected:  0 as of logsumexp of the same pair and of softplus: this function is there for such arguments
#     seen:      value 0, gradient 0 (finite), second derivative NaN, in reverse and in forward mode. From 89 on in float32
#
# One such entry makes a whole Hessian product NaN. torch.logsumexp(torch.stack([a, b]), 0) is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import torch

print("torch", torch.__version__)
forms = {
    "logaddexp": lambda x: torch.logaddexp(torch.zeros_like(x), x),
    "logsumexp": lambda x: torch.logsumexp(torch.stack([torch.zeros_like(x), x]), 0),
    "softplus": torch.nn.functional.softplus,
}
for kind, far in ((torch.float32, 100.0), (torch.float64, 800.0)):
    for name, f in forms.items():
        seen = []
        for at in (-far, far, 1.0):
            x = torch.tensor(at, dtype=kind)
            slope = torch.func.grad(f)
            reverse, forward = torch.func.grad(slope)(x), torch.func.jvp(slope, (x,), (torch.ones_like(x),))[1]
            seen.append((float(f(x)), float(slope(x)), float(reverse), float(forward)))
        print(f"{kind}, {name}: value, slope, second derivative twice at {-far}: {seen[0]}, at {far}: {seen[1]}")
        assert all(abs(value - max(at, 0)) < 1e-6 for (value, *_), at in zip(seen[:2], (-far, far)))
        assert [round(s[1], 6) for s in seen[:2]] == [0.0, 1.0]
        assert abs(seen[2][2] - 0.196612) < 1e-5, "near 0 all are right"
        nan = [any(n != n for n in s[2:]) for s in seen[:2]]
        assert any(nan) == (name == "logaddexp"), "this behaviour has changed"
P
