"""An interrupt while the command is being imported: one line and 130, as later, in place of a traceback.

Imported before everything else, since torch takes a second or more. Where another program imports the package nothing
is done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

COMMAND = "lanczos-saddle"


def is_command() -> bool:
    """Whether this process is the command: its script, or python -m lanczos_saddle."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    as_module = name in ("-m", "__main__.py") and "-m" in sys.orig_argv  # before its file is found, and then
    return name.removesuffix(".exe") == COMMAND or (as_module and __name__.partition(".")[0] in sys.orig_argv)


def end(number: int, _: FrameType | None) -> None:
    """Say so and end at once: nothing has begun that could be left unfinished."""
    os.write(2, f"{COMMAND}: interrupted by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def watch() -> None:
    """From now on an interrupt ends the command in one line."""
    here = threading.current_thread() is threading.main_thread()
    if here and is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


def started() -> None:
    """From now on the command itself answers to interrupts, by KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


watch()
