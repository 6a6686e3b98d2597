"""What counts say, in plain words and in cells of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lanczos_saddle.reports.sources import View

Interval = tuple[int, float, int]

MARKS = ("▼", "●", "▲")
"""Of negative, near zero and positive: told apart without colour."""


def interval(given: Interval | tuple[int, int]) -> str:
    """An interval in a cell: 12, or 12 – 15."""
    lower, upper = given[0], given[-1]
    return f"{lower:,}" if lower == upper else f"{lower:,} – {upper:,}"


def number(given: Any, digits: int = 3) -> str:
    """A number of any size, or what stands in its place."""
    if given is None:
        return "–"
    if isinstance(given, int) and not isinstance(given, bool):
        return f"{given:,}"
    return f"{given:.{digits}g}" if isinstance(given, float) else str(given)


def tau(view: View) -> str:
    """The threshold as it is known."""
    if view.threshold is not None:
        return f"{view.threshold:.4g}"
    return f"{view.relative:g} of the largest |eigenvalue|" if view.relative is not None else "not recorded"


def how_many(given: Interval | tuple[int, int]) -> str:
    """In words: exactly 12, at least 12 and at most 15, at most 15 (perhaps none), none."""
    lower, upper = given[0], given[-1]
    if lower == upper:
        return f"exactly {lower:,}" if lower else "none"
    if lower == 0:
        return f"at most {upper:,}, perhaps none"
    return f"at least {lower:,} and at most {upper:,}"


def is_exact(view: View) -> bool:
    """Whether all three are known without chance."""
    return view.method == "exact"


def of_a_loss(view: View) -> bool:
    """Whether what was counted is known to be the Hessian of a loss."""
    check = view.record.get("check")
    return "problem" in view.told or (isinstance(check, Mapping) and check.get("fidelity") is not None)


def sentences(view: View) -> list[str]:
    """The three counts in plain words, most telling first, and with what confidence."""
    low, flat, high = (how_many(one) for one in view.intervals)
    if of_a_loss(view):
        said = [
            f"This loss curves down along {_directions(low)}, more steeply than the threshold.",
            f"It is flat, up to the threshold, along {_directions(flat)}.",
            f"It curves up along {_directions(high)}.",
        ]
    else:
        said = [
            f"Of the eigenvalues of this matrix {low} {_verb(low)} below minus the threshold.",
            f"Near zero {_verb(flat)} {flat}.",
            f"Above the threshold {_verb(high)} {high}.",
        ]
    return [*said, confidence(view)]


def confidence(view: View) -> str:
    """What the three statements may fail with."""
    if is_exact(view):
        return "These counts are exact: they come from a dense matrix, with its rounding errors allowed for."
    if view.confidence is None:
        return "With what confidence they are right together this record does not say."
    chance = f"{percent(view.confidence)} confidence"
    if view.method == "elimination":
        return f"The first count holds without chance, the three together with {chance}."
    return f"All three are right together with {chance}."


def percent(confidence: float | None) -> str:
    """A confidence of at least 0.9999 in full, others to four digits; of none a dash."""
    if confidence is None:
        return "–"
    return f"{100 * confidence:.4g} %" if confidence < 0.9999 else f"{100 * confidence:.10g} %"


def _directions(text: str) -> str:
    if text == "none":
        return "no direction"
    noun = "direction" if text == "exactly 1" else "directions"
    return f"{text.replace(', perhaps none', '')} {noun}{', perhaps none' if 'perhaps' in text else ''}"


def _verb(text: str) -> str:
    return "is" if text in ("exactly 1", "none") else "are"


def limits(view: View) -> list[str]:
    """What these counts do not say."""
    said = ["The sign of an eigenvalue within the threshold of zero is not known: near zero means both sides of it."]
    if not is_exact(view) and view.confidence is not None:
        miss = f"{100 * (1 - view.confidence):.3g}"
        said.append(f"In at most {miss} of 100 such runs one of the three intervals misses its count.")
    if not is_exact(view):
        said.append("Single estimates and the smoothed density carry no certificate.")
    if view.grid is not None and not is_exact(view):
        said.append(
            "A threshold that was found by moving the slider is one of many: only the row that holds at all of them at "
            "once speaks for it."
        )
    if of_a_loss(view):
        said += [
            "Whether the point is critical depends on the gradient, at which these counts do not look (classify does).",
            "At kinks, such as those of ReLU, second derivatives do not exist; torch's own are taken.",
        ]
    return [*said, *_noise(view)]


def fidelity(view: View) -> str:
    """Whether products were compared with the user's own function."""
    check = view.record.get("check")
    found = check.get("fidelity") if isinstance(check, Mapping) else None
    if not isinstance(found, Mapping):
        return "not a network's, so there was nothing to compare with"
    if found.get("status") == "off":
        return "not checked: the products may be those of another function"
    status = {
        "agrees": "products agree with differences of the model's own gradients",
        "kinks": "products agree with differences nearby; at the point itself there is a kink",
        "coarse": "products agree with differences as far as those can be trusted",
        "undecided": "could not be judged: the differences are too coarse",
    }.get(str(found.get("status")), str(found.get("status")))
    return f"{status} ({number(found.get('error'), 2)} relative, {number(found.get('samples'))} samples)"


def _noise(view: View) -> list[str]:
    run = view.record.get("run_noise")
    if isinstance(run, Mapping) and isinstance(run.get("failure"), float) and run["failure"] > 0:
        return ["The rounding errors of the run were measured on it, and bounded with a share of what may fail."]
    return [] if is_exact(view) else ["The rounding error of a product is measured on sample vectors, not proved."]
