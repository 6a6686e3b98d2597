"""What a count has made so far, kept on disk by what it was made of: a killed one begins again and finds it there.

    MAGIC, record, record, ...         record = lengths and checksums, a description (JSON), bytes

A count is a function of its operator, its arguments and its random numbers, but for clocks and free memory. So what is
kept is every product, by a hash of the vectors that were multiplied, and every answer of a clock or a meter, in order.
A count that begins again asks for the same products, gets them from the file, to the last bit, and goes on where they
end. A product is given out for the very same vectors only: whatever a file lacks is made, and no count is wrong for it.

The first products that are found are also made again. They tell whether the operator is the same, and put it in the
state in which it was: some multiply in another way once they know what they are asked for.

Records are appended at intervals, with what was there before untouched; what a crash cut short is cut off. A file takes
at most half of what its disk had free. It is one with that of `machine.states`, which takes its place when the long
recurrence saves itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import sys
import time
import warnings
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lanczos_saddle.machine.files import real, replacing

T = TypeVar("T")

MAGIC = b"lanczos_saddle products 1\n"

INTERVAL = 300.0
"""Seconds after which what was made is written: what a killed count loses at most."""

PENDING = 2**26
"""Bytes that wait for it at most."""

SINGLES = 4
"""Products of one vector that are made again, where no block comes first: from the fourth on they are recorded
(`networks.columns.cache.PATIENCE`)."""

COLUMNS = 8
"""Of a block, so many columns are made again."""

SAME = 1e-3
"""A product that differs by more of its size from what a file has is of another operator; by less, its noise tells."""

HEAD = struct.Struct("<4sIQIII")  # mark, bytes of the description, of the content, their checksums, that of these
MARK = b"rec\n"

PACKAGE = __name__.partition(".")[0]
"""Whose version belongs to what was asked."""

ASKED, PRODUCT, ANSWER, TENSORS = "asked", "product", "answer", "tensors"


@dataclass(frozen=True)
class Place:
    """Where the content of a record lies."""

    at: int
    size: int
    checksum: int
    described: Mapping[str, Any]


class Foreign(ValueError):
    """A file of another operator."""


class Journal:
    """One file of products; `asked` names the arguments of the count, of which a file that is there must be."""

    def __init__(self, path: Path, asked: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
        self.path, self.made_with = path, dict(made_with)
        self.asked: dict[str, Any] = json.loads(json.dumps(dict(asked)))
        self.failure: str | None = None  # why the last records could not be written
        self.found = 0  # columns of products that the file had
        self.difference = 0.0  # the largest |H v - (H v in the file)| / |v| that was seen
        self.prefix = ""  # which of several operators is meant, where vectors are the same
        self.turns = 0  # how often the operator has changed its way of multiplying
        self._known: dict[str, deque[Place]] = defaultdict(deque)
        self._left: dict[str, int] = defaultdict(int)  # products not asked for yet, by operator
        self._again: dict[str, int] = {}  # products that were made again, by operator; SINGLES once it is enough
        self._pending: list[bytes] = []
        self._waiting, self._written = 0, time.monotonic()
        self._size, self._inode = 0, 0  # of the file as this count knows it
        self._on, self.warned = True, False
        self._differs = ""  # what is another than where the file was made
        if path.exists():
            self._open()
        folder = real(path).parent
        while not folder.exists():
            folder = folder.parent
        self._room = self._size + shutil.disk_usage(folder).free // 2

    def product(self, operator: str, v: Tensor, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        """The product of the operator of that name with v (N,) or (N, k): that of the file, or made and kept."""
        if not self._on:
            return multiply(v)
        name = f"{self.prefix}{operator}.{self.turns}"
        key = _hash(name, v)
        places = self._known.get(key)
        if places:
            stored = self._tensors(places.popleft(), v.device)
            self._left[name] -= 1
            if stored is not None:
                self._compare(name, v, stored[0], multiply)
                self.found += 1 if v.ndim == 1 else v.shape[1]
                return stored[0]
        self._refuse_elsewhere(name)
        made = multiply(v).detach()
        made = made if _dense(made) else made.contiguous()
        self._keep(PRODUCT, key, [made], name)
        return made

    def answer(self, question: str, ask: Callable[[], T]) -> T:
        """What a clock or a meter said, a number or a word, the first time that this count asked."""
        if not self._on:
            return ask()
        places = self._known.get(question)
        if places:
            said: T = places.popleft().described["said"]
            return said
        said = ask()
        self._append({"kind": ANSWER, "key": question, "said": said}, b"")
        return said

    def tensors(self, name: str, make: Callable[[], Sequence[Tensor]], device: torch.device) -> Sequence[Tensor]:
        """Tensors that are not products of known vectors: those of the file, or made and kept."""
        if not self._on:
            return make()
        key = f"{self.prefix}{name}"
        places = self._known.get(key)
        found = self._tensors(places.popleft(), device) if places else None
        if found is not None:
            return found
        made = [t.detach() if _dense(t) else t.detach().contiguous() for t in make()]
        self._keep(TENSORS, key, made, "")
        return made

    def stop(self) -> None:
        """No more is kept: what follows saves itself. What waits for long is written."""
        self._on = False
        if time.monotonic() - self._written >= INTERVAL / 10:
            self.flush()

    def replaced(self) -> None:
        """The file is another one from now on, which holds what was kept here."""
        self._on, self._pending, self._waiting, self.failure = False, [], 0, None

    def flush(self) -> None:
        """Write what waits; what cannot be written is warned of once, and made again by a count that begins again."""
        self._written = time.monotonic()
        if not self._pending:
            return
        try:
            self._write(b"".join(self._pending))  # an interrupt here leaves it waiting
            self.failure = None
        except OSError as error:
            self.failure = f"the state could not be saved: {' '.join(str(error).split())}"
            warned, self.warned = self.warned, True
            if not warned:
                warnings.warn(f"{self.failure}; the count goes on", RuntimeWarning, stacklevel=2)
        self._pending, self._waiting = [], 0

    # the file

    def _open(self) -> None:
        """Learn what is there; raises ValueError for what is not of this count."""
        with self.path.open("rb") as file:
            seen = os.fstat(file.fileno())
            self._inode = seen.st_ino
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{self.path} must be the state of a count; it is not one: name another file")
            self._size, asked = len(MAGIC), None
            for at, described, size, checksum in _records(file, seen.st_size):
                if asked is None:
                    asked = described
                    if asked["kind"] != ASKED:
                        break
                else:
                    place = Place(at, size, checksum, described)
                    self._known[described["key"]].append(place)
                    self._left[described.get("of", "")] += described["kind"] == PRODUCT
                self._size = at + size
            if asked is None or asked["kind"] != ASKED:
                raise ValueError(f"{self.path} cannot be read, its beginning is damaged: name another file")
            self._check(asked)
            if seen.st_size > self._size:
                left = seen.st_size - self._size
                warnings.warn(
                    f"the last {left} bytes of {self.path} are not whole, as a crash leaves them: what they held is "
                    "made again",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _check(self, asked: Mapping[str, Any]) -> None:
        """Refuse a file of another count, naming what differs."""
        for name, kept in asked["asked"].items():
            if name in self.asked and self.asked[name] != kept:
                shown = "" if name in HIDDEN else f" = {kept}, got {self.asked[name]}"
                raise ValueError(
                    f"a run goes on as it began; {self.path} was started with "
                    f"{'another ' if name in HIDDEN else ''}{name}{shown}: pass the same, or name another file"
                )
        other = {k: v for k, v in asked["with"].items() if self.made_with.get(k) != v}
        self._differs = ", ".join(f"{name} {kept} (here {self.made_with.get(name)})" for name, kept in other.items())

    def _write(self, batch: bytes) -> None:
        target = real(self.path)
        if self._size + len(batch) > self._room:
            raise OSError(
                f"{self.path} would take {(self._size + len(batch)) / 2**30:.2f} GiB, more than half of what its disk "
                "had free"
            )
        if not self._inode:
            if target.exists():
                return  # another state has taken the place
            described = {"kind": ASKED, "asked": self.asked, "with": self.made_with}
            whole = MAGIC + _record(described, b"") + batch
            with replacing(self.path) as temporary:
                temporary.write_bytes(whole)
            self._inode, self._size = target.stat().st_ino, len(whole)
            return
        descriptor = os.open(target, os.O_RDWR)
        try:
            if os.fstat(descriptor).st_ino != self._inode:
                return
            os.ftruncate(descriptor, self._size)
            view, at = memoryview(batch), self._size
            try:
                while view:
                    done = os.pwrite(descriptor, view, at)
                    view, at = view[done:], at + done
                os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, self._size)
                raise
            self._size = at
        finally:
            os.close(descriptor)

    def _tensors(self, place: Place, device: torch.device) -> list[Tensor] | None:
        """What was kept; None where its bytes are not what was written."""
        with self.path.open("rb") as file:
            file.seek(place.at)
            content = bytearray(file.read(place.size))
        if len(content) != place.size or zlib.crc32(content) != place.checksum:
            return None
        found, at = [], 0
        for dtype, shape, stride in place.described["tensors"]:
            kind = getattr(torch, dtype)
            t, count = torch.empty_strided(shape, stride, dtype=kind), 1
            for n in shape:
                count *= n
            if count:
                t.copy_(torch.frombuffer(content, dtype=kind, count=count, offset=at).reshape(shape))
            at += count * t.element_size()
            found.append(t.to(device) if device.type != "cpu" else t)
        return found

    def _keep(self, kind: str, key: str, made: Sequence[Tensor], operator: str) -> None:
        described = {
            "kind": kind,
            "key": key,
            "of": operator,
            "tensors": [[str(t.dtype).removeprefix("torch."), list(t.shape), list(t.stride())] for t in made],
        }
        self._append(described, b"".join(bytes(_bytes(t)) for t in made))

    def _append(self, described: Mapping[str, Any], content: bytes) -> None:
        record = _record(described, content)
        self._pending.append(record)
        self._waiting += len(record)
        if self._waiting >= PENDING or time.monotonic() - self._written >= INTERVAL:
            self.flush()

    # whether it is the same operator

    def _compare(self, name: str, v: Tensor, stored: Tensor, multiply: Callable[[Tensor], Tensor]) -> None:
        """Make the first products again; raises `Foreign` where they are others."""
        made = self._again.get(name, 0)
        if made >= SINGLES or not bool(stored.isfinite().all()):
            return
        self._again[name] = SINGLES if v.ndim == 2 and v.shape[1] > 1 else made + 1
        if v.ndim == 2 and v.shape[1] > COLUMNS:
            v, stored = v[:, :COLUMNS].contiguous(), stored[:, :COLUMNS]
        off = torch.linalg.vector_norm((multiply(v).detach() - stored).to(torch.float64), dim=0)
        size = torch.linalg.vector_norm(stored.to(torch.float64), dim=0)
        length = torch.linalg.vector_norm(v.to(torch.float64), dim=0)
        if not bool((off <= SAME * size.max()).all()):
            raise self.foreign(float((off / size.max()).max()))
        self.difference = max(self.difference, float((off / torch.where(length > 0, length, 1.0)).max()))

    def foreign(self, relative: float) -> Foreign:
        """The error of a file of another operator, whose products differ by so much of their size."""
        return Foreign(
            f"{self.path} belongs to another operator, to other weights or to other data: a product that it holds "
            f"differs by {relative:.1e} of its size: load those that it was started with, or name another file"
        )

    def _refuse_elsewhere(self, name: str) -> None:
        """Refuse to make products anew which the file has from a machine that rounds in another way."""
        if self._differs and self._left[name] > 0:
            raise ValueError(
                f"the products in {self.path} were made with {self._differs}, where numbers are rounded otherwise, and "
                f"{self._left[name]} of them do not serve here: repeat that, or name another file to start anew"
            )


HIDDEN = ("generator", "null_vectors")
"""Arguments that are known by a hash."""

_CURRENT: ContextVar[Journal | None] = ContextVar("journal", default=None)


def current() -> Journal | None:
    """The journal of the count that is being made here, if it keeps one."""
    return _CURRENT.get()


@contextmanager
def keeping(
    path: Path | None, asked: Callable[[], Mapping[str, Any]], device: torch.device
) -> Iterator[Journal | None]:
    """A journal for the block; None, and nothing is kept, for no path.

    What the block made is written when it ends, by an interrupt or a failure, too; not by a refusal, which is a
    ValueError.
    """
    if path is None:
        before = _CURRENT.set(None)
        try:
            yield None
        finally:
            _CURRENT.reset(before)
        return
    with_ = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device.type}
    own = {PACKAGE: sys.modules[PACKAGE].__version__}
    journal = Journal(path, {**asked(), **own}, with_)
    before = _CURRENT.set(journal)
    try:
        yield journal
        journal.flush()
    except ValueError:
        raise
    except BaseException:
        journal.flush()
        raise
    finally:
        _CURRENT.reset(before)


def answered(question: str, ask: Callable[[], T]) -> T:
    """What a clock or a meter says: to a count that begins again, what it said the first time."""
    journal = _CURRENT.get()
    return ask() if journal is None else journal.answer(question, ask)


def made_once(name: str, make: Callable[[], Sequence[Tensor]], device: torch.device) -> Sequence[Tensor]:
    """Tensors of a stage that a count which begins again need not make."""
    journal = _CURRENT.get()
    return make() if journal is None else journal.tensors(name, make, device)


def is_journal(path: str | Path) -> bool:
    """Whether a regular file begins as a journal does."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # opening a FIFO would wait for its writer
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def hashed(t: Tensor) -> str:
    """Of type, shape and content."""
    return _hash("", t)


def _hash(name: str, v: Tensor) -> str:
    digest = hashlib.blake2b(f"{name} {v.dtype} {tuple(v.shape)} ".encode(), digest_size=16)
    digest.update(_bytes(v))
    return digest.hexdigest()


def _bytes(t: Tensor) -> memoryview:
    """The numbers of a tensor in order, whatever its strides."""
    numbers = t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return numbers.data


def _dense(t: Tensor) -> bool:
    """Whether the numbers lie in memory without gaps, in some order."""
    reach = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
    return t.numel() == 0 or reach == t.numel()


def _record(described: Mapping[str, Any], content: bytes) -> bytes:
    text = json.dumps(described).encode()
    numbers = (MARK, len(text), len(content), zlib.crc32(text), zlib.crc32(content))
    own = zlib.crc32(struct.pack("<4sIQII", *numbers))
    return HEAD.pack(*numbers, own) + text + content


def _records(file: Any, end: int) -> Iterator[tuple[int, dict[str, Any], int, int]]:
    """(where the content begins, the description, bytes of the content, its checksum) of every whole record."""
    at = file.tell()
    while at + HEAD.size <= end:
        file.seek(at)
        head = file.read(HEAD.size)
        mark, described, size, checksum, content, own = HEAD.unpack(head)
        if mark != MARK or own != zlib.crc32(struct.pack("<4sIQII", mark, described, size, checksum, content)):
            return
        text = file.read(described)
        at += HEAD.size + described
        if at + size > end or zlib.crc32(text) != checksum:
            return
        yield at, json.loads(text), size, content
        at += size
