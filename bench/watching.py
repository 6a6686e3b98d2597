"""What watching costs: the digits network trained with and without a monitor, by the clock and to the last bit.

    python bench/watching.py                                # minutes; draws docs/figures/watched-digits.png
    python bench/watching.py --epochs 20 --every 90         # does it work?

Two trainings from one seed, the second of them with a `SpectrumMonitor`. Printed: what the monitor's own account says,
the difference of the two trainings by the wall clock and by CPU time, which know nothing of that account (other work on
the machine moves the first of them), and whether the weights are the same.
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
    alone, plainly, cpu_plainly, _ = trained(digits, options, watched=False)
    weights, seconds, cpu, monitor = trained(digits, options, watched=True)
    same = all(torch.equal(a, b) for a, b in zip(alone, weights, strict=True))
    account = {"spent": monitor.account.spent, "share": monitor.account.spent / (seconds - monitor.account.spent)}
    clocks = {"wall": difference(plainly, seconds), "cpu": difference(cpu_plainly, cpu)}
    print(monitor)
    used, asked_for = f"{100 * account['share']:.2f} %", f"{100 * options.share:g} %"
    print(f"account: {account['spent']:.2f} s, {used} of training ({asked_for} asked)")
    for name, clock in clocks.items():
        shown = f"{clock['without']:.2f} s without, {clock['with']:.2f} s with: {100 * clock['difference']:+.2f} %"
        print(f"{name + ':':<9}{shown}")
    print(f"weights: {'the same to the last bit' if same else 'DIFFERENT'}")
    moments = [moment.result() for moment in monitor.moments]
    result = {"account": account, "clocks": clocks, "same": same, "left_out": monitor.left_out, "moments": moments}
    asked = {name: value for name, value in vars(options).items() if name not in ("out", "figure")}
    append(options.out, Record("watching", {**asked, "threads": torch.get_num_threads()}, result, options.seed))
    plot_training(options.figure, moments, title="digits, 64-25-10, watched while it trains")
    return 0 if same else 1


def trained(
    digits: datasets.Dataset, options: argparse.Namespace, *, watched: bool
) -> tuple[list[torch.Tensor], float, float, SpectrumMonitor | None]:
    """(weights at the end, seconds of wall clock, of CPU, the monitor)."""
    torch.manual_seed(options.seed)
    model = mlp((64, 25, 10), generator=torch.Generator().manual_seed(options.seed))
    loss, x, y = nn.CrossEntropyLoss(), digits.x_train, digits.y_train
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    asked = {"relative_threshold": options.relative, "probes": options.probes, "steps": options.steps}
    asked |= {"every": options.every, "share": options.share, "samples": options.samples, "seed": options.seed}
    monitor = SpectrumMonitor(model, loss, (x, y), **asked) if watched else None
    began, cpu, step = time.perf_counter(), time.process_time(), 0
    if monitor is not None:
        monitor.step(0, epoch=0.0)
    for _ in range(options.epochs):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
            step += 1
            if monitor is not None:
                monitor.step(step, epoch=step / len(loader))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return [p.detach() for p in model.parameters()], seconds, cpu, monitor


def difference(without: float, with_it: float) -> dict[str, float]:
    return {"without": without, "with": with_it, "difference": with_it / without - 1}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--every", type=int, default=180, help="steps; an epoch has 180")
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
