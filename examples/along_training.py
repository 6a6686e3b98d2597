"""How many negative eigenvalues are left as training goes on: one count every hundred steps."""

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues

torch.manual_seed(0)
x = torch.randn(400, 10)
y = (x[:, :5] * x[:, 5:]).sum(1, keepdim=True).tanh()
model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 1))
loss = nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def count():
    hessian = Hessian(model, loss, (x, y), dtype=torch.float64)  # the weights are copied: training may go on
    # one threshold for the whole run, so that its rows can be compared
    return count_eigenvalues(hessian, threshold=1e-3, method="lanczos", probes=4, steps=80)


print(f"{'step':>4}  {'loss':>7}  {'negative':<24}{'near zero':<24}{'positive':<24}")
for step in range(301):
    optimizer.zero_grad()
    value = loss(model(x), y)
    value.backward()
    if step % 100 == 0:
        counts = count()
        row = "".join(f"{interval!s:<24}" for interval in (counts.negative, counts.near_zero, counts.positive))
        print(f"{step:4}  {value.item():7.4f}  {row}")
    optimizer.step()
