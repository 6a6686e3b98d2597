"""The networks: a ResNet-18 in two forms, a ViT, transformers of two kinds, an LSTM, a PINN, adapters."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "bench"))
from door_networks import CLASSES, Residual, Vision

__all__ = ["Adapted", "Arithmetic", "Characters", "Heat", "Vision", "adapted", "gpt2", "resnet"]


def resnet(width: int, form: str) -> nn.Sequential:
    """A ResNet-18 of this many channels in its first stage.

    "cifar": a stem of 3 x 3 at stride 1. "imagenet": 7 x 7 at stride 2, then a maximum over 3 x 3 at stride 2.
    """
    imagenet = form == "imagenet"
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False) if imagenet else nn.Conv2d(3, width, 3, 1, 1, bias=False)
    parts: dict[str, nn.Module] = {"stem": nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())}
    if imagenet:
        parts["pool"] = nn.MaxPool2d(3, 2, 1)
    inner = width
    for stage in range(4):
        outer = width * 2**stage
        parts[f"stage{stage + 1}"] = nn.Sequential(
            Residual(inner, outer, 1 if stage == 0 else 2), Residual(outer, outer, 1)
        )
        inner = outer
    parts["mean"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts["head"] = nn.Linear(inner, CLASSES)
    return nn.Sequential(OrderedDict(parts))


def gpt2(layers: int, width: int, heads: int, length: int, tied: bool = True) -> Any:
    """GPT-2 of the transformers library over bytes, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=tied,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


class Adapted(nn.Module):
    """x -> base(x) + x A B with A (in, rank) and B (rank, out): LoRA (Hu et al. 2021), of rank's own scale."""

    def __init__(self, base: nn.Module, inner: int, outer: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.randn(inner, rank) / math.sqrt(inner))
        self.lora_b = nn.Parameter(torch.zeros(rank, outer))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_a @ self.lora_b


def adapted(model: Any, rank: int) -> Any:
    """GPT-2 whose queries, keys and values have adapters, which alone are trainable."""
    model.requires_grad_(False)
    for block in model.transformer.h:
        attention = block.attn
        attention.c_attn = Adapted(attention.c_attn, *attention.c_attn.weight.shape, rank)
    return model


class Arithmetic(nn.Module):
    """One layer of attention and one of ReLU units over the tokens a, b, "=", without normalization or biases in it.

    The transformer of Nanda et al. (2023), of which the answer is read at the last token alone.
    """

    def __init__(self, modulus: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) / math.sqrt(width))

        self.embed, self.places, self.unembed = weight(modulus + 1, width), weight(3, width), weight(width, modulus)
        self.query, self.key, self.value, self.out = (weight(width, width) for _ in range(4))
        self.inward, self.outward = weight(width, 4 * width), weight(4 * width, width)
        self.bias, self.bias_out = nn.Parameter(torch.zeros(4 * width)), nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed[tokens] + self.places
        n, length, width = x.shape
        last = x[:, -1]
        query = (last @ self.query).view(n, self.heads, 1, -1)
        key = (x @ self.key).view(n, length, self.heads, -1).permute(0, 2, 3, 1)
        value = (x @ self.value).view(n, length, self.heads, -1).transpose(1, 2)
        scores = (query @ key) / math.sqrt(width // self.heads)
        last = last + (scores.softmax(-1) @ value).reshape(n, width) @ self.out
        last = last + F.relu(last @ self.inward + self.bias) @ self.outward + self.bias_out
        return last @ self.unembed


class Characters(nn.Module):
    """An LSTM that predicts the next byte."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.net = nn.Embedding(256, width), nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.net(self.embed(tokens))[0]).transpose(1, 2)


class Heat:
    """u_t = a u_xx on 0 < x < 1, 0 < t < 1, u = 0 at both ends, u(x, 0) = sin(pi x); the loss of a network for u.

    The mean square of the residual at inner points, and that of the differences at the ends and at t = 0. The
    solution is exp(-a pi^2 t) sin(pi x).
    """

    DIFFUSION = 0.1
    WEIGHT = 10.0  # of the ends and the beginning

    def __init__(self, width: int, points: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        ).double()
        self.inner = torch.rand(points, 2, dtype=torch.float64)
        free = torch.rand(points // 4, dtype=torch.float64)
        zero, one = torch.zeros_like(free), torch.ones_like(free)
        self.known = torch.cat([torch.stack(pair, 1) for pair in ((free, zero), (zero, free), (one, free))])
        self.values = self.solution(self.known)

    def solution(self, at: Tensor) -> Tensor:
        """u at the rows (x, t) of `at`, (n,)."""
        return torch.exp(-self.DIFFUSION * math.pi**2 * at[:, 1]) * torch.sin(math.pi * at[:, 0])

    def residual(self) -> Tensor:
        """The mean square of u_t - a u_xx."""
        at = self.inner.clone().requires_grad_()
        slope = torch.autograd.grad(self.net(at).sum(), at, create_graph=True)[0]
        bend = torch.autograd.grad(slope[:, 0].sum(), at, create_graph=True)[0][:, 0]
        return (slope[:, 1] - self.DIFFUSION * bend).square().mean()

    def given(self) -> Tensor:
        """The mean square of u - u_known at the ends and at t = 0."""
        return (self.net(self.known)[:, 0] - self.values).square().mean()

    def loss(self) -> Tensor:
        return self.residual() + self.WEIGHT * self.given()

    def error(self) -> float:
        """|u - exact| / |exact| on a grid."""
        axis = torch.linspace(0, 1, 51, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            exact = self.solution(grid)
            return float((self.net(grid)[:, 0] - exact).norm() / exact.norm())
