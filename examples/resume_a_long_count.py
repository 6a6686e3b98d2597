"""A count that takes hours is saved as it goes: interrupted or too shallow, the same call goes on from its file."""

from pathlib import Path

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5))
data = torch.randn(800, 30), torch.randint(5, (800,))
hessian = Hessian(model, nn.CrossEntropyLoss(), data, dtype=torch.float64)

# `state` is written while the run goes on, also where Ctrl-C ends it: `Interrupted.counts` then has what was known
state = Path("count.state")
plan = {"threshold": 1e-3, "method": "lanczos", "probes": 4, "precision": 1e-6, "state": state}

shallow = count_eigenvalues(hessian, steps=20, **plan)
print(f"{shallow}\n\nsaved: {state}, {state.stat().st_size / 1e6:.1f} MB\n")

deeper = count_eigenvalues(hessian, steps=120, **plan)  # 20 steps are read, 100 are made
print(deeper)
print(f"\nthe interval of the negative ones was {shallow.negative}, and is {deeper.negative}")
state.unlink()
