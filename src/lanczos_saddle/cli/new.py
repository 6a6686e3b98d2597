"""A problem file to fill in: it works as it is, so that each change can be tried at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from lanczos_saddle.machine.files import replacing

TEMPLATE = '''\
"""What is counted: a model, a loss and data.

    lanczos-saddle check {name}:problem                              # is it fit to be counted?
    lanczos-saddle count {name}:problem --relative-threshold 1e-3    # as intervals
    lanczos-saddle classify {name}:problem --relative-threshold 1e-3

The file works as it is. Replace the three parts by yours, one at a time, and run `check` after each.
"""

import torch
from torch import nn


def problem():
    """(model, loss, data). A function of any name, without arguments, that returns the same at every call."""
    torch.manual_seed(0)  # whatever is random here: every run counts the same network

    # 1. The model, with the weights at which its Hessian is taken.
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    # model.load_state_dict(torch.load("weights.pt", weights_only=True))    # or: --weights weights.pt
    model.eval()  # dropout and batch norm as they are at evaluation: else every product is of another function

    # 2. The loss: of (outputs, targets), a mean over samples. None, if the model returns its loss itself.
    loss = nn.CrossEntropyLoss()

    # 3. The data: (inputs, targets), or batches that can be gone through again, such as a DataLoader without
    #    shuffling. All of them are used in every product: the Hessian is that of the mean over all samples.
    inputs = torch.randn(200, 8)
    targets = inputs[:, :3].argmax(dim=1)
    data = inputs, targets

    # A scalar function of parameters, with penalties or physics: return Hessian.of(function, model) instead.
    return model, loss, data
'''


def new(options: argparse.Namespace) -> None:
    """Write the template; one that is there is kept, unless --force is given."""
    path = Path(options.output)
    if path.exists() and not options.force:
        raise ValueError(f"{path} is there already: name another file, or pass --force to write over it")
    with replacing(path) as temporary:
        temporary.write_text(TEMPLATE.format(name=path), encoding="utf-8")
    print(f"{path}: now try `lanczos-saddle count {path}:problem --relative-threshold 1e-3`")
