"""Files that are whole or as they were, written where their name leads.

A regular file is written under a temporary name beside its place and renamed over it, with the mode it had; a name that
is a symbolic link stays one, and what it leads to is replaced. What cannot be renamed over (a file of several names,
one in a folder that takes no new files) is written in place, after its new content lies whole on the disk. A FIFO, a
device or an open descriptor (/dev/stdout, /dev/fd/N, >(command)) takes the bytes as they come and is never replaced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LINKS = 40
"""Symbolic links that are followed, as many as Linux does."""

OWN = re.compile(r"(?:/proc/(\d+)(?:/task/\d+)?|/dev)/fd")
"""Folders of open descriptors, with the links of the system resolved."""

SUFFIX = 20
"""The longest suffix, in bytes, that a temporary name takes over."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name, whose content becomes that of `path` when the block ends well; it is removed in any case.

    Folders are made. Raises OSError for what cannot be written; what `path` held before is then still there.
    """
    stream = is_stream(path)
    target = Path(path) if stream else real(path)
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= SUFFIX else ""  # it stays: savers look at it
    name = f".{secrets.token_hex(8)}{suffix}"
    elsewhere = Path(tempfile.gettempdir(), name)
    beside = elsewhere if stream else target.parent / name
    names = str(beside), str(elsewhere)
    try:  # from before they are made: an interrupt leaves none behind
        temporary = _created(target, beside, elsewhere)
        yield temporary
        if stream:
            _pour(temporary, path)
        else:
            _put(temporary, target)
    finally:
        for made in names:
            try:  # noqa: SIM105 - without a call in which an interrupt could come first
                os.unlink(made)
            except OSError:
                pass


def append_bytes(path: str | os.PathLike[str], line: bytes) -> None:
    """Add a line at the end by one write, flushed to the disk; folders are made, FIFOs and devices take it as it is.

    A line that an earlier crash cut short is ended first. A line that does not fit leaves the file as it was.
    """
    if is_stream(path):
        with opened_stream(path) as descriptor:
            _write(descriptor, line)
        return
    target = real(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = not target.exists()
    try:
        _append(target, line)
    except OSError:
        if new:
            with suppress(OSError):
                _remove_empty(target)
        raise


def real(path: str | os.PathLike[str]) -> Path:
    """Where a name leads when all links are followed, whether something is there or not; OSError for a loop."""
    with suppress(FileNotFoundError):
        os.stat(path)  # what pathlib hides: a loop, a name that is too long, a file taken for a folder
    return Path(os.path.realpath(path))


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """N where the name is /dev/fd/N, /dev/stdout and the like, or a link to one; else None."""
    name = os.fspath(path)
    for _ in range(LINKS):
        folder, last = os.path.split(name)
        found = OWN.fullmatch(os.path.realpath(folder or ".")) if last.isdecimal() else None
        if found and found[1] in (None, str(os.getpid())):
            return int(last)
        if not os.path.islink(name):
            return None
        name = os.path.join(os.path.dirname(name), os.readlink(name))
    return None


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether the name leads to something that takes bytes and keeps none: never to be replaced."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextmanager
def opened_stream(path: str | os.PathLike[str]) -> Iterator[int]:
    """A descriptor that writes to a FIFO (it waits for a reader), a device or an open descriptor of this process."""
    number = descriptor_of(path)
    if number is not None:
        for text in (sys.stdout, sys.stderr):  # what was printed before comes first
            if text is not None:
                text.flush()
        descriptor = os.dup(number)
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    try:
        yield descriptor
    except BrokenPipeError as error:
        if number == 1:
            return  # as for all of standard output: who reads no further is not told
        raise OSError(f"the reader of {os.fspath(path)} has gone") from error
    finally:
        os.close(descriptor)


def _created(target: Path, beside: Path, elsewhere: Path) -> Path:
    """A new empty file beside the target, or elsewhere if the target is there and its folder takes none."""
    there = target.exists()
    beside.parent.mkdir(parents=True, exist_ok=True)
    flags, mode = (
        os.O_CREAT | os.O_EXCL | os.O_WRONLY,
        0o600 if there else 0o666,
    )  # of a private file nobody reads a part
    try:
        os.close(os.open(beside, flags, mode))
    except OSError as error:
        if not there or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
            raise
        os.close(os.open(elsewhere, flags, 0o600))
        return elsewhere
    return beside


def _put(temporary: Path, target: Path) -> None:
    """Rename over the target, which keeps its mode and owner, or write into it where it cannot be renamed over."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    try:
        old = target.stat()
    except FileNotFoundError:
        temporary.replace(target)
        return
    if old.st_nlink == 1 and temporary.parent == target.parent:
        try:
            _take_over(temporary, old)
            temporary.replace(target)
        except OSError as error:  # a mount point, a folder with the sticky bit
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV):
                raise
        else:
            return
    _overwrite(temporary, target, old.st_size)


def _take_over(temporary: Path, old: os.stat_result) -> None:
    """Owner and mode of the file that will be replaced; raises PermissionError where they cannot be kept."""
    new = temporary.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(stat.S_IMODE(old.st_mode))


def _overwrite(temporary: Path, target: Path, size: int) -> None:
    """Write into a file in place, after room for all of it has been reserved."""
    with temporary.open("rb") as source, target.open("rb+") as sink:
        wanted = os.fstat(source.fileno()).st_size
        if wanted > size and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(sink.fileno(), 0, wanted)
            except OSError as error:
                sink.truncate(size)
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        shutil.copyfileobj(source, sink)
        sink.truncate()
        sink.flush()
        os.fsync(sink.fileno())


def _pour(temporary: Path, path: str | os.PathLike[str]) -> None:
    with temporary.open("rb") as source, opened_stream(path) as descriptor:
        while chunk := source.read(1 << 20):
            _write(descriptor, chunk)


def _write(descriptor: int, content: bytes) -> None:
    """All of it, by one write where the system takes it at once."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _append(target: Path, line: bytes) -> None:
    descriptor = _opened_to_append(target)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # another writer's line may be half there
        before, written = os.fstat(descriptor).st_size, 0
        line = line if _ends_a_line(descriptor, before) else b"\n" + line
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
            os.fsync(descriptor)
        except OSError:
            if os.fstat(descriptor).st_size == before + written:  # no other writer's line lies there
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _opened_to_append(target: Path) -> int:
    """For reading, too, where that is allowed."""
    flags = os.O_APPEND | os.O_CREAT
    try:
        return os.open(target, os.O_RDWR | flags, 0o666)
    except PermissionError:
        return os.open(target, os.O_WRONLY | flags, 0o666)


def _ends_a_line(descriptor: int, size: int) -> bool:
    """Whether the next byte written starts a line; a file that may not be read is taken to end one."""
    try:
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
    except OSError:
        return True


def _remove_empty(target: Path) -> None:
    if target.stat().st_size == 0:
        target.unlink()
