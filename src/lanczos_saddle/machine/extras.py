"""Libraries that only some of the package needs, and the command that brings them."""

from __future__ import annotations

EXTRAS = {"matplotlib": "plots", "sklearn": "paper", "cupy": "cuda"}


WHOLE = ("demo", "reproduce", "train", "landscapes")
"""Commands that need all of [paper], figures among it."""


def way_out(error: ModuleNotFoundError, command: str = "") -> str:
    """How to install what is missing; nothing for a library that is no extra of this package."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    extra = "paper" if extra and command in WHOLE else extra
    return "" if extra is None else f"pip install 'lanczos-saddle[{extra}]'"
