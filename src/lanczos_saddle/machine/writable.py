"""Whether results can be written where they are wanted: asked before the work, and nothing is left behind by asking.

A FIFO or a device is not opened: that waits for a reader, or does what devices do.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lanczos_saddle.machine.files import descriptor_of, real


def check_writable(path: str | os.PathLike[str], *, appended: bool = False) -> None:
    """Refuse a name to which no result can be written; raises ValueError."""
    try:
        reason = _obstacle(os.fspath(path), appended)
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
    if reason:
        raise ValueError(
            f"results are written to a file in a writable folder; {_shown(path)} {reason}: name another file"
        )


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder in which no file can be made; raises ValueError."""
    name = os.fspath(path)
    try:
        reason = "is no name" if not name or "\0" in name else "is a file" if os.path.isfile(name) else ""
        if not reason:
            _try_folder(real(name))
    except OSError as error:
        reason = f"is not one ({error.strerror or error})"
    if reason:
        raise ValueError(f"results are written into a writable folder; {_shown(path)} {reason}: name another folder")


def check_apart(results: Mapping[str, str | os.PathLike[str]], inputs: Mapping[str, str | os.PathLike[str]]) -> None:
    """Refuse two results, or a result and an input, that are one file under whatever names; raises ValueError.

    A result may not be the file that standard output or error goes to, either, but for `/dev/stdout` itself.
    """
    taken: dict[object, tuple[str, str | os.PathLike[str]]] = {}
    for name, path in inputs.items():
        taken.setdefault(_identity(path), (name, path))
    for name, number in (("standard output", 1), ("standard error", 2)):
        with suppress(OSError):
            found = os.fstat(number)
            if stat.S_ISREG(found.st_mode):
                taken.setdefault((found.st_dev, found.st_ino), (name, f"descriptor {number}"))
    for name, path in results.items():
        key, before = _identity(path), taken.get(_identity(path))
        own = before is not None and before[1] == f"descriptor {descriptor_of(path)}"
        if key is not None and before is not None and not own:
            raise ValueError(
                f"every result needs a file of its own; {before[0]} and {name} both name {_shown(path)}: name another"
            )
        if key is not None:
            taken[key] = (name, path)


def _identity(path: str | os.PathLike[str]) -> object:
    """The same for all names of one file; None for a device, which takes as many results as are given to it."""
    number = descriptor_of(path)
    try:
        found = os.stat(path) if number is None else os.fstat(number)
    except (OSError, ValueError):
        return os.path.realpath(path) if "\0" not in os.fspath(path) else path
    return None if stat.S_ISCHR(found.st_mode) else (found.st_dev, found.st_ino)


def _obstacle(name: str, appended: bool) -> str:
    """Why no result can be written there, or nothing; OSError says the same."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "has a NUL in it"
    number = descriptor_of(name)
    if number is not None:
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        return "is open for reading only" if flags & os.O_ACCMODE == os.O_RDONLY else ""
    target = real(name)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if name.endswith("/"):
            return "names a folder"
        _try_folder(target.parent, target.name)
        return ""
    return _obstacle_at(target, mode, appended)


def _obstacle_at(target: Path, mode: int, appended: bool) -> str:
    if stat.S_ISDIR(mode):
        return "is a folder"
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        return f"is a {'socket' if stat.S_ISSOCK(mode) else 'disk'}"
    if stat.S_ISREG(mode):
        os.close(os.open(target, os.O_WRONLY | (os.O_APPEND if appended else 0)))
        return _foreign(target) if appended else ""
    return "" if os.access(target, os.W_OK) else "cannot be written (Permission denied)"


def _foreign(target: Path) -> str:
    """That lines of JSON would be added to a text of another kind, or nothing."""
    with suppress(OSError), target.open("rb") as file:  # one that may be written and not read is not looked at
        start = file.read(64).lstrip()
        return f"begins with {start[:16]!r} and holds no lines of JSON" if start and start[:1] != b"{" else ""
    return ""


def _try_folder(folder: Path, name: str = "") -> None:
    """Make the folder and a file in it, and remove what was made; raises OSError, for a name that is too long, too."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    made: list[Path] = []
    trial = str(folder / f".{secrets.token_hex(8)}")
    try:
        for place in reversed(missing):
            with suppress(FileExistsError):  # another run was faster
                place.mkdir()
                made.append(place)
        with suppress(FileNotFoundError):
            os.lstat(folder / name)
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    finally:
        try:  # noqa: SIM105 - without a call in which an interrupt could come first
            os.unlink(trial)
        except OSError:
            pass
        for place in reversed(made):
            with suppress(OSError):
                place.rmdir()


def _shown(path: str | os.PathLike[str]) -> str:
    """A name on one line, whatever is in it."""
    name = os.fspath(path)
    return name if name.isprintable() and name.strip() else repr(name)
