"""What each rank runs with weights cut over ranks: scenarios by name, as in rank_program."""

import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from rank_networks import small
from rank_program import main, refused, vectors
from safetensors.torch import save_file
from shard_networks import NETWORKS, Experts, Hidden, Inplace, Reader, Sloped, transformer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.func import grad, jvp, vmap

from lanczos_saddle import classify, count_eigenvalues, exact_eigenvalues, share, vector_parallel, weight_parallel
from lanczos_saddle.distributed.group import Group, RankFailed
from lanczos_saddle.distributed.sharded_hessian import ShardedHessian
from lanczos_saddle.distributed.sharded_weights import Layout, Plan, RankExchange
from lanczos_saddle.networks.shards.gathers import Collect


def made(name, **options):
    model, loss, data = NETWORKS[name]()
    return weight_parallel(model, loss, share(data), **options)


def both(matrix):
    """Products with a block, of one vector, and by coordinates, gathered."""
    v = vectors(matrix.shape[0])
    own = matrix.product_own(v[matrix.own].contiguous())
    said = [None] * dist.get_world_size()
    dist.all_gather_object(said, own)
    return {"block": matrix @ v, "vector": matrix @ v[:, 0], "own": torch.cat(said), "cuts": matrix.layout.cuts}


def products():
    """Each network; other cuts; few samples on one rank, none on one; blocks in groups."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    found = {name: both(made(name, fidelity=False)) for name in NETWORKS}
    even = Layout.even
    for name, cuts in {
        "a layer over all ranks": (0, 3, *range(10, 10 + ranks - 2), 57),
        "an empty slice": (0, *[40] * (ranks - 1), 57),
    }.items():
        Layout.even = lambda sizes, number, cuts=cuts: (
            Layout(sizes, cuts) if sum(sizes.values()) == 57 else even(sizes, number)
        )
        found[name] = both(made("mlp", fidelity=False))
        Layout.even = even
    model, loss, (x, y) = small()
    few = (x[:2], y[:2]) if rank == 0 else share((x[2:], y[2:]), rank=rank - 1, ranks=ranks - 1)
    nothing = None if rank == 0 else share((x, y), rank=rank - 1, ranks=ranks - 1)
    one = share((x[:1], y[:1]))
    chunk = ShardedHessian._chunk
    ShardedHessian._chunk = lambda _, __: (5, 2)
    found["few samples"] = both(weight_parallel(model, loss, few, fidelity=False))
    ShardedHessian._chunk = chunk
    found["no samples"] = both(weight_parallel(model, loss, nothing))
    found["one sample"] = both(weight_parallel(model, loss, one)) if ranks > 2 else None
    columns = weight_parallel(model, loss, share((x, y)), fidelity=False)
    columns.loss.by_columns = True
    found["by columns"] = both(columns)
    found["some parameters"] = both(weight_parallel(model, loss, share((x, y)), parameters="2.*"))
    ignored = y.clone()
    ignored[:3] = -100
    found["ignored"] = both(weight_parallel(model, loss, None if rank else (x, ignored), fidelity=False))
    mean = weight_parallel(model, nn.MSELoss(), share((x, x[:, :3])))
    found["squares"] = both(mean)
    return found


def sources():
    """Weights of a file, of FSDP2, of a DTensor; what a rank reads and keeps."""
    folder, rank, ranks = Path(sys.argv[1]), dist.get_rank(), dist.get_world_size()
    model, loss, data = transformer()
    if rank == 0:
        state = model.state_dict()
        torch.save(state, folder / f"weights-{ranks}.pt")
        save_file({n: t for n, t in state.items() if n != "head.weight"}, folder / f"weights-{ranks}.safetensors")
    dist.barrier()
    found = {}
    for suffix in ("pt", "safetensors"):
        with torch.device("meta"):
            bare = type(model)().double().eval()
        matrix = weight_parallel(bare, loss, share(data), weights=folder / f"weights-{ranks}.{suffix}")
        found[suffix] = {**both(matrix), "fidelity": matrix.found}
        found["held"] = sum(t.numel() for t in matrix.parts.moving.values())
    mesh = init_device_mesh("cpu", (ranks,))
    sharded = transformer()[0]
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    matrix = weight_parallel(sharded, loss, share(data))
    found["fsdp2"] = {**both(matrix), "fidelity": matrix.found}
    found["fsdp2 afterwards"] = type(sharded).__name__
    tensors, other, pair = small()
    tensors[2].weight = nn.Parameter(distribute_tensor(tensors[2].weight.detach(), mesh, [Shard(1)]))
    tensors[0].weight = nn.Parameter(distribute_tensor(tensors[0].weight.detach(), mesh, [Replicate()]))
    found["dtensor"] = both(weight_parallel(tensors, other, share(pair)))
    with torch.device("meta"):
        bare = type(model)().double().eval()
    found["no file"] = refused(lambda: weight_parallel(bare, loss, share(data)))
    found["another file"] = refused(lambda: weight_parallel(bare, loss, share(data), weights=__file__))
    with torch.device("meta"):
        wrong = nn.Sequential(nn.Linear(5, 6)).double()
    path = folder / f"weights-{ranks}.pt"
    found["other names"] = refused(lambda: weight_parallel(wrong, other, share(pair), weights=path))
    return found


def questions():
    """What the package asks, by rank 0; called by all."""
    matrix = made("mlp")
    found = {"fidelity": matrix.found}
    found["exact"] = count_eigenvalues(matrix, threshold=1e-3)
    found["sampled"] = count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=5, steps=20)
    found["classified"] = classify(matrix, threshold=1e-3)
    found["theta"] = matrix.led_by_one(lambda led: led.problem.theta)
    found["preconditioned"] = refused(lambda: count_eigenvalues(matrix, threshold=1e-3, preconditioner="ekfac"))
    model, loss, data = small()
    single = weight_parallel(model.float(), loss, share((data[0].float(), data[1])))
    found["float32"] = single.found, single.to(torch.float64) @ vectors(57)
    found["eigenvalues"] = exact_eigenvalues(matrix)
    return found


def nothing_whole():
    """Counts with weights and vectors in slices; what was compared when the matrix was made; on float32, too."""
    asked = {"threshold": 1e-3, "method": "lanczos", "probes": 5, "steps": 20, "precision": 1e-9}
    matrix = made("mlp")
    sliced = vector_parallel(matrix)
    model, loss, data = small()
    single = vector_parallel(weight_parallel(model.float(), loss, share((data[0].float(), data[1]))))
    return {
        "kept": count_eigenvalues(sliced, **asked, reorthogonalize=True),
        "plain": count_eigenvalues(sliced, **asked, reorthogonalize=False),
        "whole": count_eigenvalues(matrix, **asked, reorthogonalize=True),
        "single": count_eigenvalues(single, **asked | {"threshold": 1e-2}),
        "exact": refused(lambda: count_eigenvalues(sliced, threshold=1e-3, method="exact")),
        "classified": refused(lambda: classify(sliced, threshold=1e-3)),
        "one rank": refused(lambda: vector_parallel(matrix if dist.get_rank() == 0 else None)),
    }


def refusals():
    """What cannot be cut, what differs between ranks, and products after one has raised."""
    rank = dist.get_rank()
    model, loss, (x, y) = small()
    part = share((x, y))
    hooked, touched, spoiled = small()[0], Reader().double(), small()[0]
    hooked[1].register_forward_hook(lambda *_: None)
    found = {
        "hooks": refused(lambda: weight_parallel(hooked, loss, part)),
        "other modules": refused(lambda: weight_parallel(touched, loss, part)),
        "in place": refused(lambda: weight_parallel(Inplace().double(), loss, part)),
        "hidden": refused(lambda: weight_parallel(Hidden().double(), loss, part)),
        "experts": refused(lambda: weight_parallel(Experts(rank).double(), loss, part)),
        "derivative": refused(lambda: weight_parallel(Sloped().double(), loss, part)),
        "no loss": refused(lambda: weight_parallel(model, None, part)),
        "nobody": refused(lambda: weight_parallel(model, loss, None)),
        "memory": refused(lambda: weight_parallel(model, loss, part, memory=100)),
        "sum": refused(lambda: weight_parallel(model, lambda o, _: o.square().mean().sqrt(), part)),
    }
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(rank))
    found["another order"] = refused(lambda: weight_parallel(model, loss, share((x[order], y[order]))))
    smoothing = nn.CrossEntropyLoss(label_smoothing=0.1 * rank)
    found["another loss"] = refused(lambda: weight_parallel(model, smoothing, part))
    bag = nn.Sequential(nn.EmbeddingBag(7, 4), nn.Linear(4, 3)).double()
    tokens = torch.arange(10).reshape(5, 2) % 7, torch.arange(5) % 3
    found["bag"] = refused(lambda: weight_parallel(bag, loss, share(tokens)))
    weights = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64)
    light = y == 1 if rank == 0 else y != 1  # every sample of a rank weighs the same, but not those of two
    own = x[light], y[light]
    unequal = lambda o, t: nn.functional.cross_entropy(o, t, weight=weights)  # noqa: E731
    found["unequal"] = refused(lambda: weight_parallel(model, unequal, own, fidelity=False))
    rare = torch.zeros(20, dtype=torch.long)
    rare[4] = 1  # which neither the first samples tried nor those compared have
    found["rare"] = refused(lambda: weight_parallel(model, unequal, (x[:20], rare)))
    classes = nn.CrossEntropyLoss(weight=weights + rank)
    found["classes"] = refused(lambda: weight_parallel(model, classes, part))
    with torch.no_grad():
        spoiled[0].bias[0] += rank * 1e-12
    found["weights"] = refused(lambda: weight_parallel(spoiled, loss, part))

    def breaking(outputs, targets):
        if rank == 1 and breaking.broken:
            raise FloatingPointError("broken on purpose")
        return nn.functional.cross_entropy(outputs, targets)

    breaking.broken = False
    matrix = weight_parallel(model, breaking, part, fidelity=False)
    breaking.broken = True
    try:
        matrix @ vectors(57)
    except RankFailed as error:
        found["broken"] = str(error)
    breaking.broken = False
    found["afterwards"] = matrix @ vectors(57)
    found["shape"] = refused(lambda: matrix.product_own(torch.ones(3, 1, dtype=torch.float64)))
    return found


def unsummed(exchange, layer, rows):
    """A reduction that is missing: every rank keeps its own."""
    own = [row.new_zeros(len(row), 0) for row in rows]
    for rank, held in exchange.plans[layer].owners:
        if rank == exchange.group.rank:
            for i, part in held:
                own[i] = rows[i][:, part].clone()
    return own


def partly_unsummed(exchange, layer, rows):
    """Missing for blocks alone, which the second sweep has and the first has not."""
    return spread(exchange, layer, rows) if len(rows[0]) == 1 else unsummed(exchange, layer, rows)


def shifted(exchange, layer, rows):
    """Whole parameters whose entries are one place off."""
    return [w.roll(1, dims=1) for w in collect(exchange, layer, rows)]


def shifted_both(exchange, layer, rows):
    """The transpose of `shifted`: derivatives of another function, and right ones."""
    return spread(exchange, layer, [w.roll(-1, dims=1) for w in rows])


spread, collect = RankExchange.spread, RankExchange.collect


def wrong():
    """Exchanges with a mistake, each of which the comparison must find, with the whole model at hand and without."""
    (model, loss, data), path, found = small(), Path(sys.argv[1]) / "small.pt", {}
    if dist.get_rank() == 0:
        torch.save(model.state_dict(), path)
    dist.barrier()
    with torch.device("meta"):
        bare = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    mistakes = {
        "no reduction": (collect, unsummed),
        "no reduction of blocks": (collect, partly_unsummed),
        "shifted": (shifted, spread),
        "another function": (shifted, shifted_both),
    }
    for name, mistake in mistakes.items():
        RankExchange.collect, RankExchange.spread = mistake
        found[name] = refused(lambda: weight_parallel(model, loss, share(data)))
        found[f"{name}, no model"] = refused(lambda: weight_parallel(bare, loss, share(data), weights=path))
        RankExchange.collect, RankExchange.spread = collect, spread
    return found


def resident():
    """(the largest layer, the most numbers of whole parameters at one time, those left) in a product with 2 columns."""
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(24, 24), nn.Tanh())]
    model = nn.Sequential(*layers).double()
    data = (torch.randn(8, 24).double(), torch.randn(8, 24).double())
    matrix = weight_parallel(model, nn.MSELoss(), share(data), fidelity=False)
    alive, most = [], [0]

    def watched(exchange, layer, rows):
        whole = collect(exchange, layer, rows)
        alive.extend(weakref.ref(t) for t in whole)
        sizes.extend(t.numel() for t in whole)
        most[0] = max(most[0], sum(n for ref, n in zip(alive, sizes, strict=True) if ref() is not None))
        return whole

    sizes = []
    RankExchange.collect = watched
    matrix @ vectors(matrix.shape[0], 2)
    RankExchange.collect = collect
    left = sum(n for ref, n in zip(alive, sizes, strict=True) if ref() is not None)
    return 24 * 24 + 24, most[0], left, len(alive)


def transforms():
    """The collective Function under vmap(jvp(grad)), and what it refuses."""
    group = Group()
    exchange = RankExchange(group, ["w"])
    layout = Layout.even({"w": 7, "b": 3}, group.size)
    exchange.plans = [Plan.of(["w", "b"], layout)]
    parts = layout.parts(group.rank)
    theta = vectors(10, 1)[:, 0]
    own = {"w": theta[:7][parts["w"]], "b": theta[7:][parts["b"]]}
    a = vectors(7 * 3, 1).view(7, 3) * (1 + group.rank)

    def loss(w, b):
        whole = Collect.apply(exchange, 0, w, b)
        return (torch.tanh(whole[0] @ a + whole[1])).square().sum()

    v = vectors(10, 4)
    rows = {"w": v[:7][parts["w"]].mT.contiguous(), "b": v[7:][parts["b"]].mT.contiguous()}
    gradient = grad(lambda pair: loss(*pair))
    found = vmap(lambda w, b: jvp(gradient, ((own["w"], own["b"]),), ((w, b),))[1])(rows["w"], rows["b"])
    said = [None] * group.size
    dist.all_gather_object(said, found)
    return [torch.cat([one[i] for one in said], dim=1).mT for i in (0, 1)]


if __name__ == "__main__":
    main(globals())
