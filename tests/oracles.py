"""Small data, small networks, and their Hessian by a route that shares nothing with the package; what it judges."""

from itertools import pairwise

import torch
from matrices import clear, holds, three
from torch import Tensor, nn

from lanczos_saddle import Hessian, check_operator, classify, count_eigenvalues, exact_eigenvalues, inertia

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


def perceptron(widths: tuple[int, ...], activation: nn.Module, *, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """Linear layers with the activation between them; every parameter 0.7 times normal."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b, bias=bias), activation)][:-1]
    model, generator = nn.Sequential(*layers).double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=DOUBLE) * 0.7)
    return model


def entrywise(matrix: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Each entry to the tolerance relative to its row and column."""
    expected = (expected + expected.T) / 2
    rows = expected.norm(dim=1).clamp(min=1e-4 * float(expected.norm(dim=1).max()))
    assert float(((matrix - expected).abs() / (rows[:, None] * rows).sqrt()).max()) <= tolerance


def everything(hessian: Hessian, expected: Tensor, tolerance: float) -> None:
    """Every question that is asked of a Hessian, against eigenvalues of the oracle."""
    values = torch.linalg.eigvalsh((expected + expected.T) / 2)
    tau = clear(values)
    wanted = three(values, tau)
    for method in ("auto", "exact", "lanczos"):
        assert holds(count_eigenvalues(hessian, threshold=tau, method=method), wanted), method
    torch.testing.assert_close(exact_eigenvalues(hessian), values, rtol=0, atol=tolerance * float(values.abs().max()))
    assert inertia(hessian, -tau).below == wanted[0]
    assert wanted[0] in classify(hessian, threshold=tau).counts.negative
    assert check_operator(hessian).fidelity.status == "agrees"
