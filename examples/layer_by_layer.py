"""Where do negative eigenvalues come from? No layer of a ReLU network has any of its own: pairs of layers do."""

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, negative_bound

torch.manual_seed(0)
inputs, targets = torch.randn(500, 12), torch.randint(4, (500,))
model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(100):
    optimizer.zero_grad()
    loss(model(inputs), targets).backward()
    optimizer.step()

whole = Hessian(model, loss, (inputs, targets), dtype=torch.float64)
tau = count_eigenvalues(whole, relative_threshold=1e-3, method="exact").threshold  # one tau for all rows
print(f"tau = {tau:.1e}\n{'parameters':<12}{'N':>5}  negative, near zero, positive")
for name, pattern in (("all", "*"), ("layer 1", "0.*"), ("layer 2", "2.*"), ("layer 3", "4.*")):
    part = Hessian(model, loss, (inputs, targets), parameters=pattern, dtype=torch.float64)
    counts = count_eigenvalues(part, threshold=tau, method="exact")
    print(f"{name:<12}{counts.size:5}  {counts.negative}, {counts.near_zero}, {counts.positive}")

bound, why = negative_bound(whole)
print(f"\nat most {bound} negative ones, at any weights: {why}")
