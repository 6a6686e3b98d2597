"""Only a number of products is given: what it is spent on is planned, with the width that is foretold."""

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues

torch.manual_seed(0)
inputs, targets = torch.randn(400, 30), torch.randint(5, (400,))
model = nn.Sequential(nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 5))
hessian = Hessian(model, nn.CrossEntropyLoss(), (inputs, targets), dtype=torch.float64)
print(f"N = {hessian.shape[0]}\n")

for budget in (100, 300, 2000):
    counts = count_eigenvalues(hessian, relative_threshold=1e-2, max_products=budget)
    print(f"at most {budget} products; plan: {counts.plan}")
    print(
        f"{counts.negative}, {counts.near_zero}, {counts.positive} from {counts.products} products, {counts.method}\n"
    )
