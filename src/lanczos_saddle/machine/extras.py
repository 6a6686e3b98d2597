"""Libraries that only some of the package needs, asked for before the work that needs them."""

from __future__ import annotations

from importlib import import_module


def require(library: str, extra: str) -> None:
    """Import a library. Raises ModuleNotFoundError, with the command that brings it, where it is not installed."""
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        said = f"{library} is needed for this and is not installed: pip install 'lanczos-saddle[{extra}]'"
        raise ModuleNotFoundError(said, name=library) from error
