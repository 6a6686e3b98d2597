"""What a command shares with the process it runs in: standard output, warnings, signals.

Output whose reader has gone is dropped and the work goes on: files that were asked for are still written. SIGTERM and
SIGHUP end a command as SIGINT does, by KeyboardInterrupt, so that what is known is printed and saved. Where Python
drops what a handler raised, as it does in the callback of a weak reference, the signal comes once more.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from types import FrameType
from typing import Any, TextIO, cast


class _Said(logging.Handler):
    """What the package says of its plans, a line each on stderr as it is then."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def plans_to_stderr(*, silent: bool) -> None:
    """Show what a count is about to do before its long part, unless `silent`."""
    log = logging.getLogger("lanczos_saddle")
    log.handlers = [handler for handler in log.handlers if not isinstance(handler, _Said)]
    if not silent:
        log.addHandler(_Said())
        log.setLevel(logging.INFO)


class Outlet:
    """Standard output that outlives its reader; every other error is kept for the end."""

    def __init__(self, stream: TextIO, *, closed: bool = False) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        self._closed = False
        self._never_open = closed

    def write(self, text: str) -> int:
        """As the stream does, until it fails."""
        if self._never_open and text:
            self.failure = OSError("it is closed")
        if not self._closed:
            try:
                with uncovered():
                    return self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """As the stream does, until it fails."""
        if not self._closed:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Left open: the code of a problem that closes standard output would take the counts with it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: OSError) -> None:
        """What is still in the buffer is dropped: it would fail again when the interpreter ends."""
        self._closed = True
        if not isinstance(error, BrokenPipeError):
            self.failure = error
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


AGAIN = 0.01
"""Seconds after which a signal comes once more, where its exception was dropped."""


class Signals:
    """The last signal that asked the command to end."""

    received: int = signal.SIGINT
    over = False  # the command has ended

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt where the program is."""
        self.received = number
        raise KeyboardInterrupt

    def dropped(self) -> None:
        """What it raised was; called where nothing may be waited for, and no exception gets out."""
        _thread.start_new_thread(self._again, ())

    def _again(self) -> None:
        time.sleep(AGAIN)
        if not self.over:
            _thread.interrupt_main(signal.Signals(self.received))

    @property
    def name(self) -> str:
        """As in signal.h."""
        return signal.Signals(self.received).name


@contextmanager
def signals() -> Iterator[Signals]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt in the block; one that the parent has ignored stays so (nohup)."""
    handler, before, told = Signals(), {}, sys.unraisablehook

    def unraisable(said: Any) -> None:
        if isinstance(said.exc_value, KeyboardInterrupt):
            handler.dropped()
        else:
            told(said)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
        sys.unraisablehook = unraisable
    try:
        yield handler
    finally:
        handler.over = True
        if sys.unraisablehook is unraisable:
            sys.unraisablehook = told
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def outlet() -> Iterator[Outlet]:
    """Standard output for the block, flushed at its end; warnings take one line each on standard error."""
    _open_closed()
    closed = sys.stdout is None  # by the parent
    stream = sys.stdout if sys.stdout is not None else _nowhere()
    sys.stderr = sys.stderr if sys.stderr is not None else _nowhere()
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # file names that are not UTF-8, terminals that are ASCII
    out = Outlet(stream, closed=closed)
    with redirect_stdout(cast(TextIO, out)), warnings.catch_warnings():
        warnings.showwarning = _show
        try:
            yield out
        finally:
            out.flush()


_HUSHED = threading.Event()

_cover: Callable[[], AbstractContextManager[None]] = nullcontext
"""In whose block others may write: what is drawn on the terminal is away."""


@contextmanager
def covered(cover: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """What is written in the block is written within this context."""
    global _cover
    before, _cover = _cover, cover
    try:
        yield
    finally:
        _cover = before


def uncovered() -> AbstractContextManager[None]:
    """A context to write in beside what is drawn on the terminal."""
    return _cover()


@contextmanager
def hush() -> Iterator[None]:
    """Nothing is said in the block: another process says it."""
    _HUSHED.set()
    try:
        yield
    finally:
        _HUSHED.clear()


def say(text: object) -> None:
    """One line on standard error, where that takes one."""
    if _HUSHED.is_set():
        return
    line = " ".join(str(text).split()).encode(errors="backslashreplace").decode()  # file names that are not UTF-8
    with suppress(OSError), uncovered():
        print(f"lanczos-saddle: {line}", file=sys.stderr, flush=True)


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")


def _open_closed() -> None:
    """Descriptors 0 to 2 that the parent closed lead nowhere: no file of results may get their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # open for as long as the process runs
