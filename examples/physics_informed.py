"""A physics-informed network: the Hessian of a sum of terms, each with points of its own, u' = -u and u(0) = 1."""

import torch
from torch import nn

from lanczos_saddle import Hessian, classify

torch.manual_seed(0)
u = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1)).double()
inside = torch.linspace(0, 2, 64, dtype=torch.float64)[:, None].requires_grad_()
start = torch.zeros(1, 1, dtype=torch.float64)


def equation():
    value = u(inside)
    (slope,) = torch.autograd.grad(value.sum(), inside, create_graph=True)
    return (slope + value).square().mean()


def boundary():
    return (u(start) - 1).square().mean()


optimizer = torch.optim.LBFGS(u.parameters(), max_iter=300, line_search_fn="strong_wolfe")


def closure():
    optimizer.zero_grad()
    value = equation() + 10 * boundary()
    value.backward()
    return value


optimizer.step(closure)
print(f"loss {closure().item():.2e}, u(1) = {u(torch.ones_like(start)).item():.5f}, exp(-1) = 0.36788\n")

hessian = Hessian.of([(1.0, equation), (10.0, boundary)], u)
print(classify(hessian, relative_threshold=1e-6, epsilon=1e-3))
