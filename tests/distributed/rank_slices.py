"""What each rank runs where vectors are in slices: operations of torch, counts, faults of one rank, states."""

import os
import signal

import torch
import torch.distributed as dist
from rank_networks import convolutional, small

from lanczos_saddle import (
    Hessian,
    assemble,
    check_operator,
    count_eigenvalues,
    exact_eigenvalues,
    share,
    spectral_density,
    vector_parallel,
)
from lanczos_saddle.distributed import slice_store
from lanczos_saddle.distributed.group import Group, RankFailed
from lanczos_saddle.distributed.sliced_vectors import Book
from lanczos_saddle.distributed.slices import even_slice
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.operators.vectors import gaussian, orthonormal, whole


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def cuts():
    """Slices of 60 coordinates, of different sizes; on four ranks one is empty."""
    ends = {1: [60], 2: [17, 60], 4: [9, 9, 40, 60]}[dist.get_world_size()]
    starts = [0, *ends]
    return slice(starts[dist.get_rank()], ends[dist.get_rank()])


SPECTRUM = torch.cat([torch.zeros(7), torch.linspace(-2, -0.5, 11), torch.linspace(0.5, 3, 42)]).double()
"""11 negative and 42 positive eigenvalues, 7 that are zero: of these 4 are rows of zeros."""


def prescribed():
    """A dense matrix of that spectrum."""
    q = torch.linalg.qr(torch.randn(56, 56, generator=seeded(0), dtype=torch.float64)).Q
    matrix = torch.zeros(60, 60, dtype=torch.float64)
    alive = torch.arange(60) % 16 != 3
    matrix[alive.nonzero(), alive.nonzero().mT] = q @ torch.diag(SPECTRUM[4:]) @ q.mT
    return matrix


class Rows:
    """Some rows of a dense matrix on each rank: multiplies slices, by means of its own."""

    def __init__(self, matrix, own):
        self.rows, self.own, self.shape = matrix[own], own, tuple(matrix.shape)
        self.dtype, self.device = matrix.dtype, matrix.device

    def product_own(self, v):
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, v)
        return self.rows @ torch.cat(every)


OPERATIONS = {
    "entries": lambda x, y: (2 * x + y.square() - x / 3).abs(),
    "in place": lambda x, y: x.clone().addcmul_(y, torch.ones(3, 1).double(), value=-2).div_(3.0).add_(y, alpha=0.5),
    "masked": lambda x, y: x.clone().masked_fill_(torch.tensor([[True], [False], [True]]), 0.0) + y,
    "chosen": lambda x, y: torch.where(torch.tensor(True), x, y) + torch.where(x > 0, x, 0.0),
    "type": lambda x, y: (x.mT.to(torch.float32).to(torch.float64) + y.mT).mT,
    "along": lambda x, y: torch.linalg.vecdot(x, y),
    "norms": lambda x, y: torch.linalg.vector_norm(x - y, dim=1),
    "largest": lambda x, y: torch.linalg.vector_norm(x - y, ord=float("inf")),
    "norms of columns": lambda x, _: torch.linalg.vector_norm(x.mT, dim=0, dtype=torch.float64),
    "sum of rows": lambda x, y: (x + y).sum(dim=0),
    "product": lambda x, y: x @ y.mT,
    "with few": lambda x, _: (x.mT @ torch.arange(6.0).double().view(3, 2)).mT,
    "vector": lambda x, y: x[0] @ y.mT,
    "vectors": lambda x, y: x[0] @ y[1],
    "columns": lambda x, y: torch.cat([x.mT, y.mT[:, 1:]], dim=1).mT,
    "stacked": lambda x, y: torch.stack([x[0], y[2]]),
    "outer": lambda x, _: torch.outer(x[1], torch.arange(4.0).double()).mT,
    "into": lambda x, y: torch.addmv(x[0], y.mT, torch.arange(3.0).double(), out=x.clone()[1]),
    "finite": lambda x, y: (x / y).isfinite().all(),
    "zero": lambda x, _: (x.mT == 0).all(dim=1),
    "any": lambda x, _: (x > 1.5).any(),
    "how many": lambda x, _: (x[0] > 0).sum(),
    "some": lambda x, y: x[0][(y[0] > 0).nonzero().squeeze(1)] + 1,
    "put": lambda x, y: put(x[0].clone(), y[0] > 0, y[1][y[0] > 0]),
    "expanded": lambda x, y: x[0].expand(2, 60) + y[:2],
    "split": lambda x, y: torch.split(x + y, 2)[1],
    "zeros": lambda x, y: torch.zeros_like(x[0]) + y[0],
    "rows": lambda x, _: sum(row for row in x),
}
"""Each is done to vectors in slices, and by torch to whole ones."""

UNKNOWN = {
    "cumsum": lambda x: x.cumsum(1),
    "sort": lambda x: x.sort(dim=1),
    "part": lambda x: x[:, :5],
    "entry": lambda x: float(x[0, 3]),
    "whole beside": lambda x: x + torch.ones(60).double(),
    "into whole": lambda x: torch.ones(3, 60).double().copy_(x),
    "flat": lambda x: x.reshape(-1),
    "other slices": lambda x: x[0] + x[0][x[0] > 0],
}
"""What is refused: of one slice alone it would be another thing."""


def put(x, mask, values):
    x[mask] = values
    return x


def told(work):
    try:
        return work()
    except (ValueError, RankFailed, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def operations():
    """{name: (in slices, whole)}, and what is said of others; rank 0 holds no more than its slices."""
    matrix = vector_parallel(Rows(prescribed(), cuts()))

    def asked(led):
        x, y = (gaussian(led, 3, seeded(seed)).mT.clone() for seed in (1, 2))
        both = [torch.randn(60, 3, generator=seeded(seed), dtype=torch.float64).mT.clone() for seed in (1, 2)]
        found = {name: (whole(work(x, y)), work(*both)) for name, work in OPERATIONS.items()}
        found["drawn"] = whole(x), both[0]
        q, p = orthonormal(x.mT), torch.linalg.qr(both[0].mT).Q
        found["orthonormal"] = q.mT @ q, torch.eye(3).double()
        found["span"] = whole((q @ (q.mT @ y.mT)).mT), (p @ (p.mT @ both[1].mT)).mT
        run = Lanczos(led, gaussian(led, 3, seeded(1)), capacity=4)
        run.advance(9)
        own = Lanczos(prescribed(), both[0].mT, capacity=4)
        own.advance(9)
        u, c = gaussian(led, 2, seeded(4)), torch.randn(7, 2, generator=seeded(5), dtype=torch.float64)
        v = torch.randn(60, 2, generator=seeded(4), dtype=torch.float64)
        found["basis"] = run.basis, own.basis
        found["combined"] = whole(run.kept.combined(1, c).mT), own.kept.combined(1, c).mT
        found["inner"] = run.kept.inner(2, 8, u), own.kept.inner(2, 8, v)
        forms = run.kept.forms({0: 9, 2: 5}, run.current, u), own.kept.forms({0: 9, 2: 5}, own.current, v)
        found |= {f"form {i}": pair for i, pair in enumerate(zip(*forms, strict=True))}
        unknown = {name: told(lambda work=work: work(x)) for name, work in UNKNOWN.items()}
        kept = led._book.store.kept.values()
        held = [max(one.shape) for one in kept if isinstance(one, torch.Tensor)]
        del run
        again = told(lambda: whole(led @ x.mT[:, 0]))  # what was refused has left nothing behind
        return found, unknown, max(held, default=0), (again, prescribed() @ both[0][0]), len(kept)

    return matrix.led_by_one(asked)


def shared(problem, empty=False):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    part = (None if rank == 0 else share(problem[2], rank=rank - 1, ranks=ranks - 1)) if empty else share(problem[2])
    return vector_parallel(None if part is None else Hessian(*problem[:2], part))


SLICED = {
    "bases": {"method": "lanczos", "probes": 5, "steps": 20, "reorthogonalize": True},
    "no bases": {"method": "lanczos", "probes": 5, "steps": 20, "reorthogonalize": False},
    "relative": {"relative_threshold": 1e-3, "probes": 4, "steps": 8},
}
"""Counts of the small network."""


def slice_counts():
    """Counts of a network and of prescribed spectra; what is refused."""
    matrix, last = shared(small(), empty=True), dist.get_rank() == dist.get_world_size() - 1
    found = {}
    for name, options in SLICED.items():
        asked = options if "relative_threshold" in options else {**options, "threshold": 1e-3}
        found[name] = count_eigenvalues(matrix, **{"method": "lanczos", **asked})
    rows = Rows(prescribed(), cuts())
    found["prescribed"] = count_eigenvalues(vector_parallel(rows), threshold=0.1, probes=8, steps=56, precision=1e-9)
    rank = dist.get_rank()
    few = Rows(torch.diag(torch.tensor([-1.0, 0.0, 2.0]).double()), even_slice(3, rank, dist.get_world_size()))
    found["fewer than ranks"] = count_eigenvalues(vector_parallel(few), threshold=0.1, probes=4)
    if dist.get_world_size() == 4:
        return found
    problem = convolutional()
    part = share(problem[2])
    for name, kept in (("float32", True), ("float32 without", False)):
        found[name] = count_eigenvalues(
            vector_parallel(Hessian(*problem[:2], part)), threshold=1e-3, method="lanczos", probes=4, steps=12,
            reorthogonalize=kept,
        )  # fmt: skip
    found["check"] = check_operator(matrix)
    asked = {"threshold": 1e-3}
    found["refused"] = {
        "exact": told(lambda: count_eigenvalues(matrix, method="exact", **asked)),
        "elimination": told(lambda: count_eigenvalues(matrix, method="elimination", **asked)),
        "ekfac": told(lambda: count_eigenvalues(matrix, preconditioner="ekfac", **asked)),
        "enumerated": told(lambda: count_eigenvalues(matrix, enumerate_negative=True, **asked)),
        "null vectors": told(lambda: count_eigenvalues(matrix, null_vectors=torch.ones(57, 1).double(), **asked)),
        "density": told(lambda: spectral_density(matrix, probes=2, steps=5)),
        "assemble": told(lambda: assemble(matrix)),
        "eigenvalues": told(lambda: exact_eigenvalues(matrix)),
        "one coordinate": told(lambda: vector_parallel(Rows(torch.ones(1, 1).double(), slice(rank > 0, 1)))),
        "gap": told(lambda: vector_parallel(Rows(prescribed(), slice(31 * rank, 30 + 30 * rank)))),
        "short": told(lambda: vector_parallel(Rows(prescribed(), slice(30 * rank, 30 + 29 * rank)))),
        "one alone": told(lambda: vector_parallel(rows if last else None)),
    }
    return found


def slice_faults():
    """Code that is wrong on purpose, and what ranks raise."""
    own = Rows(prescribed(), cuts())
    matrix, last = vector_parallel(own), dist.get_rank() == dist.get_world_size() - 1
    network = shared(small())
    asked = {"threshold": 0.1, "method": "lanczos", "probes": 3, "steps": 12, "precision": 1e-9}
    found = {"right": count_eigenvalues(matrix, **asked)}

    def wrong(place, name, other, work):
        right = getattr(place, name)
        setattr(place, name, other(right))
        try:
            return told(work)
        finally:
            setattr(place, name, right)

    def unreduced(_):
        return lambda group, rows, cuts: rows[:, cuts[group.rank]].contiguous()

    found["products not summed"] = wrong(Group, "shared_out", unreduced, lambda: count_eigenvalues(network, **asked))

    def unsummed(on_all):
        def alone(summed):
            def its_own(group, tensor, *, everywhere):
                if everywhere is not on_all:
                    summed(group, tensor, everywhere=everywhere)

            return its_own

        return alone

    bases = {**asked, "reorthogonalize": True}
    found["coefficients not summed"] = wrong(
        Group, "summed", unsummed(True), lambda: count_eigenvalues(matrix, **bases)
    )
    found["sums not put together"] = wrong(Group, "summed", unsummed(False), lambda: count_eigenvalues(matrix, **bases))

    def forgetful(local):
        calls = [0]

        def forgets(store, into, name, args, kwargs):
            calls[0] += 1
            if last and calls[0] == 40:
                store.failure = MemoryError("none left on purpose")
            return local(store, into, name, args, kwargs)

        return forgets

    found["memory"] = wrong(slice_store.Store, "local", forgetful, lambda: count_eigenvalues(matrix, **asked))
    found["afterwards"] = count_eigenvalues(matrix, **asked)
    return found


def interrupted(matrix, path):
    """What a rank raises where rank 0 is interrupted within its twentieth block of products."""
    ask, products = Book.ask, [0]

    def asked(book, name, *arguments, own=()):
        products[0] += name == "multiply"
        if name == "multiply" and products[0] == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return ask(book, name, *arguments, own=own)

    Book.ask = asked
    try:
        count_eigenvalues(matrix, **LONG, steps=16, state=path)
    except KeyboardInterrupt as stop:
        return type(stop).__name__
    finally:
        Book.ask = ask


LONG = {"threshold": 1e-3, "method": "lanczos", "probes": 3, "precision": 1e-9}


def slice_states(folder):
    """Runs that began on one, two or four ranks, and go on here."""
    ranks = dist.get_world_size()
    if ranks == 1:
        for kept in (True, False):
            asked = {**LONG, "steps": 6, "reorthogonalize": kept, "state": folder / f"slices-{kept}-1"}
            count_eigenvalues(Hessian(*small()), **asked)
        return None
    matrix, before, found = shared(small()), ranks // 2, {}
    for kept in (True, False):
        count_eigenvalues(matrix, **LONG, steps=6, reorthogonalize=kept, state=folder / f"slices-{kept}-{ranks}")
        found[kept] = count_eigenvalues(
            matrix, **LONG, steps=10, reorthogonalize=kept, state=folder / f"slices-{kept}-{before}"
        )
    if ranks == 2:
        found["interrupted"] = interrupted(matrix, folder / "slices-interrupted")
    return found
