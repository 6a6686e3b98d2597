"""The block product of one network, written by hand: how fast a product can be without autograd.

    z = X W' + b,  h = relu z,  y = h U' + c,  p = softmax y,  e = p - onehot

    dh = h' (X dW' + db),    dy = dh U' + h dU' + dc,    de = p (dy - <p, dy>)
    dU = de' h + e' dh,      dW = (h' (de U + e dU))' X

The block lies between samples and units, (n, k, q), so that each product with a shared operand is one large one.
Activations are kept from product to product. Samples in chunks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def linear_relu_linear(
    model: nn.Module, loss: nn.Module, data: tuple[Tensor, Tensor], batch: int
) -> Callable[[Tensor], Tensor]:
    """V (N,) or (N, k) -> H V for Linear, ReLU, Linear and softmax cross-entropy; ValueError for anything else."""
    kinds = [type(m) for m in model] if isinstance(model, nn.Sequential) else []
    if kinds != [nn.Linear, nn.ReLU, nn.Linear] or type(loss) is not nn.CrossEntropyLoss:
        raise ValueError(f"written for Linear, ReLU, Linear and cross-entropy; got {kinds}")
    w, b, u, c = (p.detach() for p in model.parameters())
    (units, inputs), classes, samples = w.shape, len(u), len(data[0])
    ends = torch.tensor([w.numel(), units, u.numel(), classes]).cumsum(0)
    kept = []
    for x, targets in zip(data[0].split(batch), data[1].split(batch), strict=True):
        z = x @ w.mT + b
        h = z.relu()
        p = (h @ u.mT + c).softmax(1)
        e = p - nn.functional.one_hot(targets, classes)
        kept.append((x, h, (z > 0).to(x.dtype)[:, None], p[:, None], e))

    def multiply(vectors: Tensor) -> Tensor:
        rows = vectors.reshape(len(vectors), -1).mT
        k = len(rows)
        dw, db, du, dc = (part.contiguous() for part in rows.tensor_split(ends[:-1], dim=1))
        dw, du = dw.view(k * units, inputs), du.view(k, classes, units)
        sums = [torch.zeros_like(t) for t in (dw, db, du, dc)]
        du_forth, du_back = du.view(k * classes, units).mT, du.permute(1, 0, 2).reshape(classes, k * units)
        for x, h, fires, p, e in kept:
            n = len(x)
            dh = torch.addmm(db.view(-1), x, dw.mT).view(n, k, units).mul_(fires)
            dy = (dh.view(n * k, units) @ u.mT).view(n, k, classes)
            dy += (h @ du_forth).view(n, k, classes)
            dy += dc
            dy *= p
            de = dy - p * dy.sum(2, keepdim=True)
            back = (de.view(n * k, classes) @ u).view(n, k, units)
            back += (e @ du_back).view(n, k, units)
            back *= fires
            sums[0].addmm_(back.view(n, k * units).mT, x)
            sums[1] += back.sum(0)
            sums[2] += (de.view(n, k * classes).mT @ h).view(k, classes, units)
            sums[2] += (e.mT @ dh.view(n, k * units)).view(classes, k, units).transpose(0, 1)
            sums[3] += de.sum(0)
        product = torch.cat([t.reshape(k, -1) for t in sums], dim=1).mT / samples
        return product if vectors.ndim == 2 else product[:, 0]

    return multiply
