"""SciPy's eigensolvers on a Hessian that is never formed: eigsh and lobpcg, and exact eigenvalues as the judge."""

import numpy as np
import torch
from scipy.sparse.linalg import eigsh, lobpcg
from torch import nn

from lanczos_saddle import Hessian, eigenpairs, exact_eigenvalues

torch.manual_seed(0)
x, y = torch.randn(300, 20).double(), torch.randint(4, (300,))
model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
H = Hessian(model, nn.CrossEntropyLoss(), (x, y))
exact = exact_eigenvalues(H).numpy()
print(f"N = {len(exact)}, exact: {exact[:2]} ... {exact[-3:]}")

rng = np.random.default_rng(0)
start = rng.standard_normal(len(exact))
top = eigsh(H.to_scipy(), k=3, which="LA", v0=start, return_eigenvectors=False)
low = eigsh(H.to_scipy(), k=2, which="SA", v0=start, return_eigenvectors=False)
print(f"eigsh:  {np.sort(low)} ... {np.sort(top)}")

block, _ = lobpcg(H.to_scipy(), rng.standard_normal((len(exact), 3)), tol=1e-5, maxiter=300)
print(f"lobpcg: {np.sort(block)}")

found = eigenpairs(H, 3)  # ours says how sure it is: an eigenvalue within each radius
print(f"ours:   {found.values.numpy()}, within {float(found.radii.max()):.1e}")
for values in (np.sort(top), np.sort(block), found.values.numpy()):
    print(f"largest difference from the exact ones: {abs(values - exact[-3:]).max():.1e}")
