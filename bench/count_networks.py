"""Three small networks of current kinds for the race of counts: few enough parameters that dense eigenvalues judge.

    resnet    ResNet-18, all eighteen layers, with 1, 2, 4 and 8 channels, batch norm in eval mode       N = 2,973
    gpt       two causal pre-norm blocks of width 10, two heads, 12 tokens of 14                         N = 3,080
    pinn      -u'' = pi^2 (sin pi x + 4 sin 3 pi x) on (0, 1), u(0) = u(1) = 0; tanh, 1-30-30-30-1       N = 1,951

Each is trained briefly from a fixed seed, in float32 on one thread, and kept in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from lanczos_saddle.training import datasets

Data = tuple[Tensor, Tensor]
Untrained = tuple[nn.Module, nn.Module, Data]

IMAGES, CLASSES = 100, 10
CHANNELS = (1, 2, 4, 8)
WIDTH, HEADS, TOKENS, VOCABULARY, SEQUENCES = 10, 2, 12, 14, 200
HIDDEN, POINTS = 30, 200
PI = math.pi


# ResNet-18, He et al. 2016; a first convolution for small images


class Basic(nn.Module):
    """Two convolutions beside the input, or beside its projection."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.shortcut(x)).relu()


def resnet() -> Untrained:
    data = datasets.load("digits")
    inputs = nn.functional.interpolate(data.x_train[:IMAGES].reshape(-1, 1, 8, 8), scale_factor=2.0)
    torch.manual_seed(0)
    first = CHANNELS[0]
    layers: list[nn.Module] = [nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    for before, after in zip((first, *CHANNELS), CHANNELS, strict=False):
        layers += [Basic(before, after, 1 if after == first else 2), Basic(after, after, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], CLASSES)]
    return nn.Sequential(*layers), nn.CrossEntropyLoss(), (inputs, data.y_train[:IMAGES])


# a GPT, Radford et al. 2019; attention written out, which every library differentiates


class Block(nn.Module):
    """x + attention(norm x), then x + perceptron(norm x)."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.register_buffer("hidden", torch.full((TOKENS, TOKENS), -math.inf).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        heads = self.mixed(self.norms[0](x)).view(n, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + self.hidden).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, WIDTH))
        return x + self.perceptron(self.norms[1](x))


class Gpt(nn.Module):
    """Tokens (n, t) to logits (n, vocabulary, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens) + self.position))).transpose(1, 2)


def gpt() -> Untrained:
    """Sequences of a Markov chain with few likely successors; the next token is asked for."""
    generator = torch.Generator().manual_seed(0)
    chances = (3 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)).softmax(1)
    tokens = torch.zeros(SEQUENCES, TOKENS + 1, dtype=torch.int64)
    tokens[:, 0] = torch.randint(VOCABULARY, (SEQUENCES,), generator=generator)
    for place in range(TOKENS):
        tokens[:, place + 1] = torch.multinomial(chances[tokens[:, place]], 1, generator=generator)[:, 0]
    torch.manual_seed(0)
    return Gpt(), nn.CrossEntropyLoss(), (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


# a PINN, Raissi et al. 2019


class Pinn(nn.Module):
    """-u'' of u = x (1 - x) v(x), which vanishes at 0 and 1; v and two derivatives by the chain rule, layer by layer.

    No autograd inside: every library can differentiate it.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, HIDDEN, HIDDEN, HIDDEN, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        v, first, second = x, torch.ones_like(x), torch.zeros_like(x)
        for layer in self.layers[:-1]:
            t, first, second = layer(v).tanh(), first @ layer.weight.mT, second @ layer.weight.mT
            slope = 1 - t * t
            v, first, second = t, slope * first, slope * second - 2 * t * slope * first * first
        last = self.layers[-1]
        v, first, second = last(v), first @ last.weight.mT, second @ last.weight.mT
        return 2 * v - 2 * (1 - 2 * x) * first - x * (1 - x) * second


def pinn() -> Untrained:
    x = ((torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS)[:, None]
    force = PI**2 * ((PI * x).sin() + 4 * (3 * PI * x).sin())
    torch.manual_seed(0)
    return Pinn(), nn.MSELoss(), (x.float(), force.float())


TRAINED: dict[str, tuple[Callable[[], Untrained], int, float]] = {
    "resnet": (resnet, 60, 1e-2),  # steps of Adam with all samples as one batch, its rate
    "gpt": (gpt, 150, 1e-2),
    "pinn": (pinn, 500, 3e-3),
}
