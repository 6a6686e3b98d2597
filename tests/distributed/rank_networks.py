"""Networks and data that several processes and the test itself make alike."""

import torch
from torch import nn


def small():
    """An MLP of 57 parameters on 41 samples, an odd number, in float64."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(41, 5, generator=generator, dtype=torch.float64)
    return model, nn.CrossEntropyLoss(), (x, torch.randint(0, 3, (41,), generator=generator))


def half_ignored():
    """The network of `small`, every second target of which is ignored: all of the second of two ranks."""
    model, loss, (x, y) = small()
    y[1::2] = -100
    return model, loss, (x, y)


def relu():
    """A ReLU network with one hidden layer, whose units fire on few samples: what is proved of it depends on all."""
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        model[0].bias[:4] = -4.0
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    return model, nn.CrossEntropyLoss(), (x, torch.randint(0, 4, (30,), generator=generator))


def convolutional():
    """A convolution, float32, per-sample losses with weights."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    x, y = torch.randn(20, 1, 6, 6), torch.randint(0, 3, (20,))
    return model, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), (x, y)
