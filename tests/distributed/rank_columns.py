"""Exact counts by columns over ranks: matrices that every rank makes alike, and what each rank runs."""

import os
import pathlib
import signal
import tempfile
from contextlib import contextmanager

import torch
import torch.distributed as dist
from rank_networks import relu, small

from lanczos_saddle import (
    Hessian,
    Shifted,
    count_eigenvalues,
    data_parallel,
    exact_eigenvalues,
    inertia,
    probe_parallel,
    share,
    weight_parallel,
)
from lanczos_saddle.dense import exact
from lanczos_saddle.distributed import columns as columns_module
from lanczos_saddle.distributed import leading
from lanczos_saddle.distributed.columns import Columns
from lanczos_saddle.distributed.group import Group
from lanczos_saddle.distributed.panel_ldl import Elimination
from lanczos_saddle.machine.progress import watching
from lanczos_saddle.training import problems

F64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


def rotated(values):
    """Q diag(values) Q', Q from a QR factorization."""
    values = torch.as_tensor(values, dtype=F64)
    q = torch.linalg.qr(gaussian(len(values), len(values))).Q
    matrix = (q * values) @ q.mT
    return (matrix + matrix.mT) / 2


def symmetric(size):
    matrix = gaussian(size, size)
    return (matrix + matrix.mT) / 2


def zero_blocks(half):
    """[[0, B], [B', 0]]: no diagonal block of the first half can be factored."""
    b, zero = gaussian(half, half, seed=1), torch.zeros(half, half, dtype=F64)
    return torch.cat([torch.cat([zero, b], 1), torch.cat([b.T, zero], 1)])


def pairs(count):
    """diag of [[0, 1], [1, 0]], partners far apart."""
    eye, zero = torch.eye(count, dtype=F64), torch.zeros(count, count, dtype=F64)
    return torch.cat([torch.cat([zero, eye], 1), torch.cat([eye, zero], 1)])


def clustered(size):
    """Two clusters a part in a million apart, on both sides of -1e-3, and outliers."""
    half = size // 2 - 10
    return rotated([-1e-3 * (1 + 1e-6)] * half + [-1e-3 * (1 - 1e-6)] * half + [1.0] * (size - 2 * half))


def blank(size, living):
    """Coordinates outside `living` have rows of zeros."""
    matrix = torch.zeros(size, size, dtype=F64)
    matrix[10 : 10 + living, 10 : 10 + living] = symmetric(living)
    return matrix


MATRICES = {
    "one": (torch.tensor([[-2.0]], dtype=F64), (0.0, -3.0)),
    "three": (symmetric(3), (0.1,)),
    "seven": (symmetric(7), (0.0,)),
    "random": (symmetric(173), (0.3, -5.0)),
    "zero atom": (rotated([-0.5] * 9 + [0.0] * 140 + [2.0] * 10), (1e-6, -1e-6)),
    "zero blocks": (zero_blocks(67), (0.0,)),
    "pairs": (pairs(65), (0.0, 0.5)),
    "cluster": (clustered(131), (-1e-3, 0.0)),
    "definite": (rotated(torch.linspace(1, 2, 90)), (1.5003,)),
    "zero": (torch.zeros(40, 40, dtype=F64), (1e-3,)),
    "blank": (blank(130, 103), (1e-6, -1e-6)),
    "huge": (symmetric(60) * 2.0**900, (0.3 * 2.0**900,)),
    "tiny": (symmetric(60) * 2.0**-900, (0.3 * 2.0**-900,)),
}
"""By name a matrix and thresholds: indefinite, singular, sizes that neither panels nor ranks divide."""


def quadratic(matrix):
    """The Hessian of x'Ax / 2."""
    x = torch.nn.Parameter(torch.zeros(len(matrix), dtype=F64))
    return Hessian.of(lambda: x @ (matrix @ x) / 2, [x], fidelity=False)


def refused(work):
    try:
        work()
    except ValueError as error:
        return str(error)
    return ""


def told(found):
    return tuple(found), found.margin, found.separation, found.holds_for(0.0)


def inertia_by_columns():
    """Of every matrix; four ranks take those whose sizes tell them from two."""
    found = {}
    names = MATRICES if dist.get_world_size() == 2 else ("one", "seven", "zero atom", "zero blocks", "blank")
    for name in names:
        matrix, thresholds = MATRICES[name]
        shared = probe_parallel(quadratic(matrix), dense="columns")
        found[name] = [told(inertia(shared, t)) for t in thresholds]
    return found


SEVERAL = (1e-2, 1e-3)


def counts_by_columns():
    """Counts of networks; of all samples together, and where every rank has all of them; four ranks take one."""
    found = {}
    networks = {"small": small(), "relu": relu()}
    for name in list(networks)[dist.get_world_size() == 4 :]:
        problem = networks[name]
        model, loss, data = problem
        part = share(data)
        shared = data_parallel(None if part is None else Hessian(model, loss, part), dense="columns")
        found[name] = count_eigenvalues(shared, threshold=1e-3, method="exact")
        found[f"{name} replicas"] = count_eigenvalues(
            probe_parallel(Hessian(model, loss, data), dense="columns"), threshold=1e-3, method="exact"
        )
    found["several"] = count_eigenvalues(shared, threshold=SEVERAL, method="exact")
    found["shifted"] = shared.led_by_one(lambda led: tuple(inertia(Shifted(led, 0.01), 0.02)))
    if dist.get_world_size() == 2:
        model, loss, data = networks["small"]
        cut = weight_parallel(model, loss, share(data), fidelity=False)
        cut.dense = "columns"
        found["small weights"] = count_eigenvalues(cut, threshold=1e-3, method="exact")
        model, loss, data = problem
    empty = None if dist.get_rank() == 0 else share(data, rank=dist.get_rank() - 1, ranks=dist.get_world_size() - 1)
    shared = data_parallel(None if empty is None else Hessian(model, loss, empty), dense="columns")
    found["empty"] = count_eigenvalues(shared, threshold=1e-3, method="exact")
    return found


def digits_by_columns():
    """The trained digits network, N = 1885, by samples."""
    problem = problems.built_in("digits")
    model = problem.model.double()
    x, y = problem.data
    shared = data_parallel(Hessian(model, problem.loss, share((x.double(), y))), dense="columns")
    return count_eigenvalues(shared, threshold=DIGITS, method="exact")


DIGITS = 1e-4


class Listening:
    """Stages by name, and how far they came."""

    def __init__(self):
        self.stages, self.products = [], 0

    def opened(self, stage):
        self.stages.append(stage)

    def closed(self, stage, *, failed):
        pass

    def made(self, products):
        self.products += products

    def expect(self, products, seconds):
        pass


def choices():
    """Who writes the matrix out, what is refused, what is heard, and what is kept where."""
    matrix, t = MATRICES["random"][0], 0.3
    found, made = {}, []
    init = Columns.__init__

    def counted(columns, group, matrix, form):
        init(columns, group, matrix, form)
        held = {columns.held.flat.data_ptr(): columns.held.flat.numel(), columns.lower.flat.data_ptr(): 0}
        made.append((form.copies, columns.held.flat.numel(), len(held)))

    Columns.__init__ = counted
    auto, one, always = (probe_parallel(quadratic(matrix), dense=d) for d in ("auto", "one", "columns"))

    def asked(name, work):
        made.clear()
        found[name] = work(), list(made)

    asked("small", lambda: tuple(inertia(auto, t)))
    leading.PAYS = 100
    asked("pays", lambda: tuple(inertia(auto, t)))
    asked("one", lambda: tuple(inertia(one, t)))
    with tempfile.TemporaryDirectory() as folder:
        for name, shared in (("kept", auto), ("kept columns", always), ("again", always)):
            path = pathlib.Path(folder) / f"{shared.dense}.state"
            asked(name, lambda m=shared, p=path: count_eigenvalues(m, threshold=0.1, method="exact", state=p))
    asked("lapack", lambda: tuple(inertia(always, t, method="lapack")))
    leading.PAYS = 3000
    free, exact.free_bytes = exact.free_bytes, lambda *_: 100_000
    asked("no room", lambda: tuple(inertia(auto, t)))
    asked("eigenvalues", lambda: refused(lambda: exact_eigenvalues(auto, memory=100_000)))
    exact.free_bytes = free
    asked("counted", lambda: count_eigenvalues(always, threshold=0.1, method="exact").method)
    Columns.__init__ = init
    available, columns_module.available_bytes = columns_module.available_bytes, lambda _: 2**28 + 10**5
    found["ranks full"] = refused(lambda: inertia(always, t))
    columns_module.available_bytes = available
    found["unknown"] = refused(lambda: probe_parallel(quadratic(matrix), dense="rows"))

    def heard(led):
        listener = Listening()
        with watching(listener):
            inertia(led, t)
        return [(s.name, s.done, s.total) for s in listener.stages], listener.products

    found["heard"] = always.led_by_one(heard)
    return found


WRONG = ("panel not given", "update left out", "other pivots", "columns not summed", "columns not mixed")


def wrong_variants():
    """A last rank that does one thing wrongly: what inertia says, (certified, counts), or its refusal."""
    last = dist.get_rank() == dist.get_world_size() - 1
    matrix, t = MATRICES["random"][0], 0.3
    model, loss, data = small()
    by_samples = data_parallel(Hessian(model, loss, share(data)), dense="columns")
    by_probes, found = probe_parallel(quadratic(matrix), dense="columns"), {}
    for name in WRONG:
        shared = by_samples if name == "columns not summed" else by_probes
        with spoiled(name, last):
            found[name] = refused(lambda m=shared, at=0.01 if name == "columns not summed" else t: result(m, at, found))
    found["right"] = [told(inertia(by_probes, t)), told(inertia(by_samples, 0.01))]
    return found


def result(matrix, t, found):
    found["said"] = told(inertia(matrix, t))
    raise ValueError(f"certified: {found['said'][-1]}")


@contextmanager
def spoiled(name, last):
    """On the last rank; where a step of all is left out, on all."""
    kept = Elimination.step, Elimination._update, Group.summed_at, Columns._put
    step, update, _, put = kept
    if last and name == "panel not given":

        def stale(elimination, index):
            ended = elimination.group.ended

            def lost(work):
                ended(work)
                if index not in elimination.lower.kept:
                    elimination._message[2 + elimination._message.shape[1] :] = 0

            elimination.group.ended = lost
            try:
                step(elimination, index)
            finally:
                del elimination.group.ended

        Elimination.step = stale
    elif last and name == "update left out":
        Elimination._update = lambda e, index, *rest: update(e, index, *rest) if index != e.lower.kept[-1] else None
    elif last and name == "other pivots":
        Elimination._update = lambda e, index, stop, pivots, inverse: update(e, index, stop, pivots, 1.001 * inverse)
    elif name == "columns not summed":
        Group.summed_at = lambda *_: None
    elif last and name == "columns not mixed":

        def raw(columns, place, rows):
            mixing = columns.mixing
            columns.mixing = type("Plain", (), {"rows": staticmethod(lambda x: x)})
            put(columns, place, rows)
            columns.mixing = mixing

        Columns._put = raw
    try:
        yield
    finally:
        Elimination.step, Elimination._update, Group.summed_at, Columns._put = kept


def interrupted_columns():
    """An interrupt of rank 0 in the midst of LDL', what the last rank sees, and the same question afterwards."""
    matrix, t = MATRICES["random"][0], 0.3
    shared, step, found = probe_parallel(quadratic(matrix), dense="columns"), Elimination.step, []

    def signaled(elimination, index):
        if index == 4 and dist.get_rank() == 0:
            os.kill(os.getpid(), signal.SIGINT)
        step(elimination, index)

    Elimination.step = signaled
    try:
        inertia(shared, t)
    except KeyboardInterrupt as stop:
        found.append(type(stop).__name__)
    Elimination.step = step
    return [*found, told(inertia(shared, t)), len(shared.shards)]
