"""What a count found before its recurrences: once they are saved, it is kept beside them and not found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lanczos_saddle.krylov.preflight import Preflight
from lanczos_saddle.machine.states import has_begun, read_plan, read_some, shape_of
from lanczos_saddle.operators.operator import Operator, another_way, fidelity
from lanczos_saddle.operators.resolution import OperatorCheck
from lanczos_saddle.operators.vectors import space_of


@dataclass
class Beginning:
    """The preflight, the search for the largest |eigenvalue|, the dead coordinates, an elimination."""

    found: Preflight
    relative: float | None  # the threshold as it was asked for, a fraction of the largest |eigenvalue|
    exponent: int  # of 2^exponent H, which is counted
    dtype: str  # of its products
    searched: int = 0  # products of the search, beyond those of the preflight
    dead: Tensor | None = None  # (N,) bool
    eliminated: tuple[int, int, int] | None = None  # bounds on the negative eigenvalues, and the products of them

    def facts(self) -> dict[str, Any]:
        """What a state keeps as numbers."""
        return {
            "check": asdict(replace(self.found.check, fidelity=None)),
            "dtype": self.dtype,
            "turns": self.found.turns,
            "relative": self.relative,
            "exponent": self.exponent,
            "searched": self.searched,
            "eliminated": self.eliminated,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What it keeps as tensors."""
        both = {"checked": torch.stack([self.found.vector, self.found.image])}
        return both if self.dead is None else both | {"dead": self.dead}


def beginning_of(path: Path | None, operator: Operator, relative: float | None, exponent: int) -> Beginning | None:
    """That of a state of this operator and threshold, put in the state in which it was; else None.

    Whether it is the same operator, a product of the recurrence tells (`Lanczos.resume`), and that of the end.
    """
    if path is None or not has_begun(path):
        return None
    kept: Mapping[str, Any] | None = read_plan(path).beginning
    if kept is None or kept["exponent"] != exponent or (relative is not None and relative != kept["relative"]):
        return None
    if shape_of(path, "checked")[1] != operator.shape[0] or kept["dtype"] != str(operator.dtype):
        return None
    space = space_of(operator)
    tensors = read_some(path, ("checked", "dead"), operator.device, None if space is None else space.placed)
    checked, dead = tensors["checked"], tensors["dead"]
    compared = fidelity(operator)
    for _ in range(kept["turns"]):
        another_way(operator)
    check = OperatorCheck(**{**kept["check"], "fidelity": compared})
    found = Preflight(check, None, checked[0], checked[1], kept["turns"])
    eliminated = kept["eliminated"]
    return Beginning(
        found,
        kept["relative"],
        exponent,
        kept["dtype"],
        kept["searched"],
        dead,
        None if eliminated is None else tuple(eliminated),
    )
