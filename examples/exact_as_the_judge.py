"""Where all eigenvalues fit, they judge the intervals: by a dense solve, and by inertia without eigenvalues."""

import torch
from torch import nn

from lanczos_saddle import Hessian, assemble, count_eigenvalues, exact_eigenvalues, inertia, recount

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))
data = torch.randn(1000, 16), torch.randint(4, (1000,))
hessian = Hessian(model, nn.CrossEntropyLoss(), data, dtype=torch.float64)

dense = assemble(hessian)  # N products: one for each of its columns
values = exact_eigenvalues(dense.matrix)  # ascending
largest = values.abs().max().item()
print(f"N = {len(values)}, eigenvalues from {values[0]:.3e} to {values[-1]:.3e}\n")

first = count_eigenvalues(hessian, threshold=1e-1 * largest, method="lanczos", probes=4, steps=100, precision=1e-6)
print(f"{first.products} products, {first.confidence:.0%} for each row\n{'tau/largest':>11}  {'exact':<17}  intervals")
for relative in (1e-1, 3e-2, 1e-2, 3e-3):
    tau = relative * largest
    counts = recount(first, tau)
    below, above = inertia(dense, -tau).below, inertia(dense, tau).above  # LDL', with a certified margin
    exact = (below, len(values) - below - above, above)
    assert exact == ((values < -tau).sum(), (values.abs() <= tau).sum(), (values > tau).sum())
    intervals = (counts.negative, counts.near_zero, counts.positive)
    held = all(count in interval for count, interval in zip(exact, intervals, strict=True))
    print(f"{relative:11.0e}  {exact!s:<17}  {', '.join(map(str, intervals))}  {'hold' if held else 'MISSED'}")
