"""What a long computation says of itself while it runs: stages, and how much of each is done.

    with stage("lanczos", 744, bound="at most", shown=progress) as told:  # at most 744 products
        told.say("so far ...")
    made(8)                                # by whoever makes products, however deep below: the open stage advances

Who listens is decided outside: an `Observer` for a block of code (`watching`), a bar of tqdm's where the caller of a
function asked for one (`shown`), else nobody. A report sets numbers and draws nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PRODUCT = "product"
"""The unit of what `made` reports."""


def _no_time() -> float:
    return 0.0


class Stage:
    """A part of a computation: `done` of `total` so far. What is below 0 or beyond the total is not corrected."""

    live = True  # whether anybody listens: what only a listener needs is left out where nobody does

    def __init__(
        self, name: str, total: float | None, unit: str, *, bound: str = "", seconds: float | None = None
    ) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.bound = bound  # what the total is: exact, or "at most", or "about", which may move
        self.seconds = seconds  # that it is foretold to take, where it cannot say how far it is
        self.done: float = 0
        self.note = ""
        self.outer: Stage | None = None
        self.observer: Observer | None = None
        self.clock: Callable[[], float] = _no_time  # of the observer
        self.at = 0.0  # when it advanced the last time

    def advance(self, units: float = 1) -> None:
        """So many units more."""
        self.at = self.clock()
        self.done += units

    def to(self, done: float) -> None:
        """So many units in all."""
        self.at = self.clock()
        self.done = done

    def of(self, total: float | None) -> None:
        """The total, where it is known later or moves."""
        self.total = total

    def say(self, note: str) -> None:
        """What is known by now, in a few words."""
        self.note = note

    def made(self, products: int) -> None:
        """Products, which advance a stage that counts them."""
        if self.unit == PRODUCT:
            self.advance(products)
        if self.observer is not None:
            self.observer.made(products)

    def close(self, *, failed: bool) -> None:
        """The end of the stage; `failed`: an exception or an interrupt ended it."""
        if self.observer is not None:
            self.observer.closed(self, failed=failed)


class Silent(Stage):
    """A stage that nobody listens to."""

    live = False

    def advance(self, units: float = 1) -> None:
        """Nothing."""

    def to(self, done: float) -> None:
        """Nothing."""

    def of(self, total: float | None) -> None:
        """Nothing."""

    def say(self, note: str) -> None:
        """Nothing."""

    def made(self, products: int) -> None:
        """Nothing."""


class Bar(Stage):
    """A stage as a bar of tqdm's on stderr."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        super().__init__(name, total, unit)
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=name, unit=unit, file=sys.stderr)

    def advance(self, units: float = 1) -> None:
        """So many units more."""
        super().advance(units)
        self._bar.total = self.total  # a bound may have moved
        self._bar.update(units)

    def to(self, done: float) -> None:
        """So many units in all."""
        self.advance(done - self.done)

    def say(self, note: str) -> None:
        """After the bar."""
        super().say(note)
        self._bar.set_postfix_str(note)

    def close(self, *, failed: bool) -> None:  # noqa: ARG002
        """The bar stays as it is."""
        self._bar.close()


class Observer(Protocol):
    """Who listens to all stages of a block of code; called in the thread that works, so that it must be quick."""

    def opened(self, stage: Stage) -> None:
        """A stage begins, within those that are open."""

    def closed(self, stage: Stage, *, failed: bool) -> None:
        """It ends, with all that were opened within it."""

    def made(self, products: int) -> None:
        """Products were made, whatever the stage."""

    def expect(self, products: int | None, seconds: float) -> None:
        """What is to come from here to the end; as `expect`."""


NOBODY = Silent("", None, "")

_OPEN: ContextVar[Stage | None] = ContextVar("lanczos_saddle_stage", default=None)
_OBSERVER: ContextVar[Observer | None] = ContextVar("lanczos_saddle_observer", default=None)


@contextmanager
def watching(observer: Observer) -> Iterator[None]:
    """All stages in the block are reported to this one, whether or not bars are asked for."""
    outside, stage_outside = _OBSERVER.get(), _OPEN.get()
    root = Stage("", None, "")
    root.observer = observer
    _OBSERVER.set(observer)
    _OPEN.set(root)
    try:
        yield
    finally:
        _OBSERVER.set(outside)
        _OPEN.set(stage_outside)


def watched() -> bool:
    """Whether an observer listens: for what is only computed for it, as a time that is foretold."""
    return _OBSERVER.get() is not None


@contextmanager
def stage(
    name: str,
    total: float | None = None,
    *,
    unit: str = PRODUCT,
    bound: str = "",
    shown: bool = False,
    seconds: float | None = None,
) -> Iterator[Stage]:
    """A stage for the block: of `total` units, or "at most" or "about" so many (`bound`), or unknown.

    `seconds`: what a stage that cannot say how far it is will take, as it is foretold.
    `shown`: a bar where no observer listens.
    """
    observer, outer = _OBSERVER.get(), _OPEN.get()
    if observer is None and not shown and (outer is None or not outer.live):
        yield NOBODY
        return
    told: Stage = NOBODY
    if observer is not None:
        told = Stage(name, total, unit, bound=bound, seconds=seconds)
        told.observer, told.outer = observer, outer
        observer.opened(told)
    elif shown:
        told = Bar(name, total, unit)
    _OPEN.set(told)
    failed = True
    try:
        yield told
        failed = False
    finally:
        if _OPEN.get() is told:  # else an iterator with a stage of its own was left before its end
            _OPEN.set(outer)
        told.close(failed=failed)


def during(
    name: str, total: Callable[..., float | None] | None = None, *, unit: str = PRODUCT, bound: str = ""
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function that is a stage of its own; `total`: of its arguments, the products that it makes, or other units."""

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def staged(*args: P.args, **kwargs: P.kwargs) -> T:
            if not watched():
                return function(*args, **kwargs)
            whole = None if total is None else total(*args, **kwargs)
            with stage(name, whole, unit=unit, bound=bound):
                return function(*args, **kwargs)

        return staged

    return decorated


def made(products: int) -> None:
    """Products H @ v were made: the open stage advances, where it counts them."""
    told = _OPEN.get()
    if told is not None:
        told.made(products)


@contextmanager
def foretelling() -> Iterator[None]:
    """What is expected in the block is of the block: at its end nothing is."""
    try:
        yield
    finally:
        expect(None)


def current() -> Stage:
    """The open stage, for what is called within it."""
    return _OPEN.get() or NOBODY


def expect(products: int | None, seconds: float = 0.0) -> None:
    """From here to the end at most so many products are made, and work of so many `seconds` is done beside them.

    None: not known. Said again whenever it is known better; it foretells the time that is left in all.
    """
    observer = _OBSERVER.get()
    if observer is not None:
        observer.expect(products, seconds)
