"""Any scalar function of tensors as an `Objective`: a penalty, a physics-informed loss, a contrastive loss, an energy.

    L(theta) = sum_i c_i f_i(theta)

A function takes nothing, or the parameters as they were given (a module, a list, a dict). One that takes nothing refers
to the tensors by itself, and is differentiated by plain autograd with theta placed in them; one that takes the
parameters, or that calls a module whose parameters they are, can be had as a function of theta.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.batches import Batch
from lanczos_saddle.networks.comparison.differences import beside
from lanczos_saddle.networks.comparison.survey import Survey, first_calls, graph_of, together
from lanczos_saddle.networks.objective import SAMPLES, Objective
from lanczos_saddle.networks.parameters import (
    common_device,
    common_dtype,
    module_state,
    real_dtype,
    refuse_nonfinite,
    refuse_randomness,
    refuse_unready,
    select_parameters,
    unwrapped,
)
from lanczos_saddle.networks.placement import flat, pristine
from lanczos_saddle.networks.refusals import MisuseError, changing, device_of, quoted, way_out
from lanczos_saddle.operators.inference import differentiable, refuse_inference

Function = Callable[..., Tensor]

ALL = -1
"""In place of the number of a term: the sum of all."""


class FunctionObjective(Objective):
    """The sum of c_i f_i over functions of the parameters, at what the parameters hold now.

    Args:
        function: f() or f(parameters) -> 0-d tensor; or a list of functions, or of (weight, function).
        parameters: a module (its trainable parameters), or a list or dict of leaf tensors.
        dtype, device: of theta and products; the tensors' own when None. What else a function closes over has the
            tensors' own type, or that of theta; float32 constants are taken into float64 as they are (`lifting`).

    Cost: copies of the tensors, seven evaluations of each function.

    Raises ValueError where there is no trainable tensor, one is no leaf, not real, or not finite, and where a
    function does not give one finite real number, draws random numbers or fails.
    """

    @turn()
    @differentiable
    def __init__(
        self,
        function: Function | Sequence[Function] | Sequence[tuple[float, Function]],
        parameters: nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = unwrapped(parameters) if isinstance(parameters, nn.Module) else None
        self.given: Any = self.model if isinstance(parameters, nn.Module) else parameters
        if not isinstance(parameters, nn.Module | Mapping | Tensor | tuple):
            if not isinstance(parameters, Iterable) or isinstance(parameters, str):
                raise ValueError(
                    f"parameters are a module, or a list or dict of tensors; got {type(parameters).__name__}: pass the "
                    "model, or [tensor, ...]"
                )
            self.given = list(parameters)  # a generator, as of model.parameters(), gives its tensors once
        self.loss = self.terms = _terms(function)
        self.roots = (*((self.model,) if self.model is not None else ()), *_modules(self.terms))
        for root in self.roots:
            refuse_randomness(root)
        chosen = _chosen(self.given)
        self.dtype = common_dtype(chosen) if dtype is None else real_dtype(dtype)
        self.device = common_device(chosen) if device is None else device_of(device)
        self._take(chosen)
        self._live = chosen
        self.theta = flat(t.detach().to(self.device, self.dtype) for t in chosen.values()).clone()
        self.frozen = {}
        if self.model is not None:
            refuse_nonfinite(dict(self.model.named_parameters()))
            state = module_state(self.model, self.dtype, self.device)
            self.frozen = {name: t for name, t in state.items() if name not in chosen}
        refuse_nonfinite(chosen)
        self._takes = [_arguments(f) for _, f in self.terms]
        self.functional = self.model is not None or all(self._takes)
        self.output_dimensions = None
        self._try()

    @property
    def weight(self) -> float:
        """1: a sum is not divided."""
        return 1.0

    def live(self) -> dict[str, Tensor]:
        """The tensors that were given; of a module, its buffers and frozen parameters, too."""
        if self.model is None:
            return self._live
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def trial(self) -> Batch:
        """All terms (`split`)."""
        return _batch(ALL)

    def split(self, batch: Batch) -> list[Batch]:
        """Every term, where all are meant."""
        return list(self.batches()) if batch.inputs == ALL else [batch]

    def batches(self, limit: int = SAMPLES) -> Iterator[Batch]:  # noqa: ARG002
        """The terms, one after the other: none is cut."""
        return (_batch(i) for i in range(len(self.terms)))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """As of every objective; a closure may clear gradients, which are given back."""
        kept = [(t, t.grad) for t in self._live.values() if t.is_leaf]
        try:
            with super().evaluating():
                yield
        finally:
            for t, grad in kept:
                t.grad = grad

    def own_share(self, batch: Batch) -> Tensor:
        """c_i f_i at what the tensors hold."""
        return self._term(batch.inputs, self.given)

    def share(self, theta: Tensor, batch: Batch) -> Tensor:
        """c_i f_i as a function of theta."""
        parts = self.unflatten(theta)
        if self.model is None:
            given = parts if isinstance(self.given, Mapping) else _like(self.given, list(parts.values()))
            return self._term(batch.inputs, given)
        state = {f"model.{name}": t for name, t in {**self.frozen, **parts}.items()}
        with pristine(self.roots):
            result: Tensor = functional_call(_Around(self.model, self._term), state, (batch.inputs,))
        return result

    def _term(self, index: int, given: Any) -> Tensor:
        if index == ALL:
            return torch.stack([self._term(i, given) for i in range(len(self.terms))]).sum()
        weight, function = self.terms[index]
        value = function(given) if self._takes[index] else function()
        if not isinstance(value, Tensor) or value.ndim > 0 or not value.is_floating_point():
            got = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise MisuseError(f"a function must return one real number, a 0-d tensor; got {got}: {_scalar_of(value)}")
        return weight * value if weight != 1 else value

    def _try(self) -> None:
        """Evaluate every term once as it is called: what is wrong is said before work starts."""
        first = [self._first_calls(batch) for batch in self.batches()]
        self._settle()
        found = []
        for batch, plain in zip(self.batches(), first, strict=True):
            kept = self._first_calls(batch) if self.lifting else plain
            if kept:
                raise ValueError(
                    "a function must compute everything from the parameters at each call; what an earlier call "
                    f"computed is used again ({', '.join(kept)}): compute it anew, inside the function"
                )
            with self.evaluating(), torch.enable_grad():
                before = torch.get_rng_state()
                value, seen = self._attempt(batch)
                after = torch.get_rng_state()
            found.append(seen)
            if not math.isfinite(value):
                raise ValueError(f"the function must be finite at its parameters; got {value}")
            self._refuse_changing(batch, value, None if torch.equal(before, after) else after)
        self.survey = together(found)
        self.written_out, self.dense = self.survey.weight_norm, self.survey.sparse

    def _refuse_changing(self, batch: Batch, value: float, drawn: Tensor | None) -> None:
        """Raises ValueError where two evaluations at the same parameters differ, here or at a point nearby.

        `drawn`: the state of the generator after numbers were drawn; it comes again where a seed is set before that.
        """
        nearby, rule = beside(self), "a function must be deterministic"
        with self.evaluating(), torch.enable_grad():
            first, again, second = (self._nearby(batch, theta) for theta in (nearby, self.theta, nearby))
            seeded = drawn is None or torch.equal(drawn, torch.get_rng_state())
        slack = 1e3 * torch.finfo(self.dtype).eps
        different = [
            (one, other)
            for one, other in ((value, again), (first, second))
            if not abs(one - other) <= slack * (abs(one) + abs(other)) and math.isfinite(one + other)
        ]
        if drawn is not None and not (seeded and not different):
            raise ValueError(
                f"{rule}; it drew random numbers on evaluation: draw points and noise once, before, and let the "
                "function use them"
            )
        if different:
            raise ValueError(changing(rule, *different[0], ()))

    def _nearby(self, batch: Batch, theta: Tensor) -> float:
        """The value at another point, NaN where it cannot be had."""
        try:
            with self.placed_at(theta):
                return float(self.own_share(batch).detach())
        except torch.OutOfMemoryError:
            raise
        except Exception:  # outside of where the function is defined
            return math.nan

    def _first_calls(self, batch: Batch) -> list[str]:
        with self.evaluating():
            return first_calls(self, batch).kept

    def _attempt(self, batch: Batch) -> tuple[float, Survey]:
        try:
            with self.placed_at(self.theta):
                value = self.own_share(batch)
                return float(value.detach()), graph_of(value, self)
        except (torch.OutOfMemoryError, MisuseError):
            raise
        except Exception as error:
            raise ValueError(
                f"the function must evaluate in {self.dtype}; it raised {quoted(error)}"
                f"{way_out(error, self.dtype, whole=False)}"
            ) from error


class _Around(nn.Module):
    """A module whose forward pass is a function that may call the module inside."""

    def __init__(self, model: nn.Module, function: Callable[[int, Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._function = function

    def forward(self, index: int) -> Tensor:
        return self._function(index, self.model)


def _terms(function: Any) -> list[tuple[float, Function]]:
    """(weight, function) of every term. Raises ValueError for anything else."""
    listed = list(function) if isinstance(function, list | tuple) else [function]
    terms = [term if isinstance(term, tuple) else (1.0, term) for term in listed]
    for term in terms:
        if len(term) != 2 or not callable(term[1]) or not isinstance(term[0], int | float):
            raise ValueError(
                "a function, or a list of functions or of (weight, function), must be given; got "
                f"{type(function).__name__} with {tuple(type(t).__name__ for t in term)}"
            )
        if not math.isfinite(term[0]):
            raise ValueError(f"the weight of a function must be finite; got {term[0]}")
    if not terms:
        raise ValueError("at least one function must be given; got an empty list")
    return [(float(weight), f) for weight, f in terms]


def _scalar_of(value: Any) -> str:
    """How a 0-d tensor is made of what a function returned."""
    if isinstance(value, Tensor):
        return "return its real part" if value.is_complex() else "end it with .mean()"
    if isinstance(value, tuple | list):
        return "return the loss alone"
    return "return the tensor itself, without .item() or float()" if isinstance(value, float) else "return the loss"


def _modules(terms: Sequence[tuple[float, Function]]) -> list[nn.Module]:
    """Functions that are modules, or methods of modules."""
    owners = [f if isinstance(f, nn.Module) else getattr(f, "__self__", None) for _, f in terms]
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def _chosen(given: Any) -> dict[str, Tensor]:
    """The trainable tensors by name. Raises ValueError for what cannot be a parameter."""
    if isinstance(given, nn.Module):
        chosen: dict[str, Tensor] = dict(select_parameters(given, "*"))
        refuse_unready(given, chosen)
        return chosen
    if isinstance(given, Tensor):
        raise ValueError("parameters are a module, or a list or dict of tensors; got one tensor: put it in a list")
    named = dict(given) if isinstance(given, Mapping) else {str(i): t for i, t in enumerate(given)}
    for name, t in named.items():
        if isinstance(t, tuple):
            raise ValueError(
                f"parameters must be tensors; {name!r} is a tuple: pass dict(model.named_parameters()), or the model"
            )
        if not isinstance(t, Tensor):
            raise ValueError(f"parameters must be tensors; {name!r} is a {type(t).__name__}: convert it to a tensor")
        refuse_inference([(name, t)])
        if not t.is_leaf:
            raise ValueError(
                f"parameters must be leaves of the graph; {name!r} was computed from others: pass those, or "
                "t.detach().requires_grad_()"
            )
        if not t.is_floating_point():
            raise ValueError(f"parameters must be real floating-point tensors; {name!r} is {t.dtype}")
    if not named:
        raise ValueError("parameters must hold at least one tensor; got none")
    if len({id(t) for t in named.values()}) < len(named):
        raise ValueError("every parameter must be given once; got one tensor under several names")
    return named


def _arguments(function: Function) -> bool:
    """Whether the function takes the parameters: one positional argument without a default."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in taken if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(needed) > 1:
        raise ValueError(
            "a function takes nothing, or the parameters as they were given; got one with arguments "
            f"{[p.name for p in needed]}: wrap it, lambda: f(...)"
        )
    return bool(needed)


def _like(given: Any, parts: list[Tensor]) -> Any:
    """The parts in a container of the kind that was given."""
    return tuple(parts) if isinstance(given, tuple) else parts


def _batch(index: int) -> Batch:
    return Batch(index, None, 1, 1.0, divisible=False)
