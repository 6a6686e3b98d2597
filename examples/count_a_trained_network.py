"""Train a small network, and count what its Hessian looks like where it stopped: minimum, saddle, how degenerate?"""

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, recount

torch.manual_seed(0)
angle = 3 * torch.rand(600, 1)
labels = torch.arange(600) % 2
points = torch.cat([angle.cos(), angle.sin()], 1) * (1 - 2 * labels[:, None]) + 0.1 * torch.randn(600, 2)

model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 2))
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(300):
    optimizer.zero_grad()
    value = loss(model(points), labels)
    value.backward()
    optimizer.step()

hessian = Hessian(model, loss, (points, labels), dtype=torch.float64)
print(f"loss {value.item():.4f}, {hessian.shape[0]} parameters; {hessian.fidelity}\n")

# probes and steps are the price: 4 x 100 products of the Hessian with a vector, and as many numbers as a product has
counts = count_eigenvalues(hessian, relative_threshold=1e-2, method="lanczos", probes=4, steps=100)
print(counts)

finer = recount(counts, counts.threshold / 10)  # from the same products
print(f"\nat a tenth of the threshold\n{finer}")
