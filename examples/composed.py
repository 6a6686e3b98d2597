"""Out to PyLops and curvlinops and back: a damped Hessian is composed there, and counted here."""

import pylops
import torch
from curvlinops import HessianLinearOperator
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, exact_eigenvalues

torch.manual_seed(0)
x, y = torch.randn(300, 20).double(), torch.randint(4, (300,))
model = nn.Sequential(nn.Linear(20, 15), nn.Tanh(), nn.Linear(15, 4)).double()
H = Hessian(model, nn.CrossEntropyLoss(), (x, y))
exact = exact_eigenvalues(H).numpy()
N, tau = len(exact), 1e-3

damped = H.to_pylops() + 0.01 * pylops.Identity(N)
print(f"H + 0.01 I, composed by PyLops\n{count_eigenvalues(damped, threshold=tau)}")
print(f"from the exact eigenvalues: {(exact + 0.01 < -tau).sum()} below, {(exact + 0.01 > tau).sum()} above\n")

twice = H.to_curvlinops() + H.to_curvlinops()
print(f"H + H, composed by curvlinops\n{count_eigenvalues(twice, threshold=tau)}\n")

theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)])
print(f"curvlinops' own Hessian, counted here\n{count_eigenvalues(theirs, threshold=tau)}")
print(f"from the exact eigenvalues: {(exact < -tau).sum()} below, {(exact > tau).sum()} above")
