"""Networks whose weights are cut over ranks; small enough for a dense matrix of differences of gradients."""

import torch
from rank_networks import convolutional, small
from torch import nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """Attention and an MLP, each with a normalization before it."""

    def __init__(self, width, heads):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))

    def forward(self, h, mask):
        x = self.first(h)
        h = h + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return h + self.mlp(self.second(h))


class Transformer(nn.Module):
    """Tied embeddings, a scale that the model itself owns, checkpoints if asked for."""

    def __init__(self, checkpoints=False):
        super().__init__()
        self.checkpoints = checkpoints
        self.scale = nn.Parameter(torch.ones(4))
        self.tokens, self.places = nn.Embedding(7, 4), nn.Embedding(5, 4)
        self.blocks = nn.ModuleList([Block(4, 2)])
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).triu(1))

    def forward(self, x):
        h = (self.tokens(x) + self.places(torch.arange(x.shape[1]))) * self.scale
        for block in self.blocks:
            h = checkpoint(block, h, self.mask, use_reentrant=False) if self.checkpoints else block(h, self.mask)
        return self.head(h)


def token_mean(outputs, targets):
    """One value a sample."""
    return (
        nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).mean(1)
    )


def transformer(checkpoints=False):
    """211 parameters, 9 sequences of 5 tokens, float64."""
    torch.manual_seed(2)
    model = Transformer(checkpoints).double().eval()
    return model, token_mean, (torch.randint(0, 7, (9, 5)), torch.randint(0, 7, (9, 5)))


def checkpointed():
    return transformer(checkpoints=True)


def convolution():
    """The convolutional network of the other tests in float64, per-class weights."""
    model, loss, (x, y) = convolutional()
    return model.double(), loss.double(), (x.double(), y)


class Recurrent(nn.Module):
    """An LSTM, whose module keeps a list of its parameters, and a head with weight normalization."""

    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(3, 2, batch_first=True)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


def recurrent():
    torch.manual_seed(6)
    data = torch.randn(7, 4, 3).double(), torch.randint(0, 3, (7,))
    return Recurrent().double(), nn.CrossEntropyLoss(), data


class Passing(nn.Module):
    """A layer that hands its input on."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return x, self.linear(x)


class HandsOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), Passing()

    def forward(self, x):
        same, other = self.second(torch.tanh(self.first(x)))
        return same.square() + same * other


def handing_on():
    torch.manual_seed(7)
    return HandsOn().double(), nn.CrossEntropyLoss(), (torch.randn(7, 3).double(), torch.randint(0, 3, (7,)))


class Sloped(nn.Module):
    """Makes a derivative in its forward pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self.linear(x).square()
            return y + torch.autograd.grad(y.sum(), x, create_graph=True)[0].sum(1, keepdim=True)


NETWORKS = {
    "mlp": small,
    "handing on": handing_on,
    "convolution": convolution,
    "transformer": transformer,
    "checkpointed": checkpointed,
    "recurrent": recurrent,
}


class Reader(nn.Sequential):
    """Reads a parameter of a module that it does not call."""

    def __init__(self):
        super().__init__(nn.Linear(5, 3))

    def forward(self, x):
        return nn.functional.linear(x, self[0].weight)


class Inplace(nn.Module):
    """A layer that writes into its input."""

    def __init__(self):
        super().__init__()
        self.scale, self.last = Scale(), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.scale(x * 1.0))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x):
        return x.mul_(self.weight)


class Hidden(nn.Module):
    """A layer that is given an object with a tensor in it."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = Opener(), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.inner(Box(x)))


class Box:
    def __init__(self, x):
        self.x = x


class Opener(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, box):
        return box.x * self.weight


class Experts(nn.Module):
    """Layers that depend on the rank, as those of experts depend on its data."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.experts = rank, nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])
        with torch.no_grad():
            for p in self.parameters():
                p.fill_(0.3)

    def forward(self, x):
        return self.experts[self.rank % 2](x)
