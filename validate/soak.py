"""Does anything grow or get mixed up when a process goes on, when threads count together, when workers are forked?

    python validate/soak.py                               # minutes: 10,000 products, 500 counts
    python validate/soak.py --products 400 --counts 4     # a short version

On a small MLP and a small convolutional net:

    products    resident memory, Python objects and open descriptors along a run of products: slopes with their errors
    counts      the same along whole counts in one process, each with a Hessian of its own; the last equals the first
    threads     two counts at once in two threads, of one model and of two: each equals the count alone, and settings
                of the process are as before
    processes   two at once, forked, and spawned: each equals the count alone
    workers     a DataLoader with forked and with spawned workers: as the data in memory, no descriptor left

Memory is flat where the slope, less three of its errors, makes at most 2 MB of the whole run (counts: 4 MB), and ten
objects. As a wrong variant, 64 kB are kept at each of a few products: that must be found out. Appends to
validate/results/soak.jsonl and exits with 1 where anything fails.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lanczos_saddle import Hessian, count_eigenvalues
from lanczos_saddle.reports.records import Record, append

RESULTS = Path(__file__).parent / "results" / "soak.jsonl"
GROWN = {"products": 2 * 2**20, "counts": 4 * 2**20}
"""Bytes of resident memory that a whole run may gain, beyond three errors of its slope: pages of the allocator."""

OBJECTS, LEAK, POINTS, PATIENCE = 10, 2**16, 50, 500
"""Python objects that a run may gain in the same way; bytes that the wrong variant keeps; places of a run that are
looked at; seconds that a child may take.
"""

NETWORKS, KINDS = ("mlp", "conv"), ("products", "counts", "threads", "processes", "workers")
PAGE = os.sysconf("SC_PAGE_SIZE")


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """(model, (inputs, labels)), the same at each call."""
    generator = torch.Generator().manual_seed(0)
    shape = (32, 8) if name == "mlp" else (32, 1, 6, 6)
    inputs = torch.randn(*shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (32,), generator=generator)
    layers = {
        "mlp": lambda: [nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)],
        "conv": lambda: [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)],
    }
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(*layers[name]()).double()
    return model, (inputs, labels)


def hessian(name: str, data: Any = None) -> Hessian:
    model, own = network(name)
    return Hessian(model, nn.CrossEntropyLoss(), own if data is None else data)


def counted(matrix: Any) -> list[float]:
    """One small count as numbers; the same ones from the same matrix."""
    generator = torch.Generator().manual_seed(1)
    found = count_eigenvalues(
        matrix, relative_threshold=1e-2, method="lanczos", probes=2, steps=12, generator=generator
    )
    return [x for i in (found.negative, found.near_zero, found.positive) for x in (i.lower, i.estimate, i.upper)]


def alone(name: str) -> list[float]:
    """What a child does. A forked one has no threads of its parent's: one of its own must do."""
    torch.set_num_threads(1)
    return counted(hessian(name))


def held() -> tuple[int, int, int]:
    """(bytes of resident memory, Python objects, open descriptors)."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    return resident, len(gc.get_objects()), len(os.listdir("/proc/self/fd"))


def ended() -> int:
    """Open descriptors when the children have ended, or after a minute of waiting for them."""
    for _ in range(120):
        if not multiprocessing.active_children():
            break
        gc.collect()
        time.sleep(0.5)
    return held()[2]


def slope(values: np.ndarray, every: float) -> tuple[float, float]:
    """(growth per step, its standard error): least squares, residuals correlated from one place to the next."""
    x = np.arange(len(values)) * every
    x = x - x.mean()
    found = float(x @ values / (x @ x))
    rest = values - values.mean() - found * x
    spread = float(rest @ rest)
    if spread == 0:
        return found, 0.0
    correlation = min(0.95, max(0.0, float(rest[1:] @ rest[:-1]) / spread))
    error = (spread / (len(values) - 2) / float(x @ x)) ** 0.5
    return found, error * ((1 + correlation) / (1 - correlation)) ** 0.5


def along(step: Callable[[], Any], times: int, grown: float) -> dict[str, Any]:
    """Slopes along `times` steps, after a tenth of them that warms up."""
    for _ in range(max(2, times // 10)):
        step()
    every = max(1, times // POINTS)
    seen = [held()]
    for index in range(times):
        step()
        if (index + 1) % every == 0:
            seen.append(held())
    names = ("bytes", "objects", "descriptors")
    row: dict[str, Any] = {"steps": times}
    for name, values in zip(names, np.array(seen, dtype=float).T, strict=True):
        row[name] = slope(values, every)
        row[f"{name}_first_last"] = (int(values[0]), int(values[-1]))
    (growth, error), (objects, doubt) = row["bytes"], row["objects"]
    row["passed"] = (
        times * (growth - 3 * error) < grown
        and times * (objects - 3 * doubt) < OBJECTS
        and row["descriptors_first_last"][1] <= row["descriptors_first_last"][0]
    )
    return row


def products(name: str, times: int, keep: int = 0) -> dict[str, Any]:
    """One product after the other; `keep` bytes are kept at each, where that is asked for."""
    matrix, kept = hessian(name), list[bytes]()
    v = torch.randn(matrix.shape[0], generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def step() -> None:
        matrix @ v
        if keep:
            kept.append(os.urandom(keep))

    return along(step, times, GROWN["products"])


def counts(name: str, times: int) -> dict[str, Any]:
    """One count after the other, each with a model and a Hessian of its own."""
    first, found = alone(name), list[list[float]]()

    def step() -> None:
        found[:] = [counted(hessian(name))]

    row = along(step, times, GROWN["counts"])
    return row | {"same": found[0] == first, "passed": row["passed"] and found[0] == first}


def settings() -> list[Any]:
    """What a count changes for a while, and all threads share."""
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.get_num_threads(),
        sorted(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.mkldnn.enabled,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        len(warnings.filters),
    ]


def threads(name: str, rounds: int) -> dict[str, Any]:
    """Two counts at once: of one matrix, of two matrices of one model, of two models."""
    truth, before = alone(name), settings()
    shared, (model, data) = hessian(name), network(name)
    makers: dict[str, Callable[[], Any]] = {
        "one matrix": lambda: shared,
        "one model": lambda: Hessian(model, nn.CrossEntropyLoss(), data),
        "two models": lambda: hessian(name),
    }
    row: dict[str, Any] = {"rounds": rounds}
    for kind, make in makers.items():
        found: list[Any] = []

        def run(matrix: Any, found: list[Any] = found) -> None:
            try:
                found.append(counted(matrix))
            except Exception as error:  # it is the answer
                found.append(repr(error))

        for _ in range(rounds):
            # made here: a network's weights are drawn from the generator of the process, which is no count's
            both = [threading.Thread(target=run, args=(make(),)) for _ in range(2)]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
        row[kind] = sum(one == truth for one in found)
    row["settings"] = settings() == before
    row["passed"] = row["settings"] and all(row[kind] == 2 * rounds for kind in makers)
    return row


def processes(name: str) -> dict[str, Any]:
    """Two children at once, by each way of starting them."""
    truth, row = alone(name), dict[str, Any]()
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            row[way] = sum(one == truth for one in pool.map_async(alone, [name] * 2, chunksize=1).get(PATIENCE))
    return row | {"passed": all(n == 2 for n in row.values())}


def workers(name: str) -> dict[str, Any]:
    """A loader whose workers are forked or spawned, against the same batches in memory; descriptors as before."""
    _, (inputs, labels) = network(name)
    batches = [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])]
    truth, row = counted(hessian(name, batches)), dict[str, Any]()
    for way in ("fork", "spawn"):
        row[way] = True
        for _ in range(2):  # what starts once for all, such as a tracker of resources, has started by the second
            before = held()[2]
            loader: Any = DataLoader(
                TensorDataset(inputs, labels), 20, num_workers=1, multiprocessing_context=way, persistent_workers=True
            )
            row[way] &= counted(hessian(name, loader)) == truth
            del loader
            row[f"{way}_descriptors"] = ended() - before
    return row | {"passed": row["fork"] and row["spawn"] and row["fork_descriptors"] <= 0 >= row["spawn_descriptors"]}


def main() -> int:
    """Run, report, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, default=10_000)
    parser.add_argument("--counts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10, help="of two threads")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--record", type=Path, default=RESULTS)
    options = parser.parse_args()
    began = time.perf_counter()
    gc.collect()
    gc.freeze()  # what was imported is not looked at again and again
    rows: dict[str, dict[str, Any]] = {}

    def say(what: str, row: dict[str, Any]) -> None:
        rows[what] = row
        print(f"{what:>24}  {'held' if row['passed'] else 'FAILED'}", flush=True)
        for name, value in row.items():
            if name != "passed":
                pair = isinstance(value, tuple) and "first" not in name
                print(f"{'':>26}{name}: {f'{value[0]:.4g} +- {value[1]:.2g} a step' if pair else value}", flush=True)

    for name in options.networks:
        runs = {
            "products": lambda name=name: products(name, options.products),
            "counts": lambda name=name: counts(name, options.counts),
            "threads": lambda name=name: threads(name, options.rounds),
            "processes": lambda name=name: processes(name),
            "workers": lambda name=name: workers(name),
        }
        for kind in options.kinds:
            say(f"{kind}, {name}", runs[kind]())
    wrong = products("mlp", min(options.products, 400), LEAK)
    say(f"{LEAK} bytes kept (wrong)", wrong | {"passed": not wrong["passed"]})
    seconds, cpu = time.perf_counter() - began, time.process_time()
    asked = {k: v for k, v in vars(options).items() if k != "record"}
    append(options.record, Record("soak", asked, {"rows": rows, "cpu_seconds": cpu}, seeds=[0, 1, 2], seconds=seconds))
    return 0 if all(row["passed"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
