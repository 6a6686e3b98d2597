"""Which modules have their parameters collected, and when: a model of placeholders that evaluates.

a layer     owns parameters, and no module inside it does: evaluated with its parameters whole, and again at every
            sweep (`layers`); also a module that uses parameters of modules inside it, with all of them
a shell     owns parameters beside modules that own some: its own are collected, and kept as long as activations are
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lanczos_saddle.networks.placement import DenseEmbeddings, WrittenOut
from lanczos_saddle.networks.refusals import MisuseError
from lanczos_saddle.networks.shards.gathers import Exchange, collect
from lanczos_saddle.networks.shards.layers import Call, layered
from lanczos_saddle.networks.shards.placeholders import Placeholder, Touched

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice, range)
"""What a layer may be given beside tensors: it hides none."""


class Unit:
    """A module and the parameters that are collected for it: (module, its name for it, its name in the model)."""

    def __init__(self, name: str, module: nn.Module, *, whole: bool) -> None:
        self.name, self.module, self.whole = name, module, whole
        inside = list(module.modules()) if whole else [module]
        self.places = [(m, key, p.parameter) for m in inside for key, p in placeholders(m)]
        self.names = tuple(dict.fromkeys(name for *_, name in self.places))

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """The parameters stand in their places for the block."""
        before = [(m, key, m._parameters[key]) for m, key, _ in self.places]
        try:
            for m, key, name in self.places:
                m._parameters[key] = values[name]  # type: ignore[assignment]
            yield
        finally:
            for m, key, p in before:
                m._parameters[key] = p


def units_of(model: nn.Module, whole: Sequence[str]) -> list[Unit]:
    """Every parameter in the module that owns it, or in the outermost of those that have theirs `whole`."""
    found: list[Unit] = []
    _add_units(model, "", set(whole), found)
    return found


def _add_units(module: nn.Module, name: str, whole: set[str], found: list[Unit], seen: set[int] | None = None) -> None:
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    own = bool(placeholders(module))
    inside = any(_owns(child) for child in module.children())
    if name in whole or (own and not inside):
        found.append(Unit(name, module, whole=True))
        seen.update(map(id, module.modules()))
        return
    if own:
        found.append(Unit(name, module, whole=False))
    for key, child in module.named_children():
        _add_units(child, f"{name}.{key}".lstrip("."), whole, found, seen)


def _owns(module: nn.Module) -> bool:
    return any(placeholders(m) for m in module.modules())


class Parts:
    """This rank's parts of all parameters, by name; those that are differentiated and the others."""

    def __init__(self, moving: Mapping[str, Tensor], frozen: Mapping[str, Tensor]) -> None:
        self.moving, self.frozen = moving, frozen


class Assembly:
    """A model of placeholders, its units, and how their parameters are collected.

    `plans[unit]` are the numbers by which the exchange knows (its parameters that move, its frozen ones).
    """

    def __init__(self, model: nn.Module, units: Sequence[Unit], exchange: Exchange, shapes: Mapping[str, torch.Size]):
        self.model, self.units, self.exchange, self.shapes = model, units, exchange, shapes
        self.plans: list[tuple[int, int]] = [(2 * i, 2 * i + 1) for i in range(len(units))]
        self.active: list[str] = []  # modules at work, by name
        self.functional = True  # layers by `Layer`; otherwise as they are, with what is collected

    def split(self, unit: Unit, parts: Parts) -> tuple[list[str], list[str]]:
        """(names that move, frozen ones)."""
        return [n for n in unit.names if n in parts.moving], [n for n in unit.names if n in parts.frozen]

    @contextmanager
    def assembled(self, parts: Parts) -> Iterator[None]:
        """The model's modules collect what they need of these parts while they are evaluated."""
        self.active.clear()
        with ExitStack() as stack:
            for index, unit in enumerate(self.units):
                stack.enter_context(_replaced(unit.module, self._forward(index, unit, parts)))
            known = {id(unit.module) for unit in self.units}
            for name, module in self.model.named_modules():
                if id(module) not in known and _owns(module):
                    stack.enter_context(_replaced(module, self._named(name, module)))
            yield

    def _named(self, name: str, module: nn.Module) -> Callable[..., Any]:
        """The module's forward, during which it is known to be at work."""
        forward = module.forward

        def within(*args: Any, **kwargs: Any) -> Any:
            with self._at_work(name):
                return forward(*args, **kwargs)

        return within

    @contextmanager
    def _at_work(self, name: str) -> Iterator[None]:
        """The module is known, and evaluated as ever: modes of the caller's do not reach into a backward pass."""
        self.active.append(name)
        try:
            with WrittenOut(), DenseEmbeddings():
                yield
        except Touched as touched:
            if not hasattr(touched, "within"):
                touched.within = tuple(self.active)  # type: ignore[attr-defined]
            raise
        finally:
            self.active.pop()

    def _forward(self, index: int, unit: Unit, parts: Parts) -> Callable[..., Any]:
        forward, (moving, frozen) = unit.module.forward, self.split(unit, parts)
        own, still = [parts.moving[n] for n in moving], [parts.frozen[n] for n in frozen]
        plan, other = self.plans[index]

        def values(weights: Sequence[Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                rest = collect(self.exchange, other, *still) if still else ()
            flat = dict(zip([*moving, *frozen], [*weights, *rest], strict=True))
            return {name: t.view(self.shapes[name]) for name, t in flat.items()}

        def held(*args: Any, **kwargs: Any) -> Any:
            with self._at_work(unit.name):
                weights = collect(self.exchange, plan, *own) if own else ()
                with unit.holding(values(weights)):
                    return forward(*args, **kwargs)

        def layer(*args: Any, **kwargs: Any) -> Any:
            leaves, form = pytree.tree_flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            _refuse_hidden(unit.name, "is given", leaves)
            shape: list[Any] = []

            given = [leaves[i] for i in places]
            rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            del args, kwargs, leaves

            def evaluate(weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
                whole, versions = list(rest), [x._version for x in inputs]
                for i, x in zip(places, inputs, strict=True):
                    whole[i] = x
                a, k = pytree.tree_unflatten(whole, form)
                with self._at_work(unit.name), unit.holding(values(weights)):
                    outputs, out_form = pytree.tree_flatten(forward(*a, **k))
                _refuse_hidden(unit.name, "returns", outputs)
                if versions != [x._version for x in inputs]:
                    raise MisuseError(
                        f"a layer whose weights are cut over ranks must leave its inputs alone; {unit.name!r} writes "
                        "into what it is given: write x = f(x) in place of what changes x itself"
                    )
                shape[:] = [outputs, out_form]
                return [y for y in outputs if isinstance(y, Tensor)]

            call = Call(self.exchange, plan, len(own), evaluate)
            made = iter(layered(call, *own, *given))
            outputs, out_form = shape
            shape[:] = []
            return pytree.tree_unflatten([next(made) if isinstance(y, Tensor) else y for y in outputs], out_form)

        return layer if unit.whole and self.functional else held


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = vars(module)
    before = own.get("forward")
    own["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            own.pop("forward", None)
        else:
            own["forward"] = before


def _refuse_hidden(name: str, does: str, leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *PLAIN)):
            raise MisuseError(
                f"a layer whose weights are cut over ranks is given tensors, and nests of them; {name!r} {does} "
                f"{type(leaf).__name__}: pass tensors, in tuples, lists or dicts"
            )


def enlarged(model: nn.Module, touched: Touched) -> str:
    """The innermost module at work that has the parameter inside: it is to be a layer with all that it has.

    Raises ValueError where that is the whole model, or where a module uses a parameter beside its own.
    """
    named = dict(model.named_modules())
    within = [name for name in getattr(touched, "within", ()) if _has(named[name], touched.name)]
    if not within or not within[-1]:
        user = f"module {within[-1]!r}" if within and within[-1] else "the model's own forward, a hook or the loss"
        raise ValueError(
            "weights that are cut over ranks are collected for the module that has them, when it is called; parameter "
            f"{touched.name!r} is used by {user}: call a module that has it (head.weight = embedding.weight ties two), "
            "or share the samples alone, data_parallel(Hessian(model, loss, share(data)))"
        )
    return str(within[-1])


def _has(module: nn.Module, name: str) -> bool:
    return any(p.parameter == name for m in module.modules() for _, p in placeholders(m))


def placeholders(module: nn.Module) -> list[tuple[str, Placeholder]]:
    """Those that a module has itself, under its names for them."""
    held: dict[str, Any] = dict(module._parameters)
    return [(key, p) for key, p in held.items() if isinstance(p, Placeholder)]
