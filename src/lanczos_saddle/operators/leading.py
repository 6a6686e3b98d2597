"""Questions to an operator that several ranks share: one rank decides, the others multiply.

How deep a run goes depends on clocks, free memory and files, which differ between ranks; so each question is worked out
on one of them, and all get its answer. An operator that is shared has the method ``led_by_one(question)``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def led(function: F) -> F:
    """The function of an operator, its first argument, worked out by one rank where several share the operator."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def asked(*args: Any, **options: Any) -> Any:
        operator = args[0] if args else options.get(first)
        lead = getattr(operator, "led_by_one", None)
        if lead is None:
            return function(*args, **options)
        rest = {name: value for name, value in options.items() if args or name != first}
        return lead(lambda one: function(one, *args[1:], **rest))

    return cast(F, asked)
