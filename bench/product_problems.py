"""The networks whose products are raced: an MLP at the reference weights, a small convolutional net, a transformer.

    mlp            784-25-10 on MNIST's training images                                N =  19,885
    conv           two convolutions, max-pooling, a linear layer; 28 x 28, random      N =  20,490
    transformer    two pre-norm blocks of width 64, 32 tokens of 64, random            N = 108,096

Speed does not depend on what a network has learned, so the last two have random weights and data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import mnist_mlp
import torch
from torch import Tensor, nn

Network = tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]  # model, loss, (inputs, targets)

WIDTH, HEADS, TOKENS, VOCABULARY, BLOCKS = 64, 4, 32, 64, 2


@dataclass(frozen=True)
class ProductProblem:
    """A network and how much of it is raced."""

    name: str
    samples: int
    batch: int  # samples, for libraries that are given batches
    make: Callable[[int, torch.dtype], Network]
    flops: Callable[[int], int] | None  # of a product with so many samples, where it is known


def convolutions(samples: int, dtype: torch.dtype) -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )
    data = torch.randn(samples, 1, 28, 28, dtype=dtype), torch.randint(10, (samples,))
    return model.to(dtype).eval(), nn.CrossEntropyLoss(), data


class Block(nn.Module):
    """x + attention(norm x), then x + perceptron(norm x); attention written out, which every library differentiates."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        heads = self.mixed(self.norms[0](x)).view(n, tokens, 3, HEADS, WIDTH // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, WIDTH))
        return x + self.perceptron(self.norms[1](x))


class Transformer(nn.Module):
    """Tokens (n, t) to logits (n * t, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(tokens) + self.position)).transpose(1, 2)


def transformer(samples: int, dtype: torch.dtype) -> Network:
    torch.manual_seed(0)
    tokens = torch.randint(VOCABULARY, (samples, TOKENS))
    return Transformer().to(dtype).eval(), nn.CrossEntropyLoss(), (tokens, tokens.roll(-1, 1))


PROBLEMS = {
    problem.name: problem
    for problem in (
        ProductProblem("mlp", mnist_mlp.IMAGES, 2500, mnist_mlp.problem, mnist_mlp.product_flops),
        ProductProblem("conv", 1000, 250, convolutions, None),
        ProductProblem("transformer", 128, 32, transformer, None),
    )
}


def in_float64(network: Network) -> Network:
    """The same numbers in float64: a product that differs from this one's differs by its own rounding."""
    model, loss, (inputs, targets) = network
    wide = inputs.double() if inputs.is_floating_point() else inputs
    return copy.deepcopy(model).double(), loss, (wide, targets)


def directions(network: Network, columns: int, dtype: torch.dtype) -> Tensor:
    """V (N, columns), normal."""
    size = sum(p.numel() for p in network[0].parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, columns, generator=generator, dtype=torch.float64).to(dtype)
