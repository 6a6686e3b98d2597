"""Does a count take the memory and the time that `plan` says? Predicted beside measured, each in a process of its own.

    python validate/plan_peaks.py                                   # N = 1e4 to 1e7, under 1.5 GiB; resumes
    python validate/plan_peaks.py --problems digits --ways plain    # some of them
    python validate/plan_peaks.py --largest                         # N = 1e8 as well, 12 GiB
    python validate/plan_peaks.py --table                           # only print what is recorded

One process loads a problem, plans, and says what every way takes. Then, for every way that fits, a fresh one loads the
problem and counts in that way, three times where N is below a million. Measured is the most resident memory beyond what
was held when the problem was there, and the wall clock. Other load on the machine moves seconds, not bytes. Appends to
validate/results/plan_peaks.jsonl, and exits with 1 where a peak is off by more than 20 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))

from lanczos_saddle import Hessian, count_eigenvalues, plan  # noqa: E402
from lanczos_saddle.machine.measuring import held_bytes, measure  # noqa: E402
from lanczos_saddle.reports.records import Record, append, to_json  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "plan_peaks.jsonl"
WITHIN = 0.2
CPU = torch.device("cpu")
TAU = 1e-2
FOREVER = 1e-9
"""A precision that is never reached: all steps are made."""


class Diagonal:
    """diag(lambda) v, lambda even in [-0.3, 1]."""

    def __init__(self, size: int) -> None:
        values = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.values, self.shape, self.dtype, self.device = values.mul_(1.3).sub_(0.3), (size, size), values.dtype, CPU

    def __matmul__(self, v: Tensor, /) -> Tensor:
        return (self.values if v.ndim == 1 else self.values[:, None]) * v


def digits() -> Any:
    from lanczos_saddle.training import problems

    found = problems.problem("digits")
    return Hessian(found.model, found.loss, found.data, dtype=torch.float64)


def mnist(images: int, dtype: torch.dtype = torch.float64) -> Any:
    import mnist_mlp

    model, loss, data = mnist_mlp.problem(images, dtype)
    return Hessian(model, loss, data, dtype=dtype)


def perceptron(inputs: int, hidden: int) -> Any:
    """An MLP of one hidden layer on Gaussian samples."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10))
    data = torch.randn(2000, inputs), torch.randint(10, (2000,))
    return Hessian(model, torch.nn.CrossEntropyLoss(), data, dtype=torch.float64)


def door(name: str, *sizes: int) -> Any:
    """A network of bench/door_networks.py."""
    import door_networks

    model, loss, x, y = getattr(door_networks, name)(*sizes)
    return Hessian(model, loss, (x, y), dtype=torch.float32 if name == "resnet" else torch.float64)


PROBLEMS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "digits": (digits, {"probes": 4, "steps": 100}),
    "tanh 64-100-10": (partial(perceptron, 64, 100), {"probes": 4, "steps": 60}),
    "mnist, 4,000 images": (partial(mnist, 4000), {"probes": 2, "steps": 60}),
    "mnist, float32": (partial(mnist, 4000, torch.float32), {"probes": 2, "steps": 60}),
    "ResNet-18, 4 channels": (partial(door, "resnet", 4, 8), {"probes": 2, "steps": 12}),
    "ResNet-18, 16 channels": (partial(door, "resnet", 16, 4), {"probes": 2, "steps": 20}),
    "GPT, 2 layers": (partial(door, "gpt", 8, 2, 32), {"probes": 2, "steps": 40}),
    "GPT, 4 layers": (partial(door, "gpt", 4, 4, 64), {"probes": 2, "steps": 12}),
    "diagonal 1e4": (partial(Diagonal, 10**4), {"probes": 4, "steps": 100}),
    "diagonal 1e5": (partial(Diagonal, 10**5), {"probes": 4, "steps": 60}),
    "diagonal 1e6": (partial(Diagonal, 10**6), {"probes": 2, "steps": 20}),
    "diagonal 1e7": (partial(Diagonal, 10**7), {"probes": 1, "steps": 10}),
    "diagonal 1e8": (partial(Diagonal, 10**8), {"probes": 1, "steps": 10}),
}
"""How each is loaded, and the options of its runs."""

LARGEST = "diagonal 1e8"
MEMORY = 1.3
"""GiB that may be used; 13 at N = 1e8."""

COUNTED: dict[str, dict[str, Any]] = {
    "plain": {"method": "lanczos", "preconditioner": None, "reorthogonalize": False},
    "plain, basis kept": {"method": "lanczos", "preconditioner": None, "reorthogonalize": True},
    "ekfac": {"method": "lanczos", "preconditioner": "ekfac"},
    "subset": {"method": "lanczos", "preconditioner": "subset"},
    "eliminated": {"method": "elimination"},
    "eigenvalues": {"method": "exact"},
    "inertia": {"method": "exact"},
    "deflated": {"method": "lanczos"},
}
"""What asks for a way; inertia from one triangle has a function of its own."""

REPEATS, FEW = 3, 10**6
"""Below so many parameters the median of three: what the allocator leaves in pieces differs from run to run."""

LONGEST = 150.0
"""Seconds that a way may be foretold to take to be measured here."""


def loaded(name: str) -> Any:
    return PROBLEMS[name][0]()


def options_of(name: str, way: str) -> dict[str, Any]:
    """What plan and count are both given: a budget where vectors are to be taken out."""
    if way == "deflated":
        return {"threshold": TAU, "precision": FOREVER, "max_products": 300}
    return {"threshold": TAU, "precision": FOREVER, **PROBLEMS[name][1]}


def foretold(name: str, deflating: bool) -> dict[str, Any]:
    """All ways of one problem, as plan says them."""
    operator, limit = loaded(name), (13.0 if name == LARGEST else MEMORY) * 2**30
    asked = options_of(name, "deflated" if deflating else "plain")
    kind = {"method": "lanczos"} if deflating else {}
    found = plan(operator, **asked, **kind, memory=int(limit))
    return {"size": found.size, "chosen": found.chosen, "ways": {way.name: to_json(way) for way in found.ways}}


def measured(name: str, way: str) -> dict[str, Any]:
    """Peak and seconds of a count in that way."""
    operator, asked = loaded(name), options_of(name, way)
    held_bytes(CPU)
    if way == "inertia, one triangle":
        from lanczos_saddle.dense.one_triangle import inertia_at

        found, cost = measure(lambda: inertia_at(operator, [-TAU, TAU]), CPU)
        return {"peak": cost.peak_bytes, "seconds": cost.seconds, "products": found.products}
    counts, cost = measure(lambda: count_eigenvalues(operator, **{**asked, **exactly(way, asked)}), CPU)
    done = {"peak": cost.peak_bytes, "seconds": cost.seconds, "products": counts.products, "method": counts.method}
    return {**done, "plan": counts.plan, "steps": counts.steps}


def exactly(way: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The options of a way, without those that mean nothing to it."""
    unused = {"probes": None, "steps": None} if COUNTED[way]["method"] == "exact" and "probes" in asked else {}
    return {**COUNTED[way], **unused}


def child(*words: str, limit: float = 600) -> Any:
    """The last line of this script in a process of its own, as JSON."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, timeout=limit, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1])
    return {**json.loads(done.stdout.splitlines()[-1]), "process_seconds": time.perf_counter() - began}


def recorded() -> dict[tuple[str, str], dict[str, Any]]:
    """The last record of each cell."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line)["result"] for line in RESULTS.read_text().splitlines()]
    return {(row["problem"], row["way"]): row for row in rows}


def off(row: dict[str, Any]) -> bool:
    """Whether the predicted peak is further from the measured one than it should be."""
    return abs(row["predicted"]["peak"] / row["measured"]["peak"] - 1) > WITHIN


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a cell."""
    lines = [
        "| problem | N | way | MiB predicted | measured | ratio | seconds predicted | measured |",
        "|---" * 8 + "|",
    ]
    for row in sorted(rows, key=lambda row: (row["size"], row["problem"])):
        said, found = row["predicted"], row["measured"]
        ratio = f"{said['peak'] / found['peak']:.2f}" + (" OFF" if off(row) else "")
        seconds = f"{said['seconds']:.3g} ({said['fastest']:.3g} to {said['slowest']:.3g}) | {found['seconds']:.3g}"
        lines.append(
            f"| {row['problem']} | {row['size']:,} | {row['way']} | {said['peak'] / 2**20:.1f} | "
            f"{found['peak'] / 2**20:.1f} | {ratio} | {seconds} |"
        )
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> int:
    """Print them; returns how many peaks are off."""
    print(markdown(rows), flush=True)
    return sum(map(off, rows))


def main() -> int:
    """Predict, measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=[n for n in PROBLEMS if n != LARGEST])
    parser.add_argument("--ways", nargs="+", help="these alone")
    parser.add_argument("--largest", action="store_true", help="N = 1e8, which takes 12 GiB, as well")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of which the median is taken (%(default)s)")
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, name, *way = options.child
        work = {"foretold": lambda: foretold(name, bool(way)), "measured": lambda: measured(name, way[0])}
        print(json.dumps(to_json(work[kind]())))
        return 0
    rows = recorded()
    for name in [] if options.table else [*options.problems, *([LARGEST] if options.largest else [])]:
        limit = 7200.0 if name == LARGEST else 600.0
        for deflating in (False, True):
            if deflating and options.ways and "deflated" not in options.ways:
                continue
            if deflating and not name.startswith(("digits", "tanh", "mnist, 4", "diagonal 1e4", "diagonal 1e5")):
                continue
            try:
                made = child("--child", "foretold", name, *(["deflated"] if deflating else []), limit=limit)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            for way, said in made["ways"].items():
                asked = way in options.ways if options.ways else True
                mine = (way == "deflated") == deflating
                if not (asked and mine):
                    continue
                if not said["fits"] or said["seconds"] > (limit if name == LARGEST else LONGEST):
                    print(f"{name}, {way}: not counted, {said['instead'] or said['seconds']}", file=sys.stderr)
                    continue
                if deflating and made["chosen"] != "deflated":
                    continue
                if way == "eigenvalues" and made["size"] > 3000:
                    continue
                if (name, way) in rows and not options.again:
                    continue
                try:
                    times = options.repeats if made["size"] < FEW else 1
                    runs = [child("--child", "measured", name, way, limit=limit) for _ in range(times)]
                    found = sorted(runs, key=lambda run: run["peak"])[times // 2]
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"{name}, {way}: {error}", file=sys.stderr, flush=True)
                    continue
                rows[name, way] = {
                    "problem": name,
                    "size": made["size"],
                    "way": way,
                    "predicted": said,
                    "measured": found,
                    "repeats": times,
                }
                append(RESULTS, Record("plan peaks", {"problem": name, "way": way}, rows[name, way]))
                table([rows[name, way]])
    return 1 if table(list(rows.values())) else 0


if __name__ == "__main__":
    sys.exit(main())
