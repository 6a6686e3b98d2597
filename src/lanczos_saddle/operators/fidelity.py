"""Whether products are those of the user's own function: what the comparison (`differences`, `examination`) showed."""

from __future__ import annotations

from dataclasses import dataclass

ZERO = "both are zero within the rounding of the gradients"
"""A note."""


@dataclass(frozen=True)
class Fidelity:
    """What the comparison of the products with the user's own function showed."""

    status: str  # "agrees", "kinks" (compared nearby), "coarse" (to `tolerance` only), "undecided", "off"
    mode: str  # how products are computed
    error: float  # |H v - D v| / |D v|, D by differences
    tolerance: float  # what the differences are good for, relative to the product
    value_error: float  # relative difference of the loss
    slope_error: float  # relative difference of the slope
    samples: int  # compared, at most
    arithmetic: str  # the least precise type that the model computes in
    notes: tuple[str, ...] = ()

    @property
    def is_zero(self) -> bool:
        """Whether the matrix is zero within rounding: no more than that is to be asked of its symmetry."""
        return ZERO in self.notes

    def __str__(self) -> str:
        if self.status == "off":
            return "fidelity    not checked: the products may be those of another function"
        said = {
            "agrees": "agree with differences of the model's own gradients",
            "kinks": "agree with differences nearby; at the point itself there is a kink",
            "coarse": f"agree with differences to {self.tolerance:.0e}, as far as those can be trusted",
            "undecided": "could not be judged: differences of the model's own gradients are too coarse",
        }[self.status]
        if self.is_zero:
            said = "and differences of the model's own gradients are zero within rounding"
        notes = "".join(f"; {note}" for note in self.notes if note != ZERO)
        return f"fidelity    products {said}: {self.error:.1e} ({self.samples} samples, mode {self.mode}){notes}"


def off(mode: str) -> Fidelity:
    """The result where the check was switched off."""
    nan = float("nan")
    return Fidelity("off", mode, nan, nan, nan, nan, 0, "unknown")
