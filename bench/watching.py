"""What watching costs: the digits network trained with and without a monitor, by the clock and to the last bit.

    python bench/watching.py                                # minutes; draws docs/figures/watched-digits.png
    python bench/watching.py --epochs 20 --every 90         # does it work?

Three trainings from one seed, the second of them with a `SpectrumMonitor`. Printed: what the monitor's own account
says; what all calls took by the wall clock around each of them, and those at which a count is due by the CPU clock,
which know nothing of that account; the wall and CPU time of the three, the first and the last of which say how much the
machine drifts; whether the weights are the same. The CPU clock is a call of the system's, at which a busy machine may
turn to something else: it is read outside of what the wall clock measures.

Appends a record to bench/results/watching.jsonl; its moments are what the figure shows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lanczos_saddle import SpectrumMonitor, plot_training
from lanczos_saddle.reports.records import Record, append
from lanczos_saddle.training import datasets
from lanczos_saddle.training.networks import mlp

HERE = Path(__file__).parent
BATCH, RATE = 8, 0.001  # so slow that the counts which 5 % pays for see the loss fall


def main() -> int:
    options = parsed()
    digits = datasets.load("digits")
    alone, before, _, _ = trained(digits, options, watched=False)
    weights, (seconds, cpu), inside, monitor = trained(digits, options, watched=True)
    again, after, _, _ = trained(digits, options, watched=False)
    same = all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, weights, again, strict=True))
    account = {"spent": monitor.account.spent, "share": monitor.account.spent / (seconds - monitor.account.spent)}
    clocks = {
        name: {"before": before[i], "with": (seconds, cpu)[i], "after": after[i]}
        for i, name in enumerate(("wall", "cpu"))
    }
    around = {"wall": inside[0] / (seconds - inside[0]), "cpu": inside[1] / (cpu - inside[1])}
    print(monitor)
    used, asked_for = f"{100 * account['share']:.2f} %", f"{100 * options.share:g} %"
    print(f"account: {account['spent']:.2f} s, {used} of training ({asked_for} asked)")
    print(
        f"calls:   {100 * around['wall']:.2f} % of training by the wall clock, {100 * around['cpu']:.2f} % by CPU time"
    )
    for name, each in clocks.items():
        print(f"{name + ':':<9}" + ", ".join(f"{value:.2f} s {which}" for which, value in each.items()))
    print(f"weights: {'the same to the last bit' if same else 'DIFFERENT'}")
    moments = [moment.result() for moment in monitor.moments]
    result = {"account": account, "calls": around, "clocks": clocks, "same": same, "left_out": monitor.left_out}
    result |= {"moments": moments}
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "figure")}
    append(options.out, Record("watching", {**asked, "threads": torch.get_num_threads()}, result, options.seed))
    plot_training(
        options.figure,
        moments,
        title=f"Digits, 64-25-10, watched within {100 * options.share:g} % of its training time",
    )
    return 0 if same else 1


def trained(
    digits: datasets.Dataset, options: argparse.Namespace, *, watched: bool
) -> tuple[list[torch.Tensor], tuple[float, float], tuple[float, float], SpectrumMonitor | None]:
    """(weights at the end, (wall, CPU) seconds of it all, those in the monitor's calls, the monitor)."""
    torch.manual_seed(options.seed)
    model = mlp((64, 25, 10), generator=torch.Generator().manual_seed(options.seed))
    loss, x, y = nn.CrossEntropyLoss(), digits.x_train, digits.y_train
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    batches = len(loader)
    asked = {"relative_threshold": options.relative, "probes": options.probes, "steps": options.steps}
    asked |= {"every": options.every, "share": options.share, "samples": options.samples, "seed": options.seed}
    monitor = SpectrumMonitor(model, loss, (x, y), **asked) if watched else None
    wall, cpu, step = 0.0, 0.0, 0
    began = time.perf_counter(), time.process_time()
    if monitor is not None:
        monitor.step(0, epoch=0.0)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    for _ in range(options.epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
            step += 1
            if monitor is not None:
                due = step % options.every == 0
                cpu_tick = time.process_time() if due else 0.0
                tick = time.perf_counter()
                monitor.step(step, epoch=step / batches)
                wall += time.perf_counter() - tick
                if due:
                    cpu += time.process_time() - cpu_tick
    seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    if monitor is not None:
        monitor.close()
    return [p.detach() for p in model.parameters()], seconds, (wall, cpu), monitor


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--every", type=int, default=180, help="steps; an epoch has 188")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--relative", type=float, default=1e-2)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "watching.jsonl")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "figures" / "watched-digits.png")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
