"""Deep networks of many parameters in plain torch: a ResNet-18, a narrow one, a small ViT and a GPT-2 of 12 layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


class Network(NamedTuple):
    """A model in eval mode, its loss and one batch."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor


class Residual(nn.Module):
    """Two normalized convolutions and a way past them."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm_one = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.two, self.norm_two = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        wider = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.past = nn.Identity() if (inner, stride) == (outer, 1) else wider

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm_one(self.one(x)))
        return F.relu(self.norm_two(self.two(hidden)) + self.past(x))


class Attention(nn.Module):
    """Several heads; with a mask, a token sees itself and those before it."""

    def __init__(self, width: int, heads: int, tokens: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("mask", torch.ones(tokens, tokens, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.inward(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / (width // self.heads) ** 0.5
        if self.causal:
            scores = scores.masked_fill(~self.mask, float("-inf"))
        return self.outward((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, width))


class Layer(nn.Module):
    """Attention and a network of one hidden layer, normalized before."""

    def __init__(self, width: int, heads: int, tokens: int, causal: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, tokens, causal)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.network(self.second(x))


class Vision(nn.Module):
    """Patches of an image as tokens, a mean over them."""

    def __init__(self, layers: int, width: int, heads: int, side: int = 32, patch: int = 4) -> None:
        super().__init__()
        tokens = (side // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.Sequential(*(Layer(width, heads, tokens, causal=False) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT + self.places
        return self.head(self.norm(self.layers(tokens)).mean(1))


class Text(nn.Module):
    """The next token from those before it."""

    def __init__(self, layers: int, width: int, heads: int, tokens: int, words: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.layers = nn.Sequential(*(Layer(width, heads, tokens, causal=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.layers(self.words(tokens) + self.places(places)))).transpose(1, 2)


def resnet(width: int, samples: int) -> Network:
    """A ResNet-18 of this many channels on 32 x 32 images; its statistics have seen a few passes."""
    torch.manual_seed(0)
    body: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inner = width
    for factor in (1, 2, 4, 8):
        for stride in (1 if factor == 1 else 2, 1):
            body.append(Residual(inner, factor * width, stride))
            inner = factor * width
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, CLASSES))
    x, y = images(samples)
    with torch.no_grad():
        for _ in range(3):
            model(x)
    return Network(model.eval(), F.cross_entropy, x, y)


def vit(samples: int, layers: int = 12, width: int = 192, heads: int = 3) -> Network:
    """A ViT-tiny on 32 x 32 images in patches of 4 x 4."""
    torch.manual_seed(0)
    return Network(Vision(layers, width, heads).eval(), F.cross_entropy, *images(samples))


def gpt(
    samples: int, layers: int = 12, width: int = 128, heads: int = 4, tokens: int = 64, words: int = 256
) -> Network:
    """A small GPT-2 with a causal mask."""
    torch.manual_seed(0)
    model = Text(layers, width, heads, tokens, words).eval()
    text = torch.randint(words, (samples, tokens + 1))
    return Network(model, F.cross_entropy, text[:, :-1].contiguous(), text[:, 1:].contiguous())


def images(samples: int) -> tuple[Tensor, Tensor]:
    """Gaussian images and classes."""
    return torch.randn(samples, 3, 32, 32), torch.randint(CLASSES, (samples,))


NETWORKS: dict[str, Callable[[], Network]] = {
    "ResNet-18": lambda: resnet(64, 32),
    "ResNet-18, 16 channels": lambda: resnet(16, 32),
    "ViT-tiny": lambda: vit(32),
    "GPT, 12 layers": lambda: gpt(16),
}

SMALL: dict[str, Callable[[], Network]] = {
    "ResNet-18, 4 channels": lambda: resnet(4, 4),
    "ViT, 2 layers": lambda: vit(4, 2, 32, 2),
    "GPT, 2 layers": lambda: gpt(4, 2, 32),
}
"""Does it work?"""
