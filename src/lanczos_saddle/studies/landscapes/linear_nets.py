"""Linear networks W_L ... W_1 x with squared loss: their critical points and the rank of their Hessians.

*Two layers.* Loss |W_2 W_1 - Sigma|_F^2 / 2, Sigma = diag(sigma), d x d, h hidden units. For a set S of p <= h
singular values the balanced point W_1 = sqrt(Sigma_S) = W_2' (unit j carries the j-th of S) is critical, and the
Hessian falls into blocks of size two:

    sigma_i + sigma_k and 0      for i, k in S
    sigma_i +- sigma_k           for i in S, k not in S
    +-sigma_k                    for k not in S, h - p times each (unused units)
    0                            2 p (h - p) times

so it is a minimum exactly when S holds the h largest, and else a strict saddle (Baldi and Hornik 1989).

*Three and more layers.* At the origin the Hessian is zero: a saddle without negative curvature (Kawaguchi 2016).

*Anywhere generic* the rank is `generic_rank` (Singh, Bachmann and Hofmann 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from lanczos_saddle.networks.known_hessians import half_squared_error
from lanczos_saddle.studies.landscapes.critical_points import CriticalPoint, signs


def two_layer_point(sigma: Sequence[float], width: int, kept: Sequence[int]) -> CriticalPoint:
    """The balanced critical point that carries the singular values sigma_i, i in `kept`.

    Raises ValueError unless the sigma are positive, and `kept` holds at most `width` of their indices, once each.
    """
    d, p = len(sigma), len(kept)
    _check(sigma)
    if len(set(kept)) != p or not set(kept) <= set(range(d)) or not p <= width:
        raise ValueError(f"kept must be at most {width} different indices below {d}; got {list(kept)}")
    model = linear_net([d, width, d])
    first = torch.zeros(width, d, dtype=torch.float64)
    for unit, index in enumerate(kept):
        first[unit, index] = math.sqrt(sigma[index])
    vector_to_parameters(torch.cat([first.flatten(), first.mT.flatten()]), model.parameters())
    rest = [sigma[k] for k in range(d) if k not in kept]
    inside = [sigma[i] for i in kept]
    values = [a + b for a in inside for b in inside] + [0.0] * p**2
    values += [a + sign * b for a in inside for b in rest for sign in (1, -1)]
    values += [sign * b for b in rest for sign in (1, -1)] * (width - p) + [0.0] * (2 * p * (width - p))
    eigenvalues = torch.tensor(values, dtype=torch.float64).sort().values
    lowest = sum(s**2 for s in sorted(sigma)[: max(0, d - width)]) / 2
    kind = "strict saddle" if signs(eigenvalues)[0] else "degenerate minimum"
    name = f"linear net {d}-{width}-{d}, " + ("origin" if p == 0 else f"value {' and '.join(str(k + 1) for k in kept)}")
    return CriticalPoint(name, kind, model, half_squared_error, _data(sigma), signs(eigenvalues), eigenvalues, lowest)


def origin(sigma: Sequence[float], widths: Sequence[int]) -> CriticalPoint:
    """All weights zero, two or more hidden layers of `widths`: the Hessian vanishes, and lower points are near.

    Raises ValueError for singular values that are not positive, and for fewer hidden layers; with one,
    `two_layer_point` with nothing kept is the origin.
    """
    _check(sigma)
    if len(widths) < 2:
        raise ValueError(f"the Hessian vanishes with two or more hidden layers; got widths {list(widths)}")
    sizes = [len(sigma), *widths, len(sigma)]
    model = linear_net(sizes)
    size = sum(p.numel() for p in model.parameters())
    kept = sorted(sigma, reverse=True)[: min(widths)]
    lowest = sum(s**2 for s in sigma) / 2 - sum(s**2 for s in kept) / 2
    return CriticalPoint(
        f"linear net {'-'.join(map(str, sizes))}, origin",
        "saddle without negative curvature",
        model,
        half_squared_error,
        _data(sigma),
        (0, size, 0),
        torch.zeros(size, dtype=torch.float64),
        lowest,
    )


def generic_rank(input_rank: int, hidden: Sequence[int], outputs: int) -> int:
    """Rank of the Hessian at a generic point: 2 q M + q (r + K) - L q^2.

    r = `input_rank`, the rank of the second moment of the inputs; K outputs; M = sum of the hidden widths;
    q = min(r, hidden widths, K); L = the number of weight matrices, len(hidden) + 1.
    """
    q, matrices = min([input_rank, *hidden, outputs]), len(hidden) + 1
    return 2 * q * sum(hidden) + q * (input_rank + outputs) - matrices * q**2


def linear_net(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers without bias or activation, float64, all weights zero."""
    layers = [nn.Linear(a, b, bias=False, device="meta", dtype=torch.float64) for a, b in pairwise(sizes)]
    net = nn.Sequential(*layers).to_empty(device="cpu")
    for weight in net.parameters():
        nn.init.zeros_(weight)
    return net


def _check(sigma: Sequence[float]) -> None:
    if not all(0 < s < math.inf for s in sigma):
        raise ValueError(f"singular values must be positive and finite; got {list(sigma)}")


def _data(sigma: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Inputs with second moment I, d of them, and targets for which the loss is |W - Sigma|_F^2 / 2."""
    identity = math.sqrt(len(sigma)) * torch.eye(len(sigma), dtype=torch.float64)
    return identity, identity * torch.tensor(sigma, dtype=torch.float64)
