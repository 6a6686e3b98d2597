"""What each rank runs: scenarios by name, their results on rank 0 pickled for the test, which judges them."""

import os
import pathlib
import pickle
import signal
import sys
import traceback
from contextlib import contextmanager

import torch
import torch.distributed as dist
from rank_columns import (  # noqa: F401  # scenarios
    choices,
    counts_by_columns,
    digits_by_columns,
    inertia_by_columns,
    interrupted_columns,
    wrong_variants,
)
from rank_networks import convolutional, relu, small
from rank_slices import operations, slice_counts, slice_faults, slice_states
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, random_split

from lanczos_saddle import (
    GaussNewton,
    Hessian,
    Interrupted,
    classify,
    count_eigenvalues,
    count_in,
    data_parallel,
    exact_eigenvalues,
    lanczos_over_ranks,
    probe_parallel,
    share,
    spectral_density,
    vector_parallel,
)
from lanczos_saddle.counting import planning
from lanczos_saddle.distributed import leading, probe_runs, spread_basis
from lanczos_saddle.distributed.group import Group, RankFailed
from lanczos_saddle.krylov.lanczos import Lanczos, recurrences
from lanczos_saddle.preconditioning import choice

SLICES = {"operations": operations, "slice_counts": slice_counts, "slice_faults": slice_faults,
          "slice_states": lambda: slice_states(FOLDER)}  # fmt: skip
"""Scenarios of vectors in slices."""

LIMIT = 550
"""Seconds after which a rank ends whatever it waits for."""


def hessian(problem, part, **options):
    model, loss, _ = problem
    return None if part is None else Hessian(model, loss, part, **options)


def vectors(size, columns=3, dtype=torch.float64):
    return torch.randn(size, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def refused(work):
    try:
        work()
    except ValueError as error:
        return str(error)
    return ""


def products():
    """Shares of all forms, each as the product of all."""
    problem = small()
    x, y = problem[2]
    rank, ranks = dist.get_rank(), dist.get_world_size()
    data = TensorDataset(x, y)
    forms = {
        "rows": share((x, y)),
        "uneven": ((x[:2], y[:2]) if rank == 0 else (x[2:], y[2:])) if ranks == 2 else share((x, y)),
        "empty": None if rank == 0 else share((x, y), rank=rank - 1, ranks=ranks - 1),
        "batches": share([(x[a : a + 7], y[a : a + 7]) for a in range(0, 41, 7)]),
        "loader": share(DataLoader(data, batch_size=4)),
        "shuffled": share(DataLoader(data, batch_size=4, shuffle=True)),
        "distributed": share(DataLoader(data, batch_size=4, sampler=DistributedSampler(data, shuffle=False))),
    }
    if ranks == 4:
        forms = {name: forms[name] for name in ("rows", "empty")}
    found = {}
    for name, part in forms.items():
        matrix = data_parallel(hessian(problem, part, fidelity=False))
        found[name] = matrix @ vectors(matrix.shape[0])
    run = lanczos_over_ranks(hessian(problem, (x, y), fidelity=False), vectors(matrix.shape[0], 3), 12)
    found["probes"] = run
    if ranks == 4:
        return found
    found["vector"] = matrix @ vectors(matrix.shape[0])[:, 0]
    wrapped = nn.parallel.DistributedDataParallel(problem[0])
    found["wrapped"] = data_parallel(Hessian(wrapped, problem[1], share((x, y)))) @ vectors(matrix.shape[0])
    gauss = data_parallel(GaussNewton(problem[0], problem[1], share((x, y))))
    found["gauss-newton"] = gauss @ vectors(matrix.shape[0])
    weighted = convolutional()
    part = hessian(weighted, share(weighted[2]))
    found["float32"] = data_parallel(part) @ vectors(part.shape[0], dtype=torch.float32)
    return found


def refusals():
    problem = small()
    x, y = problem[2]
    data, rank = TensorDataset(x, y), dist.get_rank()
    sampler = DistributedSampler(data, shuffle=False)
    loader = DataLoader(data, batch_size=4, sampler=sampler)
    matrix = data_parallel(hessian(problem, share((x, y))))
    size = matrix.shape[0]
    found = {
        "padded": refused(lambda: data_parallel(hessian(problem, loader))),
        "vectors": refused(lambda: matrix @ (vectors(size) + (rank == 1))),
        "shapes": refused(lambda: matrix @ vectors(size + (rank == 1))),
        "columns": refused(lambda: matrix @ vectors(size, 2 + rank)),
        "nobody": refused(lambda: data_parallel(None)),
    }
    even = TensorDataset(x[:40], y[:40])
    for name, options in {"one part": {"rank": 0}, "seeds": {"seed": rank}, "some": {} if rank else None}.items():
        part = None if options is None else DistributedSampler(even, **options)
        own = share((x, y)) if options is None else DataLoader(even, batch_size=4, sampler=part)
        found[name] = refused(lambda own=own: data_parallel(hessian(problem, own)))
    moved = small()
    if rank == 1:
        with torch.no_grad():
            moved[0][0].bias[0] += 1e-12
    found["weights"] = refused(lambda: data_parallel(hessian(moved, share((x, y)))))
    found["types"] = refused(
        lambda: data_parallel(hessian(problem, share((x, y)), dtype=(torch.float64, torch.float32)[rank % 2]))
    )
    found["function"] = refused(lambda: data_parallel(Hessian.of(lambda: problem[0](x).square().mean(), problem[0])))

    smoothed = hessian((problem[0], nn.CrossEntropyLoss(label_smoothing=0.1 * rank), (x, y)), share((x, y)))
    found["another loss"] = refused(lambda: data_parallel(smoothed))
    found["another loss in slices"] = refused(lambda: vector_parallel(smoothed))

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(rank))  # the same set, cut in another order
    batches = list(zip(x[order].split(4), y[order].split(4), strict=True))
    found["another order"] = refused(lambda: data_parallel(hessian(problem, share(batches))))
    found["another order in slices"] = refused(lambda: vector_parallel(hessian(problem, share((x[order], y[order])))))
    part, _ = random_split(data, [30, len(x) - 30], generator=torch.Generator().manual_seed(rank))
    found["other samples"] = refused(lambda: data_parallel(hessian(problem, share(DataLoader(part, batch_size=4)))))

    light = y == 1 if rank == 0 else y != 1  # every sample of a rank weighs the same, but not those of two
    unequal = lambda o, t: nn.functional.cross_entropy(o, t, weight=torch.tensor([1.0, 4.0, 1.0], dtype=o.dtype))  # noqa: E731
    own = Hessian(problem[0], unequal, (x[light], y[light]), fidelity=False)
    found["unequal"] = refused(lambda: data_parallel(own))
    found["unequal in slices"] = refused(lambda: vector_parallel(own))
    mixing = lambda o, t: nn.functional.cross_entropy(o - o.mean(0), t, reduction="none")  # noqa: E731
    alone = Hessian(problem[0], mixing, (x[rank : rank + 1], y[rank : rank + 1]), fidelity=False)
    found["mixing"] = refused(lambda: data_parallel(alone))

    mesh, sharded = init_device_mesh("cpu", (2,)), small()
    sharded[0][2].weight = nn.Parameter(distribute_tensor(sharded[0][2].weight.detach(), mesh, [Shard(1)]))
    found["sharded"] = refused(lambda: hessian(sharded, (x, y)))
    found["fully sharded"] = refused(lambda: hessian((fully_shard(small()[0], mesh=mesh), *sharded[1:]), (x, y)))

    def loss(outputs, targets):
        if rank == 1 and loss.broken:
            raise FloatingPointError("broken on purpose")
        return nn.functional.cross_entropy(outputs, targets)

    def leaves():
        if rank == 1:
            sys.exit(3)

    found["left"] = refused(lambda: Group().attempted(leaves))
    loss.broken = False
    matrix = data_parallel(Hessian(problem[0], loss, share((x, y)), fidelity=False))
    loss.broken = True
    try:
        count_eigenvalues(matrix, threshold=1e-3)
    except Exception as error:
        found["broken"] = f"{type(error).__name__}: {error}"
    loss.broken = False
    found["afterwards"] = matrix @ vectors(size)
    return found


def collected():
    """What the refusal of sharded weights advises: products with the weights of an FSDP2 model and of a DTensor."""
    model, loss, data = small()
    mesh, found = init_device_mesh("cpu", (dist.get_world_size(),)), {}
    tensor = small()[0]
    tensor[2].weight = nn.Parameter(distribute_tensor(tensor[2].weight.detach(), mesh, [Shard(1)]))
    for name, sharded in (("fsdp2", fully_shard(small()[0], mesh=mesh)), ("dtensor", tensor)):
        whole = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        model.load_state_dict(whole)
        matrix = data_parallel(Hessian(model, loss, share(data)))
        found[name] = matrix @ vectors(matrix.shape[0])
    return found


def counts():
    """Questions of the face, each called by all ranks; the answers of the last rank are those that are told."""
    found = {}
    matrix = data_parallel(hessian(small(), share(small()[2])))
    found["exact"] = count_eigenvalues(matrix, threshold=1e-3)
    found["sampled"] = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20)
    problem = relu()
    matrix = data_parallel(hessian(problem, share(problem[2])))
    found["relu"] = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20)
    found["same"] = dist_same(found["relu"].negative)
    return found


def questions():
    """Everything else that is asked of a matrix."""
    found = {}
    matrix = data_parallel(hessian(small(), share(small()[2])))
    found["unsent"] = refused(lambda: matrix.led_by_one(lambda led: lambda: led))
    found["outer"] = [
        refused(lambda: matrix.led_by_one(lambda _: count_eigenvalues(matrix, threshold=1e-3))),
        refused(lambda: matrix.led_by_one(lambda _: matrix @ vectors(57))),
    ]
    found["inside"] = count_in(matrix, 0.01, 0.5, probes=4, steps=12)
    found["eigenvalues"] = exact_eigenvalues(matrix)
    found["density"] = spectral_density(matrix, probes=3, steps=20)
    found["classified"] = classify(matrix, threshold=1e-3)
    problem = relu()
    matrix = data_parallel(hessian(problem, share(problem[2])))
    found["elimination"] = count_eigenvalues(matrix, threshold=1e-3, method="elimination")
    problem = convolutional()
    matrix = data_parallel(hessian(problem, share(problem[2])))
    found["float32"] = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=4, steps=30)
    found["fidelity"] = found["float32"].check.fidelity
    found["refused"] = refused(lambda: count_eigenvalues(matrix, threshold=-1.0))
    return found


def orthogonal_basis(matrix, dtype):
    """What a basis on all ranks answers, beside the rows that it gathers; called by all."""

    def asked(led):
        led = led if dtype == led.dtype else led.to(dtype)
        run = Lanczos(led, vectors(led.shape[0], 3), capacity=5)
        run.advance(12)  # beyond the room there was
        u, nulls = vectors(led.shape[0], 4), vectors(led.shape[0], 2).to(dtype)
        coefficients = vectors(10, 2)
        lengths = {0: 12, 2: 7}
        found = {
            "run": run.tridiagonalization(),
            "basis": run.basis,
            "current": run.current,
            "combined": run.kept.combined(1, coefficients),
            "at": run.kept.combined(1, coefficients, torch.tensor([3, 50])),
            "inner": run.kept.inner(2, 9, u),
            "forms": run.kept.forms(lengths, run.current, nulls),
        }
        found["asked"] = (u, nulls, coefficients, lengths)
        held = led.matrix.group.size, run.kept._shard.own.rows.numel()
        return {**found, "held": held}

    found = matrix.led_by_one(asked)
    assert not matrix.shards, "nobody keeps what nobody holds"
    return found


def spread():
    """Bases by coordinates: recurrences, memory, states of other numbers of ranks."""
    matrix = data_parallel(hessian(small(), share(small()[2])))
    found = {str(dtype): orthogonal_basis(matrix, dtype) for dtype in (torch.float64, torch.float32)}
    found["deflated"] = count_eigenvalues(matrix, threshold=1e-3, max_products=400, method="lanczos")
    held = []

    def numbers(led):
        before = Lanczos(led, vectors(led.shape[0]), capacity=4)
        before.advance(2)
        del before
        run = Lanczos(led, vectors(led.shape[0]), capacity=4)
        run.advance(2)
        return 0

    matrix.shards = Watching(held)
    matrix.led_by_one(numbers)
    matrix.shards = {}
    found["most at once"] = max(held, default=None)
    found["room"] = matrix.led_by_one(planned) if small_machines() else None
    return found


class Watching(dict):
    """Shards, and how many there were at a time."""

    def __init__(self, held):
        super().__init__()
        self.held = held

    def __setitem__(self, name, shard):
        super().__setitem__(name, shard)
        self.held.append(len(self))


def small_machines():
    """From now on every rank has a machine of its own, with 50 MB."""
    free = 50_000_000
    spread_basis.socket.gethostname = lambda: f"machine {dist.get_rank()}"
    spread_basis.available_bytes = planning.available_bytes = lambda _: free
    leading.AT_A_TIME = 2**10
    return free


def planned(led):
    """Whether a basis is kept, which is larger than any of the machines, and what is said of one far too large."""
    probes, steps = 8, 57
    large = Large(led)
    kept = planning.keep_basis("auto", large, 1, 40), planning.keep_basis("auto", large, 1, 200)
    return kept, refused(lambda: planning.keep_basis(True, large, probes, steps))


class Large:
    """As many coordinates as let a basis of 40 vectors fill half of two machines."""

    def __init__(self, base):
        self.base, self.shape, self.dtype, self.device = base, (60_000, 60_000), base.dtype, base.device


def states():
    """Runs that began on one, two or four ranks, and go on here; called by all ranks."""
    problem, ranks = small(), dist.get_world_size()
    matrix = data_parallel(hessian(problem, share(problem[2])))
    begun(matrix, FOLDER / f"from-{ranks}")
    before = {2: 1, 4: 2}[ranks]
    return gone_on(matrix, FOLDER / f"from-{before}")


def first_state():
    """Of one process without ranks."""
    for name in ("from-1", "probes-from-1"):
        begun(hessian(small(), small()[2]), FOLDER / name)


def begun(matrix, path):
    count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=12, precision=1e-9, state=path)


def gone_on(matrix, path):
    return count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20, precision=1e-9, state=path)


ASKED = {
    "bases": {"method": "lanczos", "probes": 5, "steps": 20},
    "no bases": {"method": "lanczos", "probes": 5, "steps": 20, "reorthogonalize": False},
    "planned": {"method": "lanczos", "max_products": 400},
    "enumerated": {"method": "lanczos", "max_products": 600, "enumerate_negative": True},
    "exact": {"method": "exact"},
    "ekfac": {"method": "lanczos", "probes": 4, "steps": 12, "preconditioner": "ekfac"},
    "subset": {"method": "lanczos", "probes": 4, "steps": 12, "preconditioner": "subset"},
}
"""Counts of a matrix that every rank has whole."""


def replicas():
    """Probes over ranks: counts, what is exchanged, and what goes wrong on one rank."""
    problem, ranks, last = small(), dist.get_world_size(), dist.get_rank() == dist.get_world_size() - 1
    own = hessian(problem, problem[2])
    matrix = probe_parallel(own)
    found = {name: count_eigenvalues(matrix, threshold=1e-3, **options) for name, options in ASKED.items()}
    found["traffic"] = matrix.led_by_one(traffic)
    begun(matrix, FOLDER / f"probes-from-{ranks}")
    if ranks == 2:
        found["went on"] = gone_on(matrix, FOLDER / "probes-from-1")
        float32 = convolutional()
        found["float32"] = count_eigenvalues(
            probe_parallel(Hessian(*float32)), threshold=1e-3, method="lanczos", probes=4, steps=30
        )
        model, loss, (x, y) = problem
        function = Hessian.of(lambda: loss(model(x), y), model)
        found["function"] = count_eigenvalues(probe_parallel(function), threshold=1e-3)
    found["interrupted"] = [
        interrupted(matrix, FOLDER / f"interrupted-{kept}-{ranks}", reorthogonalize=kept) for kept in (True, False)
    ]
    advance, product = probe_runs.Part.advance, own.product
    spoil = {"with": 1.0, "from": 0}

    def other(v):
        if spoil["with"] is None:
            raise FloatingPointError("broken on purpose")
        return product(v) * spoil["with"]

    def spoiled(part, steps):
        """Later products of the last rank are other ones, as long as recurrences go on."""
        own.product = other if last and steps >= spoil["from"] else product
        advance(part, steps)
        own.product = product

    probe_runs.Part.advance = spoiled
    asked = LONG
    spoil.update({"with": 1.01, "from": 9})
    found["changed"] = refused(lambda: count_eigenvalues(matrix, **asked))
    spoil.update({"with": float("nan"), "from": 9})
    found["not finite"] = count_eigenvalues(matrix, **asked)

    spoil.update({"with": None, "from": 12})
    try:
        count_eigenvalues(matrix, **asked)
    except RankFailed as error:
        found["broken"] = str(error)
    probe_runs.Part.advance = advance
    x, y = problem[2]
    found["other data"] = refused(lambda: probe_parallel(Hessian(*problem[:2], (x[: 41 - last], y[: 41 - last]))))
    found["no matrix"] = refused(lambda: probe_parallel(torch.eye(3)))
    found["afterwards"] = count_eigenvalues(matrix, threshold=1e-3, **ASKED["bases"])
    return found


def interrupted(matrix, path, **options):
    """A count of twenty steps that is interrupted in the midst of its tenth; the steps that rank 0 has."""
    asked = leading.Talk.asked

    @contextmanager
    def asked_and_interrupted(talk, number, name, *arguments):
        with asked(talk, number, name, *arguments):
            if name == "advance" and arguments == (10,):
                os.kill(os.getpid(), signal.SIGINT)
            yield

    leading.Talk.asked = asked_and_interrupted
    try:
        count_eigenvalues(matrix, **LONG, **options, state=path)
    except Interrupted as stop:
        return stop.counts.steps
    except leading.LedInterrupt:
        return "led"
    finally:
        leading.Talk.asked = asked


LONG = {"threshold": 1e-3, "method": "lanczos", "probes": 5, "steps": 20, "precision": 1e-9}


def traffic(led):
    """(numbers that rank 0 sent or got at the start, while recurrences went on, and at a look; the run)."""
    numbers = [0]

    def counted(name):
        method = getattr(Group, name)

        def called(group, *arguments, **options):
            numbers[-1] += sum(t.numel() for a in arguments for t in (a if isinstance(a, list) else [a])
                               if isinstance(t, torch.Tensor) and t.dtype.is_floating_point)  # fmt: skip
            return method(group, *arguments, **options)

        setattr(Group, name, called)
        return name, method

    methods = [counted(name) for name in ("given", "summed", "scattered", "collected")]
    run = recurrences(led, vectors(led.shape[0], 5), reorthogonalize=True, capacity=4)
    numbers.append(0)
    for steps in range(1, 11):
        run.advance(steps)
    numbers.append(0)
    made = run.tridiagonalization()
    for name, method in methods:
        setattr(Group, name, method)
    return type(run).__name__, numbers, made, run.basis


def preconditioned():
    """An S of rank 0's samples, for the matrix of all; whether "auto" would take one."""
    problem = small()
    matrix = data_parallel(hessian(problem, share(problem[2])))
    asked = {"threshold": 1e-3, "method": "lanczos", "probes": 6, "steps": 40}
    found = {name: count_eigenvalues(matrix, **asked, preconditioner=name) for name in ("ekfac", "subset")}
    choice.FEWEST = 1
    found["pays"] = matrix.led_by_one(lambda led: (choice.pays("auto", led, 1e-5), choice.pays("auto", led, 1e-3)))
    empty = None if dist.get_rank() == 0 else share(problem[2], rank=0, ranks=1)
    if dist.get_world_size() == 2:
        matrix = data_parallel(hessian(problem, empty))
        found["nothing"] = refused(lambda: count_eigenvalues(matrix, **asked, preconditioner="ekfac"))
    return found


def dist_same(thing):
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, thing)
    return all(other == said[0] for other in said)


def one_rank(rank, ranks, folder, scenarios):
    """What a process of `ranks` does; the last one keeps the results."""
    signal.alarm(LIMIT)
    rendezvous = f"file://{folder}/meet-{ranks}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    results = {name: scenario() for name, scenario in scenarios.items()}
    if rank == ranks - 1:
        with open(f"{folder}/{ranks}.pickle", "wb") as file:
            pickle.dump(results, file)
    dist.destroy_process_group()


def forked(ranks, folder, scenarios):
    """The same in so many children of this process, which has imported everything once."""
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                one_rank(rank, ranks, folder, scenarios)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(known):
    """Scenarios among those that are known by name, on so many ranks: 2:products,counts."""
    torch.set_num_threads(1)
    statuses = []
    for asked in sys.argv[2:]:
        number, _, listed = asked.partition(":")
        statuses += forked(int(number), sys.argv[1], {name: known[name] for name in listed.split(",")})
    sys.exit(max(statuses))


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1])
    main(globals() | SLICES)
