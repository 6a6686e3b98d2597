"""A recognized network, layer by layer: what its Hessian is made of, sample by sample.

    z_l = W_l a_{l-1} + b_l,    a_l = f_l(z_l) elementwise,    l = 1..L,    loss s(z_L)        (per sample)

For every sample, with D_l = diag f_l'(z_l):

    delta_l = ds/dz_l                     delta_{l-1} = D_{l-1} W_l' delta_l
    K_l     = d delta_l / d z_l           K_{l-1} = D_{l-1} W_l' K_l W_l D_{l-1} + diag(f_{l-1}''(z_{l-1}) W_l' delta_l)
    J_ml    = d z_m / d z_l               J_ml = W_m D_{m-1} J_{m-1,l},  J_ll = I

The Gauss-Newton matrix is what is left with delta = 0, and with the loss's curvature in the outputs f_L(z_L), taken
between D_L, for K_L. First and second derivatives of f and of the loss are torch's own, so that kinks are decided as in
products. Where the loss is a sum over outputs, as a squared error is, K_L is kept as its diagonal: of an autoencoder's
784 outputs the whole would be 5 MB a sample.

Recognized, and nothing else: `nn.Sequential` of `nn.Linear`, elementwise modules without parameters and, in front, one
`nn.Flatten`; all as torch defines them (no hooks, parametrizations, subclasses, shared parameters); inputs one tensor,
outputs (n, C); any loss that `Problem` takes and that torch.func can differentiate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.structure.facts import altered

ELEMENTWISE = (
    nn.CELU,
    nn.Dropout,  # in eval mode: a problem refuses it otherwise
    nn.ELU,
    nn.GELU,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
)


ASKED = 4
"""Samples that show whether the loss is a sum over outputs."""


@dataclass(frozen=True)
class Layer:
    """One Linear module and the elementwise modules behind it."""

    weight: Tensor  # W_l (n_l, n_{l-1})
    bias: Tensor | None  # b_l (n_l,)
    behind: tuple[nn.Module, ...]  # f_l, in order
    coordinates: Tensor  # (n_l, w) where the selected parameters of each unit are in theta: its row of W_l, then b_l
    inner: bool  # whether W_l is selected
    constant: bool  # whether b_l is

    @property
    def units(self) -> int:
        """n_l."""
        return len(self.weight)

    @property
    def features(self) -> int:
        """w, the selected parameters of one unit; 0 where the layer is frozen."""
        return self.coordinates.shape[1]

    def activation(self, z: Tensor) -> Tensor:
        """f_l(z); a copy, as modules may work in place."""
        z = z.clone()
        for module in self.behind:
            z = module(z)
        return z

    def augmented(self, a: Tensor) -> Tensor:
        """(s, w) from a_{l-1} (s, n_{l-1}): the derivative of z_l,i in the selected parameters of unit i, any i."""
        return torch.cat([a[:, : a.shape[1] * self.inner], a.new_ones(len(a), int(self.constant))], dim=1)


@dataclass(frozen=True)
class Samples:
    """What the Hessian needs to know of s samples; one entry a layer, l = 1..L."""

    inputs: list[Tensor]  # a_{l-1} (s, n_{l-1})
    slopes: list[Tensor]  # f_l'(z_l) (s, n_l), l < L
    gradients: list[Tensor]  # delta_l (s, n_l); 0 for Gauss-Newton
    curvatures: list[Tensor]  # K_l (s, n_l, n_l), or its diagonal (s, n_l)


def recognize(problem: Problem) -> list[Layer]:
    """The layers of a recognized network; none where the problem is anything else."""
    if problem.in_place:  # no transform sees through the model or the loss
        return []
    if type(problem) is not Problem or type(problem.model) is not nn.Sequential or problem.output_dimensions != 2:
        return []
    if problem.in_place:  # no transform of torch.func sees through the model or the loss
        return []
    named = list(problem.model._modules.items())  # a module that is used twice is there twice
    while named and type(named[0][1]) in (nn.Flatten, nn.Identity):
        named.pop(0)
    places = [k for k, (_, module) in enumerate(named) if type(module) is nn.Linear]
    plain = all(type(module) in (nn.Linear, *ELEMENTWISE) for _, module in named)
    if not plain or places[:1] != [0] or altered([problem.model, problem.loss]):
        return []
    owned = [id(p) for k in places for p in named[k][1].parameters()]
    if len(set(owned)) < len(owned):
        return []
    state = {**problem.frozen, **problem.unflatten(problem.theta)}
    ends = [*places[1:], len(named)]
    behind = [tuple(module for _, module in named[k + 1 : end]) for k, end in zip(places, ends, strict=True)]
    return [_layer(problem, state, named[k][0], modules) for k, modules in zip(places, behind, strict=True)]


def flat_inputs(problem: Problem, batch: Batch) -> Tensor | None:
    """a_0 (s, n_0), or None where the inputs have another form."""
    if not isinstance(batch.inputs, Tensor):
        return None
    x = batch.inputs
    for module in problem.model.children():
        if type(module) not in (nn.Flatten, nn.Identity):
            break
        x = module(x)
    return x if x.ndim == 2 else None


def separable(problem: Problem, layers: list[Layer]) -> bool:
    """Whether the loss is a sum over outputs, so that its curvature in z_L is diagonal.

    Asked of a few samples, at random z_L: no product with a mask may lead out of the mask, and some mask, that of a
    bit of their numbers, parts any two outputs. No where all products are zero, as of samples that are ignored. That is
    a test, not a proof: who builds on it compares with products.
    """
    generator = torch.Generator().manual_seed(0)
    with problem.evaluating():
        batch = next(problem.batches(ASKED))
        shape = problem.outputs(problem.theta, batch).shape
        z = torch.randn(shape, generator=generator).to(problem.theta)
        gradient = grad(lambda z: problem.share_of(layers[-1].activation(z), batch))
        numbers = torch.arange(shape[1], device=z.device)
        curved: bool = shape[1] == 1
        for bit in range((shape[1] - 1).bit_length()):
            inside = (numbers >> bit & 1).to(z)
            product = grad(lambda z, mask=inside: (gradient(z) * mask).sum())(z)
            if bool((product * (1 - inside) != 0).any()):
                return False
            curved = curved or bool((product != 0).any())
    return curved


def evaluate(
    problem: Problem, layers: list[Layer], batch: Batch, x: Tensor, *, residual: bool, diagonal: bool
) -> Samples:
    """Forward through the layers, then backward to delta_l and K_l; `diagonal` if the loss is `separable`."""
    inputs, slopes, bends = [x], list[Tensor](), list[Tensor]()
    for layer in layers[:-1]:
        z = nn.functional.linear(inputs[-1], layer.weight, layer.bias)
        inputs.append(layer.activation(z))
        slope, bend = _derivatives(layer, z)
        slopes.append(slope)
        bends.append(bend)
    last = layers[-1]
    outputs = nn.functional.linear(inputs[-1], last.weight, last.bias)
    curvature_at = _diagonal_curvature if diagonal else _loss_curvature
    if residual:
        gradient = grad(lambda z: problem.share_of(last.activation(z), batch))
        gradients, curvatures = [gradient(outputs)], [curvature_at(gradient, outputs)]
    else:  # what is behind the last Linear module belongs to the network, not to the loss
        slope = _derivatives(last, outputs)[0]
        curvature = curvature_at(grad(lambda y: problem.share_of(y, batch)), last.activation(outputs))
        gradients, curvatures = [torch.zeros_like(outputs)], [_between(slope, curvature)]
    for layer, slope, bend in zip(layers[:0:-1], slopes[::-1], bends[::-1], strict=True):
        back = gradients[0] @ layer.weight
        inner = curvature_times(curvatures[0], layer.weight).mT @ layer.weight
        curvature = _between(slope, inner)
        curvature.diagonal(dim1=1, dim2=2).add_(bend * back)
        gradients.insert(0, slope * back)
        curvatures.insert(0, curvature)
    return Samples(inputs, slopes, gradients, curvatures)


def curvature_times(curvature: Tensor, matrix: Tensor) -> Tensor:
    """K B (s, n, k) for K (s, n, n), symmetric, or its diagonal (s, n), and B (n, k) or (s, n, k)."""
    return curvature[:, :, None] * matrix if curvature.ndim == 2 else curvature @ matrix


def _between(slope: Tensor, curvature: Tensor) -> Tensor:
    """D K D."""
    if curvature.ndim == 2:
        return slope.square() * curvature
    return slope[:, :, None] * curvature * slope[:, None, :]


def _layer(problem: Problem, state: dict[str, Tensor], name: str, behind: tuple[Any, ...]) -> Layer:
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    positions = torch.arange(problem.size, device=problem.device)
    chosen = [
        positions[problem.ranges[f"{name}.{kind}"]].reshape(len(weight), -1)
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in problem.ranges
    ]
    none = positions[:0].reshape(len(weight), 0)
    inner, constant = (f"{name}.{kind}" in problem.ranges for kind in ("weight", "bias"))
    return Layer(weight, bias, behind, torch.cat([none, *chosen], dim=1), inner, constant)


def _derivatives(layer: Layer, z: Tensor) -> tuple[Tensor, Tensor]:
    """f_l'(z) and f_l''(z), elementwise."""
    slope = grad(lambda z: layer.activation(z).sum())
    return slope(z), grad(lambda z: slope(z).sum())(z)


def _loss_curvature(gradient: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """K_L (s, C, C), a column for each output: samples do not interact."""
    columns = [grad(lambda z, c=c: gradient(z)[:, c].sum())(outputs) for c in range(outputs.shape[1])]
    return torch.stack(columns, dim=2)


def _diagonal_curvature(gradient: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """The diagonal of K_L (s, C), from one product."""
    diagonal: Tensor = grad(lambda z: gradient(z).sum())(outputs)
    return diagonal
