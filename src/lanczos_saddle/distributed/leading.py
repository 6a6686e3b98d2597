"""One rank works out a question, the others multiply: what differs between machines is decided once.

    rank 0    question(A): each product tells the others to multiply, gives them the vectors, and collects the sum
    others    wait, multiply what they are given with their own samples, and get the answer at the end

Rank 0 gives a sign of life four times within the timeout, however long it works alone. Nothing that it raises, an
interrupt included, cuts an exchange in two.
"""

from __future__ import annotations

import io
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from lanczos_saddle.dense.blocked_ldl import mixing
from lanczos_saddle.distributed.columns import CPU, ByColumns, Columns, Form, bytes_of, lacking
from lanczos_saddle.distributed.group import Group, LeaderLost, RankFailed, RankLost
from lanczos_saddle.distributed.knowing import shared_knowledge
from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.distributed.probe_runs import Part, ProbeRun, recipe
from lanczos_saddle.distributed.slice_store import Store
from lanczos_saddle.distributed.sliced_vectors import Book
from lanczos_saddle.distributed.spread_basis import AT_A_TIME, SCRATCH, Shard, Spread, room_for_basis
from lanczos_saddle.machine.interrupts import interrupts_wait
from lanczos_saddle.machine.memory import give_back
from lanczos_saddle.operators.fidelity import Fidelity
from lanczos_saddle.operators.knowledge import Knowledge
from lanczos_saddle.operators.operator import check_vector

T = TypeVar("T")

ALIVE, PRODUCT, CONVERT, MOVE, OFFERS, COMPARE, ANOTHER, SLOPE, KNOW, END = range(10)
BASIS, DO, DROP, ROOM, RUN, COLUMNS, LACKING, SLICES, THETA = range(10, 19)
"""What rank 0 may ask for."""

PAYS = 3000
"""Rows from which a matrix is written out over ranks, where one of them has room for it, too."""

TYPES = (torch.float32, torch.float64)

HEAD, INLINE = 24, 2**12
"""Bytes of a question: three numbers, and as much of what belongs to it as has room."""

ANSWERED, RAISED, INTERRUPTED = range(3)
"""How a question ended."""


class LedInterrupt(KeyboardInterrupt):
    """Rank 0 was interrupted."""


def lead(matrix: OverRanks, question: Callable[[Any], T]) -> T:
    """question(A) of rank 0, on every rank; called by all."""
    if matrix.group.rank:
        answer: T = follow(matrix)
        return answer
    with leading(matrix) as led:
        led.talk.answer = question(led)
    return led.talk.answer  # type: ignore[no-any-return]


@contextmanager
def leading(matrix: OverRanks) -> Iterator[Led]:
    """On rank 0: the matrix as its sole caller has it, while the others `follow`; they are told how the block ended."""
    Group.refuse_within()
    talk, Group.leads = Talk(matrix), True
    try:
        with talk.alive():
            yield (matrix.leader or Led)(talk, matrix, 0)
        answer = _packed(ANSWERED, talk.answer)
    except RankLost:
        raise
    except BaseException as error:  # of an answer that cannot be sent, too
        how = INTERRUPTED if isinstance(error, KeyboardInterrupt) else RAISED
        talk.end(how, _packed(how, error))
        raise
    finally:
        Group.leads = False
    talk.end(ANSWERED, answer)


def follow(matrix: OverRanks) -> Any:
    """On the other ranks: multiply until rank 0 has its answer, which is returned, or raised.

    An interrupt is rank 0's to answer, which gets the same one; a second one ends this rank at once.
    """
    with interrupts_wait(patience=1):
        while True:
            said = torch.zeros(HEAD + INLINE, dtype=torch.uint8)
            try:
                matrix.group.said(said)
            except RankLost as error:
                raise LeaderLost(f"rank {matrix.group.rank} waits for rank 0: {error}") from error
            asked, index, number = said[:HEAD].view(torch.int64).tolist()
            if asked == END:
                return _ending(matrix, index, said)
            if asked != ALIVE:
                _answer(matrix, asked, index, number, said)


class Talk:
    """What rank 0 says to the others, one exchange after the other."""

    def __init__(self, matrix: OverRanks) -> None:
        self.group = matrix.group
        self.answer: Any = None
        self.lost: RankLost | None = None
        self.device = matrix.device
        self.book: Book | None = None  # of vectors in slices
        self.free: list[int] = []  # numbers of matrices that nobody holds any more
        self._last = self._bases = 0
        self._dropped: list[int] = []  # bases that nobody holds any more, of which the others do not know yet
        matrix.followed = {0: matrix}

    def numbered(self) -> int:
        """The number of one matrix more; the lowest that is free."""
        if self.free:
            return self.free.pop()
        self._last += 1
        return self._last

    @contextmanager
    def exchange(self, asked: int, index: int, number: int = 0, data: Tensor | None = None) -> Iterator[None]:
        """Ask for something, and let nothing come between until it is done; `data` goes with it, so many bytes."""
        number = number if data is None else len(data)
        with interrupts_wait(), self.group.lock:
            if self.lost is not None:
                raise self.lost
            try:
                while self._dropped:
                    self.group.said(_question(DROP, self._dropped.pop(), 0))
                self.group.said(_question(asked, index, number, data))
                if data is not None and len(data) > INLINE:
                    self.group.said(data)
                yield
            except RankLost as error:
                self.lost = error
                raise

    @contextmanager
    def asked(self, number: int, name: str, *arguments: Any) -> Iterator[None]:
        """All ranks do this with their shards of a basis; the block is this rank's part of it."""
        data = _bytes((name, arguments))
        with self.exchange(DO, number, data=data):
            yield

    def dropped(self, number: int) -> None:
        """The others let their shards go before the next exchange."""
        self._dropped.append(number)

    def basis(self, *form: Any) -> Spread:
        """A new one of (probes, room, N, type), a shard of it on every rank."""
        self._bases += 1
        data = _bytes(form)
        with self.exchange(BASIS, self._bases, data=data):
            return Spread(self, self._bases, _shard(self.group, self.device, form))

    def run(self, matrix: Any, form: Any) -> tuple[int, Part]:
        """(number, this rank's part) of new recurrences over all ranks, each of which has the matrix whole."""
        self._bases += 1
        data = _bytes(form)
        with self.exchange(RUN, self._bases, data=data):
            return self._bases, _part(self.group, matrix, form)

    def columns(self, matrix: OverRanks, form: Form) -> tuple[int, Columns]:
        """(number, this rank's part) of a matrix that is to be written out by columns over all ranks."""
        self._bases += 1
        data = _bytes(form)
        with self.exchange(COLUMNS, self._bases, data=data):
            return self._bases, _columns(self.group, matrix, form)

    def slices(self) -> Book:
        """Where vectors in slices are kept, on every rank."""
        self._bases += 1
        with self.exchange(SLICES, self._bases):
            return Book(self, self._bases, Store(self.group, {}, self.device))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Signs of life from a thread of its own, while no exchange is under way."""
        done = threading.Event()
        thread = threading.Thread(target=self._signs, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _signs(self, done: threading.Event) -> None:
        while not done.wait(self.group.timeout / 4):
            if self.lost is None and self.group.lock.acquire(blocking=False):
                try:
                    self.group.said(_question(ALIVE, 0, 0))
                except RankLost as error:
                    self.lost = error
                finally:
                    self.group.lock.release()

    def end(self, how: int, packed: bytes) -> None:
        """Tell the others; where they are lost, there is nobody to tell."""
        if self.lost is not None:
            return
        with self.exchange(END, how, data=_bytes(packed, packed=True)):
            pass


class Led:
    """The matrix of all ranks on rank 0, an `Operator` (N, N): each product is asked of the others.

    What is known of it, its comparison with the user's function, and its other types are those of all samples.
    """

    def __init__(self, talk: Talk, matrix: OverRanks, index: int) -> None:
        self.talk, self.matrix, self.index = talk, matrix, index
        self.shape, self.dtype, self.device = matrix.shape, matrix.dtype, matrix.device
        self.problem = Whole(self)

    @property
    def arithmetic(self) -> torch.dtype:
        """The least precise type that any rank computes in."""
        return self.matrix.arithmetic

    def __matmul__(self, v: Tensor, /) -> Tensor:
        check_vector(v, self.shape[0], self.dtype, self.device)
        rows = v.detach().reshape(self.shape[0], -1).mT.contiguous()
        with self.talk.exchange(PRODUCT, self.index, len(rows)):
            self.matrix.group.given(rows)
            product = self.matrix.product(rows.mT, everywhere=False)
        return product if v.ndim == 2 else product[:, 0]

    @cached_property
    def fidelity(self) -> Fidelity:
        """The worst of what every rank finds on samples of its own. Raises ValueError where products differ."""
        with self.talk.exchange(COMPARE, self.index):
            return self.matrix.compared()

    @cached_property
    def knowledge(self) -> Knowledge:
        """What is proved of it by all ranks together."""
        with self.talk.exchange(KNOW, self.index):
            return shared_knowledge(self.matrix, self._point)

    def another_way(self) -> bool:
        """Whether products are computed in another mode from now on."""
        with self.talk.exchange(ANOTHER, self.index):
            return self.matrix.another_way()

    def to(self, dtype: torch.dtype) -> Led:
        """The same matrix with products in another floating-point type."""
        index = self.talk.numbered()
        with self.talk.exchange(CONVERT, self.index, len(TYPES) * index + TYPES.index(dtype)):
            other = self.matrix.to(dtype)
        return type(self)(self.talk, other, index)

    def at(self, theta: Tensor) -> Led:
        """The same kind of matrix at other parameters theta (N,), over the same data."""
        check_vector(theta, self.shape[0], self.dtype, self.device)
        index, theta = self.talk.numbered(), theta.clone()
        with self.talk.exchange(MOVE, self.index, index):
            self.matrix.group.given(theta)
            other = self.matrix.at(theta)
        return type(self)(self.talk, other, index)

    @property
    def network(self) -> Any:
        """This rank's own matrix, of its share of the samples or of all: what a preconditioner is made of."""
        return self.matrix.share

    @property
    def ranks(self) -> int:
        """How many ranks share it."""
        return self.matrix.group.size

    def spread_basis(self, probes: int, room: int, size: int, dtype: torch.dtype) -> Spread:
        """A basis of which each rank keeps some of `size` coordinates."""
        return self.talk.basis(probes, room, size, dtype)

    def basis_room(self, free: int, beside: int, part: int, probes: int) -> int:
        """Bytes that a basis may take, of `free` bytes on this rank one `part`, `beside` among them."""
        beside += SCRATCH * 8 * self.shape[0] + 2 * AT_A_TIME
        probes = probes if hasattr(self.matrix, "replica") else 1
        with self.talk.exchange(ROOM, self.index):
            return room_for_basis(self.matrix.group, self.device, free, beside, part, probes)

    @property
    def always_columns(self) -> bool:
        """Whether the caller chose that it is written out by columns over the ranks, however small."""
        return self.matrix.dense == "columns"

    def takes_columns(self, operator: Any, copies: int, *, alone: bool) -> bool:
        """Whether an operator made of this is written out by columns over the ranks; `alone`: rank 0 has room for it.

        Raises ValueError where it is to be, and some rank has no room for its share.
        """
        choice, size, ranks = self.matrix.dense, operator.shape[0], self.ranks
        if (
            choice == "one"
            or ranks == 1
            or recipe(operator, self) is None
            or (choice == "auto" and alone and size < PAYS)
        ):
            return False
        with self.talk.exchange(LACKING, self.index, bytes_of(size, ranks, copies)):
            said = lacking(self.matrix.group, bytes_of(size, ranks, copies))
        if said and not (choice == "auto" and alone):
            raise ValueError(
                f"inertia by columns at N = {size} {said}: take more ranks on other machines, or count matrix-free"
            )
        return not said

    def columns(self, operator: Any, living: Tensor | None, copies: int, generator: torch.Generator) -> ByColumns:
        """An operator made of this, to be written out over the ranks; rows other than `living` are zero."""
        found = recipe(operator, self)
        assert found is not None
        signs = mixing(operator.shape[0] if living is None else len(living), generator, CPU).signs
        form = Form(self.index, found[0], living, signs, copies)
        number, own = self.talk.columns(self.matrix, form)
        return ByColumns(self.talk, number, own, operator.shape[0], living)

    def recurrences(self, operator: Any, probes: Tensor, **options: Any) -> ProbeRun | None:
        """A run each of whose probes is on one rank; None where not every rank can make the operator of its own."""
        found = recipe(operator, self) if hasattr(self.matrix, "replica") else None
        if found is None or probes.shape[1] < 2:
            return None
        steps, witnesses = found
        number, part = self.talk.run(self.matrix, (self.index, steps, probes.shape[1], options))
        run = ProbeRun(self.talk, number, part, operator, witnesses, options["reorthogonalize"])
        run.begin(probes)
        return run

    def __del__(self) -> None:
        self.talk.free.append(self.index)  # the others' copy goes when the number is given again

    def _point(self) -> tuple[float, float]:
        precise = self.to(torch.float64) if self.dtype != torch.float64 and self.problem.offers(torch.float64) else self
        with self.talk.exchange(SLOPE, precise.index):
            return precise.matrix.slope()


class Whole:
    """The function of all ranks' samples, as far as the methods ask for it."""

    def __init__(self, led: Led) -> None:
        self._led, self._offered = weakref.proxy(led), dict[torch.dtype, bool]()

    @property
    def theta(self) -> Tensor:
        """The parameters (N,); gathered, where each rank has some."""
        led = self._led
        if not hasattr(led.matrix, "collected_theta"):
            theta: Tensor = led.matrix.theta
            return theta
        with led.talk.exchange(THETA, led.index):
            gathered: Tensor = led.matrix.collected_theta()
        return gathered

    def offers(self, dtype: torch.dtype) -> bool:
        """Whether it evaluates in that type on every rank."""
        if dtype not in self._offered:
            led = self._led
            with led.talk.exchange(OFFERS, led.index, TYPES.index(dtype)):
                self._offered[dtype] = led.matrix.offers(dtype)
        return self._offered[dtype]


def _question(asked: int, index: int, number: int, data: Tensor | None = None) -> Tensor:
    """What is asked, as a tensor of one length, whatever it is."""
    words = torch.zeros(HEAD + INLINE, dtype=torch.uint8)
    words[:HEAD].view(torch.int64)[:] = torch.tensor([asked, index, number])
    if data is not None and len(data) <= INLINE:
        words[HEAD : HEAD + len(data)] = data
    return words


def _answer(matrix: OverRanks, asked: int, index: int, number: int, words: Tensor) -> None:
    """Do what rank 0 asked for; what is raised here, it has been told."""
    matrices = matrix.followed
    if asked in (BASIS, DO, DROP, RUN, COLUMNS, SLICES):
        _with_basis(matrix, asked, index, words)
        return
    one = matrices[index]
    try:
        if asked == PRODUCT:
            rows = torch.empty(number, one.shape[0], dtype=one.dtype, device=one.device)
            one.group.given(rows)
            one.product(rows.mT, everywhere=False)
        elif asked == CONVERT:
            index, kind = divmod(number, len(TYPES))
            matrices[index] = one.to(TYPES[kind])
        elif asked == MOVE:
            theta = torch.empty(one.shape[0], dtype=one.dtype, device=one.device)
            one.group.given(theta)
            matrices[number] = one.at(theta)
        elif asked == OFFERS:
            one.offers(TYPES[number])
        elif asked == COMPARE:
            one.compared()
        elif asked == ANOTHER:
            one.another_way()
        elif asked == SLOPE:
            one.slope()
        elif asked == KNOW:
            shared_knowledge(one, None)
        elif asked == THETA:
            one.collected_theta()  # type: ignore[attr-defined]
        elif asked == ROOM:
            room_for_basis(one.group, one.device)
        elif asked == LACKING:
            lacking(one.group, number)
    except (ValueError, RankFailed):
        pass


def _with_basis(matrix: OverRanks, asked: int, index: int, words: Tensor) -> None:
    """Make a shard of a basis, do something with it, or let it go."""
    if asked == DROP:
        matrix.shards.pop(index, None)
        return
    if asked == SLICES:
        matrix.shards[index] = Store(matrix.group, matrix.followed, matrix.device)
        return
    said = _received(matrix, words)
    if asked == BASIS:
        with suppress(ValueError, RankFailed):
            matrix.shards[index] = _shard(matrix.group, matrix.device, said)
    elif asked == RUN:
        with suppress(ValueError, RankFailed):
            matrix.shards[index] = _part(matrix.group, matrix.followed[said[0]], said)
    elif asked == COLUMNS:
        with suppress(ValueError, RankFailed):
            matrix.shards[index] = _columns(matrix.group, matrix.followed[said.index], said)
    else:
        name, arguments = said
        with suppress(ValueError, RankFailed):  # rank 0 raises it
            getattr(matrix.shards[index], name)(*arguments)


def _shard(group: Group, device: torch.device, form: Any) -> Shard:
    """This rank's part of a new basis; raises on all ranks where one has no memory for it."""
    give_back()  # what the preflight used; rank 0 does it, too
    return group.attempted(lambda: Shard(group, device, *form))


def _part(group: Group, matrix: Any, form: Any) -> Part:
    """This rank's part of new recurrences."""
    give_back()
    _, steps, columns, options = form
    return group.attempted(lambda: Part(group, matrix.replica, steps, columns, **options))


def _columns(group: Group, matrix: OverRanks, form: Form) -> Columns:
    """This rank's part of a matrix by columns."""
    if not hasattr(matrix, "replica"):
        matrix.total()  # asked of all ranks once, and known then
    return group.attempted(lambda: Columns(group, matrix, form))


def _ending(matrix: OverRanks, how: int, words: Tensor) -> Any:
    """The answer of rank 0, or what it raised."""
    what = _received(matrix, words)
    matrix.shards.clear()
    if how == INTERRUPTED:
        raise LedInterrupt
    if how == RAISED:
        raise what
    return what


def _received(matrix: OverRanks, words: Tensor) -> Any:
    """What rank 0 sends with a question, in it or after it."""
    length = int(words[:HEAD].view(torch.int64)[2])
    data = words[HEAD : HEAD + length]
    if length > INLINE:
        data = torch.zeros(length, dtype=torch.uint8)
        matrix.group.said(data)
    return pickle.loads(data.numpy().tobytes())


def _bytes(what: Any, *, packed: bool = False) -> Tensor:
    """A pickle, or what is one, as a tensor."""
    return torch.frombuffer(bytearray(what if packed else pickle.dumps(what)), dtype=torch.uint8)


def _packed(how: int, what: Any) -> bytes:
    """A pickle of an answer or an exception; of what cannot be sent, the exception that says so."""
    if how == INTERRUPTED:
        return pickle.dumps(None)
    try:
        data = pickle.dumps(what)
        pickle.load(io.BytesIO(data))
    except Exception as error:  # what users raise may hold anything
        if how == RAISED:
            return pickle.dumps(RankFailed(f"rank 0: {type(what).__name__}: {what}"))
        raise ValueError(f"what a question returns is sent to all ranks; it cannot be pickled: {error}") from error
    return data
