"""The state of a run on disk, from which it goes on: tensors (safetensors), and in the header what was decided for it.

What a run decided at its start (probes, basis kept or not, threshold, depth) holds for every continuation, whatever
memory is free or budget is given then: a resumed run is the run that was not interrupted.
"""

from __future__ import annotations

import json
import math
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lanczos_saddle.machine.files import descriptor_of, replacing
from lanczos_saddle.machine.journal import current, is_journal
from lanczos_saddle.machine.writable import check_writable

KEY = "lanczos_saddle_state"
FORMAT = 4
"""Raised when a file of before can no longer be continued."""

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Their names in a safetensors file."""

SAME_THRESHOLD = 1e-6
"""Relative: a threshold that is a fraction of |H| differs by less between machines; the file's is used."""


@dataclass(frozen=True)
class Plan:
    """What was decided before the first probe was drawn; every continuation keeps it."""

    threshold: float
    probes: int
    reorthogonalize: bool
    steps: int | None  # a budget's, per probe; None where no pilot divided it
    max_products: int | None  # the budget that was divided
    pilot: int  # products of the pilot that divided it
    enumerated: int | None  # products of the enumeration of negative eigenvectors; None where none was made
    null_vectors: int  # vectors of the caller's, taken out
    measured: bool = False  # whether the noise is measured on the finished run, which multiplies in its own way
    deflation: int = 0  # products that looked for vectors at both ends
    taken: int = 0  # those found and taken out, which are kept beside the run
    way: str = ""  # what was chosen to be done with the budget
    beginning: Mapping[str, Any] | None = None  # what was found before (`counting.beginning`), beside tensors of it
    beside: Sequence[float] = ()  # other thresholds that were named before the run, in multiples of this one

    def check_same(
        self, path: Path | None, threshold: float, reorthogonalize: bool | Literal["auto"], asked: Mapping[str, Any]
    ) -> None:
        """Refuse to go on with another setting than the run's; raises ValueError. What is left open is the file's.

        `asked` by name: "probes", "enumerate_negative", "null_vectors", and "beside": thresholds that were not named
        before the run are others, of which its probes are not independent.
        """
        near = abs(threshold - self.threshold) <= SAME_THRESHOLD * self.threshold
        basis = self.reorthogonalize if reorthogonalize == "auto" else bool(reorthogonalize)
        probes = asked["probes"]
        settings: list[tuple[str, object, object]] = [
            ("threshold", self.threshold, self.threshold if near else threshold),
            ("probes", self.probes, self.probes if probes is None else probes),
            ("reorthogonalize", self.reorthogonalize, basis),
            ("enumerate_negative", self.enumerated is not None, asked["enumerate_negative"]),
            ("null_vectors", self.null_vectors, asked["null_vectors"]),
            ("thresholds beside it", sorted(self.beside), sorted(asked["beside"])),
        ]
        for name, kept, got in settings:
            if kept != got:
                raise ValueError(
                    f"a run goes on as it began; {path} was started with {name} = {kept}, got {got}: pass the same, "
                    "or name another file"
                )


def chosen_state(state: Any, checkpoint: Any) -> Path | None:
    """The file of a run's state, from its name or from the old name of the argument; checked before any product.

    Raises ValueError for both, for a name that cannot be written, and for a file that is there and is no state.
    """
    if checkpoint is not None:
        if state is not None:
            raise ValueError("checkpoint= is the old name of state=; got both: pass state= alone")
        warnings.warn("checkpoint= is now state=; the old name goes with the next release", DeprecationWarning, 5)
        state = checkpoint
    if state is None:
        return None
    if not isinstance(state, str | os.PathLike):
        raise ValueError(f"state names a file, a string or a path; got {type(state).__name__}")
    check_writable(state)
    path = Path(state)
    if descriptor_of(path) is not None:
        raise ValueError(f"a state is read back from a file; {path} is none: name another")
    if path.exists() and not is_journal(path):
        read_header(path)
    return path


def has_begun(path: Path | None) -> bool:
    """Whether the recurrence that counts has saved itself there; before, the file has what led to it (`journal`)."""
    return path is not None and path.exists() and not is_journal(path)


@dataclass(frozen=True)
class Streamed:
    """A tensor (m, k, N) of a state that is never held whole; `at`(j) gives m rows (N,), its part at j of k.

    One of fewer dimensions, (k, N) or (N,), is (1, k, N) or (1, 1, N).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    at: Callable[[int], Iterable[Tensor]]


class Saved:
    """The same in a file: ``saved[i, j]`` and ``saved[:, j]`` read what they say; `rows` reads all, whatever it is."""

    def __init__(self, path: str | Path, name: str) -> None:
        self._file = safe_open(path, framework="pt", device="cpu")
        self._slices: Any = self._file.get_slice(name)  # type: ignore[no-untyped-call]
        self.shape: tuple[int, ...] = tuple(self._slices.get_shape())
        self.dtype: torch.dtype = self._slices[:0].dtype

    def __getitem__(self, index: tuple[int | slice, int]) -> Tensor:
        found: Tensor = self._slices[index]
        return found

    def rows(self) -> Iterator[Tensor]:
        """All of them, (N,) each, in the order of the file."""
        if len(self.shape) == 1:
            yield self._slices[:]
        elif len(self.shape) == 2:
            yield from (self._slices[j] for j in range(self.shape[0]))
        else:
            yield from (self[i, j] for i in range(self.shape[0]) for j in range(self.shape[1]))


def write_state(path: str | Path, tensors: Mapping[str, Tensor | Streamed], facts: Mapping[str, Any]) -> None:
    """Write a state in place of the one before; the file is whole or as it was, else OSError.

    The file is the same whether a tensor is streamed or not. One that is in slices over ranks is (`streamed`).
    """
    tensors = {name: part.streamed() if hasattr(part, "streamed") else part for name, part in tensors.items()}
    streamed = {name: part for name, part in tensors.items() if isinstance(part, Streamed)}
    on_host = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if isinstance(t, Tensor)}
    if streamed:
        _write_streamed(path, on_host, streamed, facts)
        return
    with replacing(path) as temporary:
        try:
            save_file(on_host, temporary, metadata={KEY: _header(_checksum(on_host, facts), facts)})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def _write_streamed(
    path: str | Path, tensors: Mapping[str, Tensor], streamed: Mapping[str, Streamed], facts: Mapping[str, Any]
) -> None:
    """By the form of safetensors (names, types, shapes and places as JSON, then bytes), numbers of 8 bytes first."""
    every: dict[str, Tensor | Streamed] = {**tensors, **streamed}
    entries: dict[str, Any] = {}
    end = 0
    for name in sorted(every, key=lambda name: (-every[name].dtype.itemsize, name)):
        start, end = end, end + math.prod(every[name].shape) * every[name].dtype.itemsize
        shape = list(every[name].shape)
        entries[name] = {"dtype": TYPES[every[name].dtype], "shape": shape, "data_offsets": [start, end]}

    def head(total: int) -> bytes:
        text = json.dumps({"__metadata__": {KEY: _header(total, facts)}, **entries}).encode()
        return text.ljust(-(-len(text) // 8) * 8)

    room = len(head(2**32 - 1))  # the sum is known when all is written
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for name, tensor in tensors.items():
                file.seek(8 + room + entries[name]["data_offsets"][0])
                file.write(_bytes(tensor))
            for name, part in streamed.items():
                steps, size = ([1, *part.shape])[-2:]
                width = size * part.dtype.itemsize
                for j in range(steps):
                    for i, row in enumerate(part.at(j)):
                        file.seek(8 + room + entries[name]["data_offsets"][0] + (i * steps + j) * width)
                        file.write(_bytes(row.detach().cpu().contiguous()))
            file.seek(0)
            file.write(room.to_bytes(8, "little") + head(0).ljust(room))
        total = _checksum({**tensors, **{name: Saved(temporary, name) for name in streamed}}, facts)
        with open(temporary, "r+b") as begun:
            begun.seek(8)
            begun.write(head(total).ljust(room))


def read_header(path: str | Path) -> dict[str, Any]:
    """What was decided for the run; raises ValueError for a file that is no state, or one of another version."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"a state is read back from a file; {path} is none: name another")
        with safe_open(path, framework="pt", device="cpu") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise _unreadable(path, error) from error
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT or not isinstance(header.get("facts"), dict):
        raise ValueError(
            f"{path} must be a state of format {FORMAT}; it is "
            f"{f'of format {found}' if found else 'not one, or older'}: name another file to start anew"
        )
    if _checksum({}, header["facts"]) != header.get("sum of facts"):
        raise _unreadable(path, "its content is not what was written")
    return header


def read_state(
    path: str | Path, names: tuple[str, ...], device: torch.device, streamed: tuple[str, ...] = ()
) -> dict[str, Any]:
    """All tensors, `names` among them, on a device; raises ValueError for a file that is not as it was written.

    Those that are `streamed` stay in the file (`Saved`).
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors: dict[str, Tensor | Saved] = {
                name: Saved(path, name) if name in streamed else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if missing := set(names) - tensors.keys():
        raise _unreadable(path, f"it lacks {', '.join(sorted(missing))}")
    if _checksum(tensors, header["facts"]) != header.get("sum"):
        raise _unreadable(path, "its content is not what was written")
    return {name: t.to(device, copy=True) if isinstance(t, Tensor) else t for name, t in tensors.items()}


def read_some(
    path: str | Path, names: tuple[str, ...], device: torch.device, place: Callable[[Saved], Tensor] | None = None
) -> dict[str, Tensor]:
    """These alone, whose sum `read_state` checks before the run goes on; raises ValueError where one is missing.

    `place` makes tensors of what stays in the file.
    """
    read_header(path)
    try:
        if place is not None:
            return {name: place(Saved(path, name)) for name in names}
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).to(device) for name in names}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def shape_of(path: str | Path, name: str) -> tuple[int, ...]:
    """Of a tensor in a state, which is not read; raises ValueError where it is missing."""
    try:
        return Saved(path, name).shape
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_plan(path: str | Path) -> Plan:
    """The plan of a run; raises ValueError for a file that holds a run without one."""
    facts = read_header(path)["facts"]
    try:
        return Plan(**facts)
    except TypeError as error:
        raise ValueError(
            f"{path} must be the state of a count; it is one of Lanczos.save alone: name another file"
        ) from error


class Saver:
    """Saves a run where it is asked to; what cannot be saved is warned of once, and the run goes on."""

    def __init__(self, path: Path | None, save: Callable[[Path, Mapping[str, Any]], None], plan: Plan) -> None:
        self.path = path
        self.failure: str | None = None  # why the last state could not be saved
        self._save, self._facts, self._warned = save, asdict(plan), False

    def __call__(self) -> None:
        """Save what is known now."""
        if self.path is None:
            return
        journal = current()
        try:
            self._save(self.path, self._facts)
            self.failure = None
            if journal is not None:
                journal.replaced()
        except OSError as error:
            self.failure = f"the state could not be saved: {' '.join(str(error).split())}"
            warned, self._warned = self._warned, True
            if journal is not None:  # of one file one warning
                warned, journal.warned = warned or journal.warned, True
            if not warned:
                warnings.warn(f"{self.failure}; the count goes on", RuntimeWarning, stacklevel=2)


def _header(total: int, facts: Mapping[str, Any]) -> str:
    """The facts, which are read before all tensors are, have a sum of their own beside that of everything."""
    return json.dumps({"format": FORMAT, "sum": total, "sum of facts": _checksum({}, facts), "facts": dict(facts)})


def _checksum(tensors: Mapping[str, Tensor | Saved], facts: Mapping[str, Any]) -> int:
    """CRC-32 over the facts and over names, types, shapes and bytes; a GB in about a second."""
    total = zlib.crc32(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        for part in [tensor] if isinstance(tensor, Tensor) else tensor.rows():
            total = zlib.crc32(_bytes(part), total)
    return total


def _bytes(tensor: Tensor) -> memoryview:
    """Those of a contiguous tensor on the host."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _unreadable(path: str | Path, error: object) -> ValueError:
    return ValueError(
        f"{path} must be a state that a count has saved; it cannot be read: {' '.join(str(error).split())}: "
        "name another file to start anew"
    )
