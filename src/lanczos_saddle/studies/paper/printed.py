"""The numbers that the paper prints, from paper.toml, beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Number:
    """A printed mean, and the standard deviation over 8 trials where there is one."""

    mean: float
    deviation: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:g}" if self.deviation is None else f"{self.mean:g} ± {self.deviation:g}"


ELSEWHERE = {"table1": ("table3",), "table2": ("table3",), "steps": ("table1", "table3", "table8")}
"""Where the paper prints what a table here does not find under its own name: zero eigenvalues, among others."""

Printed = dict[str, Number]  # negative, zero, positive, accuracy; what is missing is not printed or not legible


def printed(table: str, dataset: str, label: str) -> Printed:
    """What the paper prints in one row of a table; empty where it prints nothing."""
    row = {
        name: found
        for place in (*ELSEWHERE.get(table, ()), table)
        for name, found in _row(place, dataset, label).items()
    }
    return {name: Number(*value) if isinstance(value, list) else Number(value) for name, value in row.items()}


def _row(table: str, dataset: str, label: str) -> dict[str, Any]:
    found: dict[str, Any] = _all().get(table, {}).get(dataset, {}).get(label, {})
    return found


def _all() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "paper.toml").read_text(encoding="utf-8"))
