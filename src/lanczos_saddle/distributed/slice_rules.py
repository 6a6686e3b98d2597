"""What torch's operations do to tensors of which every rank has a slice along one dimension.

    x + y, a * x, ...   sums and the like of entries        each rank its own
    x'y, |x|, X'Y       sums over coordinates               each rank its own part; put together on rank 0
    x[:, 0], x.mT, ...  views                               each rank its own; the dimension moves

`placed` says where the sliced dimension of a result is, or how parts are put together. An operation without a rule is
refused: that of one rank alone would be a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Own:
    """In place of N among sizes: how many coordinates each rank has."""

    sizes: Sizes


@dataclass(frozen=True)
class Placed:
    """What is done by each rank, and with what it gets."""

    args: tuple[Any, ...]
    along: int | None  # the sliced dimension of the result; None where parts are put together
    together: str = ""  # "sum", "norm", "all", "any"
    sizes: Sizes | None = None  # of the result, where they are not those of what it is made of


Rule = Callable[[str, tuple[Any, ...], dict[str, Any]], Placed]


def placed(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    """What the operation does, by its name without the underscore of those in place; raises ValueError for others."""
    rule = RULES.get(stem)
    if rule is None:
        raise refusal(stem)
    return rule(stem, args, kwargs)


def refusal(what: str) -> ValueError:
    """For what nobody has said how to do."""
    return ValueError(
        f"vectors in slices over ranks do not know {what}: data_parallel keeps whole vectors on rank 0, where "
        "everything works"
    )


def sliced(operands: Any) -> Iterator[Any]:
    """Those that are in slices, in lists too."""
    for one in operands:
        if isinstance(one, list | tuple):
            yield from sliced(one)
        elif hasattr(one, "sizes"):
            yield one


def _require(condition: bool, stem: str) -> None:
    if not condition:
        raise refusal(f"{stem} along the sliced dimension, or with a whole tensor")


def _entries(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    """Of entries in the same place: what is in slices is so in the same ones, what is not has one entry there."""
    operands: list[Any] = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
    dims = max(one.ndim for one in operands)
    first = next(sliced(operands))
    from_right = first.ndim - first.along
    for one in operands:
        if hasattr(one, "sizes"):
            _require(one.ndim - one.along == from_right and one.sizes == first.sizes, stem)
        else:
            _require(one.ndim < from_right or one.shape[one.ndim - from_right] == 1, stem)
    return Placed(args, dims - from_right)


def _over(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    """Over some dimensions, or all."""
    x = args[0]
    at = 2 if stem == "linalg_vector_norm" else 1
    given = args[at] if len(args) > at else kwargs.get("dim")
    keep = args[at + 1] if len(args) > at + 1 else kwargs.get("keepdim", False)
    dims = range(x.ndim) if given is None or given == [] else [d % x.ndim for d in _listed(given)]
    if x.along in dims:
        return Placed(args, None, {"sum": "sum", "linalg_vector_norm": "norm"}.get(stem, stem))
    return Placed(args, x.along if keep else x.along - sum(d < x.along for d in dims))


def _listed(given: Any) -> Sequence[int]:
    return [given] if isinstance(given, int) else given


PRODUCTS = {
    "mm": "ik,kj,ij",
    "mv": "ik,k,i",
    "bmm": "bik,bkj,bij",
    "dot": "k,k,",
    "addmm": "ik,kj,ij",
    "addmv": "ik,k,i",
}
"""Indices of two factors and of their product; what is added to is like the product."""


def _product(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    """A sum over one index: over that of the slices, or one that each rank has whole."""
    first, second, result = PRODUCTS[stem].split(",")
    added, factors = (args[:1], args[1:3]) if stem.startswith("add") else ((), args[:2])
    operands = [*zip(factors, (first, second), strict=True), *((one, result) for one in added)]
    operands += [(kwargs["out"], result)] if "out" in kwargs else []
    index = {names[one.along] for one, names in operands if hasattr(one, "sizes")}
    sizes = {one.sizes for one, _ in operands if hasattr(one, "sizes")}
    _require(len(index) == len(sizes) == 1, stem)
    (along,) = index
    _require(all(hasattr(one, "sizes") == (along in names) for one, names in operands), stem)
    if along in result:
        return Placed(args, result.index(along))
    _require(not added and "out" not in kwargs, stem)
    return Placed(args, None, "sum")


def _joined(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    """Side by side, along another dimension than the sliced one."""
    parts = args[0]
    _require(all(hasattr(one, "sizes") for one in parts) and len({(one.along, one.sizes) for one in parts}) == 1, stem)
    dims, own = parts[0].ndim + (stem == "stack"), parts[0].along
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % dims
    if stem == "stack":
        return Placed(args, own + (dim <= own))
    _require(dim != own, stem)
    return Placed(args, own)


def _transposed(_: str, args: tuple[Any, ...], __: dict[str, Any]) -> Placed:
    x = args[0]
    one, other = (d % x.ndim for d in args[1:3]) if len(args) > 1 else (0, x.ndim - 1)
    return Placed(args, other if x.along == one else one if x.along == other else x.along)


def _selected(stem: str, args: tuple[Any, ...], _: dict[str, Any]) -> Placed:
    """One dimension less, or a part of one; in `unbind` each entry of the first one by itself."""
    x = args[0]
    dim = (args[1] if len(args) > 1 else 0) % x.ndim
    _require(dim != x.along or (stem == "slice" and _all_of(x, *args[2:])), stem)
    return Placed(args, x.along if stem == "slice" else x.along - (dim < x.along))


def _all_of(x: Any, start: int | None = None, stop: int | None = None, step: int = 1) -> bool:
    return start in (None, 0) and (stop is None or stop >= x.shape[x.along]) and step == 1


def _split(stem: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Placed:
    x = args[0]
    _require((args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.ndim != x.along, stem)
    return Placed(args, x.along)


def _unsqueezed(_: str, args: tuple[Any, ...], __: dict[str, Any]) -> Placed:
    x = args[0]
    return Placed(args, x.along + (args[1] % (x.ndim + 1) <= x.along))


def _squeezed(stem: str, args: tuple[Any, ...], _: dict[str, Any]) -> Placed:
    x = args[0]
    dim = args[1] % x.ndim
    _require(dim != x.along, stem)
    return Placed(args, x.along - (x.shape[dim] == 1 and dim < x.along))


def _expanded(_: str, args: tuple[Any, ...], __: dict[str, Any]) -> Placed:
    x, shape = args[0], list(args[1])
    dim = x.along + len(shape) - x.ndim
    shape[dim] = Own(x.sizes)
    return Placed((x, shape, *args[2:]), dim)


def _viewed(stem: str, args: tuple[Any, ...], _: dict[str, Any]) -> Placed:
    """In another shape, in which N is a dimension still, of as many numbers before it."""
    x, shape = args[0], list(args[1])
    if -1 in shape:
        shape[shape.index(-1)] = x.numel() // -prod(shape) if prod(shape) else 0
    before, size = prod(x.shape[: x.along]), x.shape[x.along]
    fits = [d for d, n in enumerate(shape) if n == size and prod(shape[:d]) == before]
    _require(bool(fits), stem)
    shape[fits[0]] = Own(x.sizes)
    return Placed((x, shape, *args[2:]), fits[0])


def _indexed(stem: str, args: tuple[Any, ...], _: dict[str, Any]) -> Placed:
    """Some coordinates of each slice, by an index into it that is in slices, too."""
    x, (*others, index) = args[0], args[1]
    _require(hasattr(x, "sizes") and hasattr(index, "sizes") and not any(others), stem)
    _require(len(others) == x.along and index.ndim == 1, stem)
    if stem == "index_put" and isinstance(args[2], Tensor) and args[2].ndim:
        _require(getattr(args[2], "sizes", None) == index.sizes, stem)
    return Placed(args, x.along, sizes=x.sizes if stem == "index_put" else index.sizes)


ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "neg", "abs", "pow", "sqrt", "addcmul", "addcdiv")
COMPARED = ("where", "eq", "ne", "lt", "le", "gt", "ge", "logical_not", "bitwise_not", "bitwise_and", "bitwise_or")
FILLED = ("masked_fill", "copy", "_to_copy", "clone", "detach", "alias", "empty_like", "zeros_like", "fill", "zero")
VIEWS: dict[str, Rule] = {
    "transpose": _transposed,
    "t": _transposed,
    "select": _selected,
    "slice": _selected,
    "unbind": _selected,
    "split": _split,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
    "view": _viewed,
    "_unsafe_view": _viewed,
}
RULES: dict[str, Rule] = {
    **dict.fromkeys((*ARITHMETIC, *COMPARED, *FILLED), _entries),
    **dict.fromkeys(("sum", "linalg_vector_norm", "all", "any"), _over),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(("index", "index_put"), _indexed),
    **VIEWS,
}
"""By the name of an operation of torch, without the underscore at its end."""
