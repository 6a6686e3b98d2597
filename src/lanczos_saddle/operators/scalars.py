"""Numbers that callers pass: taken by value, whatever they are called, and refused by name.

600, 600.0, NumPy's and 0-d tensors are numbers; True, "600", and 600.5 where a whole number is meant are none.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor


def real(name: str, value: Any) -> float:
    """The value as a float, NaN and infinity too: ranges refuse them. Raises ValueError for what is no real number."""
    plain = _plain(value)
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, Real):
        raise ValueError(f"{name} must be a number; got {shown(value)}{_as_number(plain)}")
    try:
        return float(plain)
    except OverflowError as error:
        raise ValueError(
            f"{name} must be a number that float64 can hold; got {shown(value)}: pass a smaller one"
        ) from error


def whole(name: str, value: Any) -> int:
    """The value as an int; raises ValueError for what is not one whole number."""
    plain = _plain(value)
    if isinstance(plain, Integral) and not isinstance(plain, bool):
        return int(plain)
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, Real) or not float(plain).is_integer():
        raise ValueError(f"{name} must be a whole number; got {shown(value)}{_as_number(plain, whole=True)}")
    return int(float(plain))


def maybe_real(name: str, value: Any) -> float | None:
    """As `real`; None stays."""
    return None if value is None else real(name, value)


def maybe_whole(name: str, value: Any) -> int | None:
    """As `whole`; None stays."""
    return None if value is None else whole(name, value)


def is_several(value: Any) -> bool:
    """Whether the value is a list, a tuple or an array with an axis: several numbers where one may stand, too."""
    return isinstance(value, list | tuple) or (isinstance(value, Tensor | np.ndarray) and value.ndim > 0)


def reals(name: str, value: Any) -> tuple[float, ...]:
    """Each of several numbers as `real`, all of them different; raises ValueError for none, and for one given twice."""
    numbers = tuple(real(f"each {name}", one) for one in value)
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} must be one number, or several that all differ; got {shown(value)}")
    return numbers


def _plain(value: Any) -> Any:
    """The one number in a tensor or an array without axes; everything else as it is."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        return value.item()
    return value


def _as_number(plain: Any, *, whole: bool = False) -> str:
    """The way out for a number in quotes, or for one between two whole ones."""
    if isinstance(plain, bool | np.bool_) or not isinstance(plain, Real | str):
        return ""
    try:
        number = float(plain)
    except (ValueError, OverflowError):
        return ""
    if whole and not number.is_integer():
        return f": pass {math.floor(number)} or {math.ceil(number)}" if math.isfinite(number) else ""
    return f": pass {plain.strip()}, without quotes" if isinstance(plain, str) else ""


def shown(value: Any) -> str:
    """The value on one line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."
