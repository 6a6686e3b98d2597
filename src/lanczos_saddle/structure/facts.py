"""Exact facts about the Hessians of networks, at any parameters (docs/method.md, with proofs).

dead coordinates   rows of H that are identically zero: dropping them changes no other eigenvalue
negative_bound     an upper bound on the number of negative eigenvalues, from the architecture and the loss
convex_block       the parameters in which the loss is convex piece by piece: their block of H is positive semidefinite
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils.parametrize import is_parametrized

from lanczos_saddle.machine.progress import during, made
from lanczos_saddle.networks.gauss_newton import GaussNewton
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.networks.problem import Problem
from lanczos_saddle.operators.knowledge import ConvexBlock
from lanczos_saddle.operators.leading import led
from lanczos_saddle.operators.operator import as_operator
from lanczos_saddle.operators.vectors import gaussian

PIECEWISE_LINEAR = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Flatten)
CONVEX_LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.BCEWithLogitsLoss)
NONNEGATIVE_LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss)
CONVEX_FUNCTIONS = (nn.functional.cross_entropy, nn.functional.mse_loss)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
CALLS = {"forward", "_call_impl", "_wrapped_call_impl"}  # what an instance may override


@led
@during("dead coordinates", lambda *_, **__: 2)
def dead_coordinates(operator: Any, *, generator: torch.Generator | None = None) -> Tensor:
    """(N,) bool: coordinates whose row of H is zero; two products.

    For a nonzero row h_j, h_j'g vanishes for a Gaussian g with probability 0; it is asked of two independent g.
    In a network: a pixel that is 0 in all the data times every unit it feeds; a unit that never fires.
    """
    operator = as_operator(operator)
    generator = generator or torch.Generator().manual_seed(0)
    probes = gaussian(operator, 2, generator)
    dead: Tensor = ((operator @ probes.to(operator.device, operator.dtype)) == 0).all(dim=1)
    made(2)
    return dead


def negative_bound(problem: Any) -> tuple[int, str] | None:
    """(bound, reason) on the negative eigenvalues of a Hessian or its problem, or None where nothing is known.

    With piecewise-linear activations and a loss that is convex in the outputs, the outputs are affine in each
    layer's own parameters, so every layer's diagonal block is positive semidefinite and

        negative <= N - max_l N_l.

    With one hidden ReLU layer of h units and softmax cross-entropy over C classes the residual part of the Hessian
    is a sum of h blocks, each with as many negative as positive eigenvalues and of rank <= min(d + 1, C - 1, n_j):
    residuals sum to zero over the classes, and block j is a sum over the n_j samples that fire unit j. With
    negative(G + R) <= negative(R) for G positive semidefinite:

        negative <= sum over units of min(d + 1, C - 1, n_j) <= h min(d + 1, C - 1).

    Both survive the selection of parameters (interlacing). Recognized: a `Problem` (no subclass) whose model is an
    `nn.Sequential` of Linear and piecewise-linear modules and whose loss is one of torch's own convex losses, all as
    torch defines them: no hooks, no parametrizations, no `forward` of an instance's own. Class weights must not be
    negative; soft targets of cross-entropy must not be, and with `pos_weight` targets must lie in [0, 1]: the data
    are passed over once for that, without evaluation, and once through the first layer to count the n_j.
    """
    problem = problem_of(problem)
    seen = look(problem)
    return None if seen is None else bound_of(problem, seen)


def problem_of(given: Any) -> Any:
    """The problem of a `Hessian` or a `GaussNewton` (a subclass may multiply by something else); others as they are."""
    return given.problem if type(given) in (Hessian, GaussNewton) else given


@dataclass(frozen=True)
class Recognized:
    """A piecewise-linear network with a convex loss, after one pass over its data."""

    model: nn.Sequential
    layers: list[nn.Linear]
    fired: Tensor | None  # (h,) samples on which each unit fires, of one hidden ReLU layer under softmax


def look(problem: Any) -> Recognized | None:
    """The network of a problem if its structure is one that `negative_bound` recognizes; one pass over the data."""
    if type(problem) is not Problem or type(problem.model) is not nn.Sequential:
        return None
    model: nn.Sequential = problem.model
    layers = _layers(model)
    if not layers or altered([model, problem.loss]) or not _convex_weights(problem):
        return None
    fit = _wanted_targets(problem)
    # classes along the last dimension of the outputs: for more dimensions torch takes them along the second
    counted = problem.output_dimensions == 2 and _is_softmax(problem.loss) and _one_hidden(model)
    fired = torch.zeros(layers[0].out_features, dtype=torch.int64, device=problem.device) if counted else None
    front = _front(problem, model, layers[0]) if counted else None
    if fit is not None or front is not None:
        with problem.evaluating():
            for batch in problem.batches():
                if fit is not None and not (isinstance(batch.targets, Tensor) and fit(batch.targets)):
                    return None
                if fired is not None and front is not None:
                    fired += front(batch)
    return Recognized(model, layers, fired)


def bound_of(problem: Problem, seen: Recognized) -> tuple[int, str]:
    """`negative_bound` of a network that was looked at."""
    bounds = [_layer_bound(problem, seen.model)]
    if seen.fired is not None:
        bounds.append(_unit_bound(seen.fired, *seen.layers))
    return min(bounds)


def nonnegative_loss(problem: Any, *, convex: bool = False) -> bool:
    """Whether the loss is known to be at least 0, for the weights and targets at hand: some of torch's own are.

    `convex`: that it is convex for these is known already; asked of softmax otherwise, in one pass.
    """
    if type(problem) is not Problem or altered([problem.loss]):
        return False
    loss = problem.loss
    known = type(loss) in NONNEGATIVE_LOSSES or loss in CONVEX_FUNCTIONS
    return known and (not _is_softmax(loss) or convex or _convex(problem))


KINKED = (
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.ELU, nn.CELU, nn.SELU, nn.Threshold),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Softsign),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.HingeEmbeddingLoss, nn.MarginRankingLoss, nn.MultiMarginLoss),
    *(nn.MultiLabelMarginLoss, nn.TripletMarginLoss, nn.CosineEmbeddingLoss),
)
"""Modules whose first or second derivative jumps, and with it H: with these no rho serves all of the space."""


def kinked(problem: Problem) -> str | None:
    """The class of a module of the model or the loss that has a kink, or None where no such module is seen.

    A function that is called within a `forward` is not seen: None proves nothing.
    """
    roots = [root for root in (problem.model, problem.loss) if isinstance(root, nn.Module)]
    found = (type(module).__name__ for root in roots for module in root.modules() if isinstance(module, KINKED))
    return next(found, None)


def convex_block(problem: Any, layer: str | None = None) -> ConvexBlock | None:
    """The block of one layer, by its module's name, or the largest such block; None where nothing is known.

    Each piece of a piecewise-linear network is affine in the weights of one layer together with its bias and the
    biases of all later layers, since no path through the network meets two of these: with J the Jacobian of the
    outputs in them and S >= 0 the Hessian of the loss in the outputs, their block of H is J'SJ >= 0 exactly.
    Recognized are the problems of `negative_bound`. Raises ValueError for a layer that is not a Linear module of such
    a model, or none of whose parameters is selected.
    """
    seen = look(problem)
    return None if seen is None else block_of(problem, seen, layer)


def block_of(problem: Problem, seen: Recognized, layer: str | None = None) -> ConvexBlock:
    """`convex_block` of a network that was looked at."""
    model = seen.model
    linear = [name for name, module in model.named_children() if type(module) is nn.Linear]
    blocks = {}
    for position, name in enumerate(linear):
        own = {f"{name}.weight", *(f"{later}.bias" for later in linear[position:])}
        blocks[name] = tuple(n for n in problem.names if n in own)
    blocks = {name: names for name, names in blocks.items() if any(n.rpartition(".")[0] == name for n in names)}
    if layer is not None and layer not in blocks:
        raise ValueError(
            f"layer must be a Linear module with selected parameters, one of {list(blocks)}; got {layer!r}"
        )
    chosen = layer or max(blocks, key=lambda name: sum(problem.sizes[n] for n in blocks[name]))
    inside = torch.zeros(problem.size, dtype=torch.bool)
    for name in blocks[chosen]:
        inside[problem.ranges[name]] = True
    index, rest = (mask.nonzero().squeeze(1).to(problem.device) for mask in (inside, ~inside))
    return ConvexBlock(chosen, blocks[chosen], index, rest)


def _layers(model: nn.Sequential) -> list[nn.Linear]:
    """The Linear modules of a piecewise-linear network; none where it is not one, or where layers share parameters."""
    # exact types: a subclass may be another function
    layers = [module for module in model if type(module) is nn.Linear]
    others = [module for module in model if type(module) is not nn.Linear]
    owned = [id(p) for layer in layers for p in layer.parameters()]
    known = all(type(module) in PIECEWISE_LINEAR for module in others)
    return layers if known and len(set(owned)) == len(owned) else []


def altered(roots: Iterable[Any]) -> bool:
    """Whether calling these modules may do something else than their classes say."""
    modules = [module for root in roots if isinstance(root, nn.Module) for module in root.modules()]
    return bool(_has_any_global_hook()) or any(  # type: ignore[no-untyped-call]
        any(getattr(module, name) for name in HOOKS) or CALLS & vars(module).keys() or is_parametrized(module)
        for module in modules
    )


def _layer_bound(problem: Problem, model: nn.Sequential) -> tuple[int, str]:
    """N - max_l N_l over the selected parameters, by the module that owns each."""
    owned: dict[str, int] = {}
    parameters = dict(model.named_parameters())
    for name in problem.names:
        layer = name.rpartition(".")[0]
        owned[layer] = owned.get(layer, 0) + parameters[name].numel()
    largest = max(owned, key=lambda layer: owned[layer])
    return sum(owned.values()) - owned[largest], f"the diagonal block of layer {largest!r} is positive semidefinite"


def _one_hidden(model: nn.Sequential) -> bool:
    """Linear, ReLU, Linear, every unit used once a sample.

    Flatten may only come first: behind a Linear it joins positions that share a unit, or makes classes of them.
    """
    kinds = [type(module) for module in model if type(module) is not nn.Identity]
    while kinds[0] is nn.Flatten:
        kinds.pop(0)
    return kinds == [nn.Linear, nn.ReLU, nn.Linear]


def _unit_bound(fired: Tensor, first: nn.Linear, last: nn.Linear) -> tuple[int, str]:
    rank = min(first.in_features + (first.bias is not None), last.out_features - 1)
    living = int((fired > 0).sum())
    units = f"{living} hidden units" + (f" of {len(fired)} that fire" if living < len(fired) else "")
    return int(fired.clamp(max=rank).sum()), f"{units} x min(inputs + 1, classes - 1) = {rank}"


def _front(problem: Problem, model: nn.Sequential, first: nn.Linear) -> Callable[[Any], Tensor]:
    """Batch -> (h,) samples on which each unit of the first layer fires; where rounding may decide, it does."""
    place = next(i for i, module in enumerate(model) if module is first)
    front = nn.Sequential(OrderedDict(list(model._modules.items())[: place + 1]))  # the names stay
    state = {**problem.frozen, **problem.unflatten(problem.theta)}
    own = {name: state[name] for name, _ in front.named_parameters()}

    def fired(batch: Any) -> Tensor:
        inputs = tuple(batch.inputs) if isinstance(batch.inputs, tuple | list) else (batch.inputs,)
        z = functional_call(front, own, inputs)
        found: Tensor = (z > -(torch.finfo(z.dtype).eps ** 0.5) * z.abs().max()).sum(0)
        return found

    return fired


def _convex(problem: Problem) -> bool:
    """Whether the loss is convex in the outputs, for the weights and targets at hand."""
    fit = _wanted_targets(problem)
    return _convex_weights(problem) and (fit is None or _all_targets(problem, fit))


def _convex_weights(problem: Problem) -> bool:
    """Whether the loss is convex in the outputs for its weights, whatever the targets are that it allows."""
    loss = problem.loss
    if not (type(loss) in CONVEX_LOSSES or loss in CONVEX_FUNCTIONS):
        return False
    return not any(isinstance(t, Tensor) and not bool((t >= 0).all()) for t in _weights(problem))


def _wanted_targets(problem: Problem) -> Callable[[Tensor], bool] | None:
    """What targets must be for that; None where all serve."""
    if _is_softmax(problem.loss):
        return lambda t: not t.is_floating_point() or bool((t >= 0).all())  # class indices, or shares of them
    return None if _weights(problem)[1] is None else lambda t: bool(((t >= 0) & (t <= 1)).all())


def _weights(problem: Problem) -> tuple[Any, Any]:
    """(weight, pos_weight): the copies with which the problem calls the loss; what was None then is the loss's own."""
    weight, positive = (
        problem.batch_loss.state.get(key, getattr(problem.loss, key, None)) for key in ("weight", "pos_weight")
    )
    return weight, positive


def _all_targets(problem: Problem, fit: Callable[[Tensor], bool]) -> bool:
    """Whether the targets of every batch fit; one pass."""
    with problem.evaluating():
        return all(isinstance(batch.targets, Tensor) and fit(batch.targets) for batch in problem.batches())


def _is_softmax(loss: Any) -> bool:
    return type(loss) is nn.CrossEntropyLoss or loss is nn.functional.cross_entropy
