"""PRIMME's preconditioned eigensolver on a Hessian that is never formed, and exact eigenvalues as the judge."""

import numpy as np
import primme
import torch
from torch import nn

from lanczos_saddle import Hessian, exact_eigenvalues

torch.manual_seed(0)
x, y = torch.randn(300, 20).double(), torch.randint(4, (300,))
model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
H = Hessian(model, nn.CrossEntropyLoss(), (x, y))
exact = exact_eigenvalues(H).numpy()
print(f"N = {len(exact)}")

for which, wanted in (("LA", exact[-3:]), ("SA", exact[:3])):
    values, vectors, stats = primme.eigsh(H.to_scipy(), k=3, which=which, tol=1e-10, return_stats=True)
    print(f"{which}: {np.sort(values)} from {stats['numMatvecs']} products")
    print(f"    differ from the exact ones by {abs(np.sort(values) - wanted).max():.1e}")
