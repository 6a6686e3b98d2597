"""CuPy's eigensolver on a Hessian in GPU memory: vectors pass by DLPack, nothing is copied to the host."""

import cupy
import torch
from cupyx.scipy.sparse.linalg import eigsh
from torch import nn

from lanczos_saddle import Hessian, exact_eigenvalues

torch.manual_seed(0)
x, y = torch.randn(300, 20).double(), torch.randint(4, (300,))
model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
H = Hessian(model, nn.CrossEntropyLoss(), (x, y), device="cuda")
exact = exact_eigenvalues(H).numpy()
print(f"N = {len(exact)}, on {H.device}")

values = cupy.asnumpy(eigsh(H.to_cupy(), k=3, which="LA", return_eigenvectors=False))
values.sort()
print(f"exact: {exact[-3:]}")
print(f"cupyx: {values}")
print(f"differ by {abs(values - exact[-3:]).max():.1e}")
print(f"free GPU memory: {cupy.cuda.runtime.memGetInfo()[0] / 2**30:.1f} GiB")
