"""Inputs that are zero in all the data, taken out of the network: products skip them.

An input feature that is always zero multiplies its weights by zero: their rows and columns of every curvature matrix
are zero. A first layer without these features has the same outputs, and its matrix is the principal submatrix at the
other parameters.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.operator import Operator, Restricted
from lanczos_saddle.structure.facts import altered


def without_coordinates(operator: Operator, dead: Tensor) -> Operator:
    """The principal submatrix without the dead coordinates, (N,) bool; by cheaper products where inputs are blank."""
    if not bool(dead.any()):
        return operator
    reduced = without_blank_inputs(operator)
    if reduced is not None and bool((dead | reduced[1]).all()):
        operator, dead = reduced[0], dead[reduced[1]]
    return Restricted(operator, (~dead).nonzero().squeeze(1)) if bool(dead.any()) else operator


def without_blank_inputs(curvature: object) -> tuple[Curvature, Tensor] | None:
    """The same matrix at the parameters that see an input, and which of the N these are, (N,) bool.

    None where there is no such input, or where nothing is known: recognized are a `Hessian` and a `GaussNewton` of an
    `nn.Sequential`, as torch defines it, that starts with an `nn.Linear` on one tensor of inputs (n, features).

    Cost: a copy of the inputs.
    """
    if type(curvature) not in (Hessian, GaussNewton):
        return None
    assert isinstance(curvature, Curvature)
    problem = curvature.problem
    if not isinstance(problem, Problem):
        return None
    model, batch = problem.model, problem.data.resident
    if type(model) is not nn.Sequential or batch is None or not isinstance(batch.inputs, Tensor):
        return None
    inputs, name = batch.inputs, f"{next(iter(model._modules), '')}.weight"
    first = next(iter(model), None)
    if type(first) is not nn.Linear or name not in problem.ranges or inputs.ndim != 2 or altered([model]):
        return None
    seen = (inputs != 0).any(dim=0)
    if bool(seen.all()) or not bool(seen.any()) or _shared(model, first):
        return None
    kept = torch.ones(problem.size, dtype=torch.bool, device=problem.device)
    kept[problem.ranges[name]] = seen.repeat(first.out_features)
    with turn(), torch.random.fork_rng(devices=[]):
        narrow = nn.Linear(int(seen.sum()), first.out_features, first.bias is not None)
    modules = OrderedDict(model._modules | {name.removesuffix(".weight"): narrow})  # a module may be there twice
    smaller = nn.Sequential(modules).train(model.training)
    for parameter, old in zip(narrow.parameters(), first.parameters(), strict=True):
        parameter.requires_grad_(old.requires_grad)
    reduced = type(curvature)(
        smaller,
        problem.loss,
        (inputs[:, seen], batch.targets),
        parameters=list(problem.names),
        dtype=problem.dtype,
        device=problem.device,
        batch_weight=problem.batch_loss.batch_weight,
        memory=curvature.memory,
    )
    reduced.problem.theta = problem.theta[kept]
    reduced.problem.batch_loss = problem.batch_loss
    for frozen, value in problem.frozen.items():
        if frozen != name:
            reduced.problem.frozen[frozen] = value
    return reduced, kept


def _shared(model: nn.Sequential, first: nn.Linear) -> bool:
    """Whether a parameter of the first layer is used a second time."""
    own = {id(p) for p in first.parameters()}
    uses = (id(p) in own for child in model for m in child.modules() for p in m._parameters.values())
    return sum(uses) > len(own)
