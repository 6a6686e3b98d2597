"""Small data, a small network, and its Hessian by a route that shares nothing with the package."""

import torch
from torch import Tensor, nn

DOUBLE = torch.float64
X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(1))


def differences(function, parameters: list[Tensor], step: float = 1e-5) -> Tensor:
    """The Hessian of function() by central differences of plain gradients, parameters moved in place."""
    start = torch.cat([p.detach().reshape(-1) for p in parameters])

    def gradient(theta: Tensor) -> Tensor:
        for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.data = part.view_as(p).clone()
        found = torch.autograd.grad(function(), parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in found])

    rows = [(gradient(start + e) - gradient(start - e)) / (2 * step) for e in step * torch.eye(len(start)).to(start)]
    gradient(start)
    return torch.stack(rows)


def mlp(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), *(middle or (nn.Tanh(),)), nn.Linear(4, 3)).double()
