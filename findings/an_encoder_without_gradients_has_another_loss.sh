#!/usr/bin/env bash
# torch 2.13.0: nn.TransformerEncoder with a padding mask, in eval(), returns other numbers under no_grad than with gradients: padded
# positions are exactly 0 in the one case, and what the layers make of them in the other.
#
#     the mean over all positions of the squared output; three sequences of five, some padded; no dropout
#     expected:  one loss, as eval() promises
#     seen:      the two losses differ by a third; at positions that are not padded they agree to 1e-15
#
# So the loss that is printed under no_grad is not the loss whose gradient and Hessian are taken, and differences of printed losses
# are no test of either. torch.backends.mha.set_fastpath_enabled(False) makes them one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'P'
import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore")  # nested tensors are a prototype
print("torch", torch.__version__)
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
model = nn.TransformerEncoder(layer, 2).double().eval()
with torch.no_grad():
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
x = torch.randn(3, 5, 8, dtype=torch.float64)
padded = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool)


def seen():
    y = model(x, src_key_padding_mask=padded)
    return y.detach(), float(y.square().mean())


graded, loss = seen()
with torch.no_grad():
    plain, printed = seen()
    torch.backends.mha.set_fastpath_enabled(False)
    slow, again = seen()
print(f"loss with gradients {loss:.4f}, under no_grad {printed:.4f}, there without the fast path {again:.4f}")
print("largest output at padded positions:", float(graded[padded].abs().max()), float(plain[padded].abs().max()))
assert torch.allclose(graded[~padded], plain[~padded], atol=1e-12)
assert bool((plain[padded] == 0).all()) and printed < 0.9 * loss, "this behaviour has changed"
assert abs(again - loss) < 1e-12
P
