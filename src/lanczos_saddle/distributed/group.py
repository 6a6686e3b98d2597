"""What ranks say to each other beside tensors of products: who is there, that all agree, and that one has failed.

Engine: torch.distributed. Messages and tensors on processors go by gloo, tensors on GPUs by NCCL (by gloo where two
ranks share a GPU). The groups are our own, with a timeout of their own: whatever the model's training set up stays.

A rank that raises says so in the next exchange, and all raise its message. A rank that dies closes its connections,
which the others see at once; one that hangs is given up after the timeout: `RankLost`.
"""

from __future__ import annotations

import datetime
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lanczos_saddle.networks.refusals import exited

T = TypeVar("T")

TIMEOUT = 600.0
"""Seconds without a sign of life after which a rank is taken for hung."""


class RankLost(RuntimeError):
    """A rank ended or gave no sign of life; there is nothing to go on with."""

    complete = True  # the message says all there is to say


class LeaderLost(RankLost):
    """Rank 0 is gone, which others were waiting for."""


class RankFailed(RuntimeError):
    """Code of a rank raised something else than ValueError; the message says which rank and what."""


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[None]:
    """The process group of all that were launched together, for the block; one that is there already is used."""
    if _joined():
        yield
        return
    try:
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"the ranks did not find each other within {timeout:g} s: {_first(error)}") from error
    try:
        yield
    finally:
        _CONNECTIONS.clear()
        if _joined():
            dist.destroy_process_group()


class Group:
    """All ranks of the default process group, on a connection of our own.

    Every method is called by all ranks in the same order. Raises ValueError where there is no process group, and
    `RankLost` from any method when a rank is gone.
    """

    leads: ClassVar[bool] = False  # whether this is rank 0, which works a question out while the others wait for it

    def __init__(self, device: torch.device | None = None, timeout: float = TIMEOUT) -> None:
        if not _joined():
            raise ValueError(
                "ranks need a process group; there is none: start with torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        self.rank, self.size, self.timeout = dist.get_rank(), int(dist.get_world_size()), timeout
        self.lock = threading.RLock()  # of what is said: an exchange is not cut in two by a sign of life
        with self.talking():
            self._words = self._tensors = _connection("gloo", timeout)
        places = self.gathered(place_of(device))
        if all(places) and len(set(places)) == self.size:
            with self.talking():
                self._tensors = _connection("nccl", timeout)

    @classmethod
    def refuse_within(cls) -> None:
        """Raises ValueError for what all ranks call, within a question that rank 0 alone works out."""
        if cls.leads:
            raise ValueError(
                "within a question the matrix is the one that it is given, A.led_by_one(lambda one: f(one)); got one "
                "that all ranks call, while the others wait"
            )

    @contextmanager
    def talking(self) -> Iterator[None]:
        """One exchange, alone; what a lost connection raises becomes `RankLost`."""
        with self.lock, self.heard():
            yield

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Turns what a lost connection raises into `RankLost`; for torch's threads, while their caller has the lock."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RankLost | RankFailed):
                raise
            raise RankLost(
                f"a rank ended, or gave no sign of life for {self.timeout:g} s: see what it said; a state that was "
                f"saved goes on from there ({_first(error)})"
            ) from error

    def gathered(self, thing: Any) -> list[Any]:
        """What each rank said, by rank."""
        found: list[Any] = [None] * self.size
        with self.talking():
            dist.all_gather_object(found, thing, group=self._words)
        return found

    def largest(self, *numbers: int) -> list[int]:
        """Of each number the largest that any rank has."""
        words = torch.tensor(numbers, dtype=torch.int64)
        with self.talking():
            dist.all_reduce(words, dist.ReduceOp.MAX, group=self._words)
        return [int(n) for n in words.tolist()]

    def said(self, words: Tensor) -> None:
        """Sets a tensor on the host to that of rank 0."""
        with self.talking():
            dist.broadcast(words, 0, group=self._words)

    def given(self, tensor: Tensor) -> None:
        """Sets a tensor to that of rank 0."""
        with self.talking():
            dist.broadcast(tensor, 0, group=self._tensors)

    def summed(self, tensor: Tensor, *, everywhere: bool) -> None:
        """Sets a tensor to its sum over the ranks, on all of them or on rank 0; on the others to anything then."""
        with self.talking():
            if everywhere:
                dist.all_reduce(tensor, group=self._tensors)
            else:
                dist.reduce(tensor, 0, group=self._tensors)

    def summed_at(self, tensor: Tensor, rank: int) -> None:
        """Sets a tensor on one rank to its sum over the ranks; on the others to anything."""
        with self.lock:
            self.summed_on(tensor, rank)

    def added(self, tensor: Tensor) -> None:
        """Sets a tensor on the host to its sum over the ranks, on all of them."""
        with self.talking():
            dist.all_reduce(tensor, group=self._words)

    def begun(self, tensor: Tensor, rank: int) -> Any:
        """Begins to set a tensor on the host to that of one rank, while others work on; `ended` waits for it."""
        with self.talking():
            return dist.broadcast(tensor, rank, group=self._words, async_op=True)

    def ended(self, begun: Any) -> None:
        """The tensor is there."""
        with self.talking():
            begun.wait()

    def scattered(self, into: Tensor, parts: list[Tensor] | None) -> None:
        """Sets a tensor to this rank's of the parts that rank 0 has."""
        given = into if self._direct(into) else into.cpu()
        with self.talking():
            dist.scatter(given, None if parts is None else [p.to(given.device) for p in parts], 0, self._tensors)
        if given is not into:
            into.copy_(given)

    def collected(self, part: Tensor) -> list[Tensor] | None:
        """The parts of all ranks, by rank, on rank 0; None on the others."""
        given = part if self._direct(part) else part.cpu()
        found = [torch.empty_like(given) for _ in range(self.size)] if self.rank == 0 else None
        with self.talking():
            dist.gather(given, found, 0, self._tensors)
        return None if found is None else [p.to(part.device) for p in found]

    def everywhere(self, part: Tensor) -> Tensor:
        """The parts of all ranks, of one shape, one after the other along the first dimension, on every rank."""
        given = part if self._direct(part) else part.cpu()
        found = given.new_empty(self.size * len(part), *part.shape[1:])
        with self.talking():
            dist.all_gather(list(torch.split(found, len(part))), given.contiguous(), group=self._tensors)
        return found.to(part.device)

    def shared_out(self, rows: Tensor, cuts: Sequence[slice]) -> Tensor:
        """Of rows (k, N) the sum over all ranks, (k, n_r): on each rank its own cut of the columns."""
        own = rows
        for rank, cut in enumerate(cuts):
            part = rows[:, cut].contiguous()
            if part.numel():
                self.summed_at(part, rank)
            own = part if rank == self.rank else own
        return own

    def shown(self, tensor: Tensor, rank: int) -> None:
        """Sets a tensor to that of a rank; within a backward pass, too."""
        given = tensor if self._direct(tensor) else tensor.cpu()
        with self.heard():
            dist.broadcast(given, rank, group=self._tensors)
        if given is not tensor:
            tensor.copy_(given)

    def summed_on(self, tensor: Tensor, rank: int) -> None:
        """Sets a tensor to its sum over ranks on one of them, on the others to anything; in a backward pass, too."""
        given = tensor if self._direct(tensor) else tensor.cpu()
        with self.heard():
            dist.reduce(given, rank, group=self._tensors)
        if given is not tensor and self.rank == rank:
            tensor.copy_(given)

    def agreed(self, numbers: list[int]) -> list[int]:
        """Of each number the largest that any rank has; within a backward pass, too."""
        words = torch.tensor(numbers, dtype=torch.int64)
        with self.heard():
            dist.all_reduce(words, dist.ReduceOp.MAX, group=self._words)
        return [int(n) for n in words.tolist()]

    def _direct(self, tensor: Tensor) -> bool:
        """Whether parts go from where they are: gloo takes those of a GPU through the host."""
        return tensor.device.type == "cpu" or self._tensors is not self._words

    def attempted(self, work: Callable[[], T]) -> T:
        """work() on every rank; where it raised on some, all raise what the first of those said."""
        made: T | None = None
        failure: Exception | None = None
        try:
            made = work()
        except RankLost:
            raise
        except SystemExit as error:
            failure = exited(error)
        except Exception as error:  # of the user's model, loss or data
            failure = error
        if self.largest(failure is not None)[0]:
            said = self.gathered(None if failure is None else (isinstance(failure, ValueError), _said(failure)))
            first = next(r for r, words in enumerate(said) if words is not None)
            alike = all(words == said[first] for words in said)
            misuse, text = said[first]
            text = text if alike else f"rank {first}: {text}"
            raise (ValueError(text) if misuse else RankFailed(text)) from failure
        return made  # type: ignore[return-value]

    def require_same(self, digest: str, text: str) -> None:
        """Raises ValueError with the text where ranks differ in a digest."""
        found = self.gathered(digest)
        if len({d for d in found if d}) > 1:
            odd = next(r for r, d in enumerate(found) if d and d != next(filter(None, found)))
            raise ValueError(f"{text}; rank {odd} differs from others")


_CONNECTIONS: dict[tuple[int, str, float], Any] = {}
"""Groups of this package, made once for each process group: every one of them holds connections."""


def _connection(backend: str, timeout: float) -> Any:
    """All ranks by a backend, with a timeout of our own; called by all ranks."""
    name = (id(dist.group.WORLD), backend, timeout)
    if name not in _CONNECTIONS:
        _CONNECTIONS[name] = dist.new_group(backend=backend, timeout=datetime.timedelta(seconds=timeout))
    return _CONNECTIONS[name]


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def place_of(device: torch.device | None) -> str:
    """The name of a GPU among all machines; empty for a processor."""
    if device is None or device.type != "cuda":
        return ""
    return f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _first(error: Exception) -> str:
    """What torch raised, on one line, without places in its sources and advice on other logs."""
    text = str(error).splitlines()[0].partition(" This is typically")[0]
    return text.rpartition("] ")[2][:200]
