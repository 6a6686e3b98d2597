from pathlib import Path

import pytest
import torch

from lanczos_saddle.reports.records import Record, append


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--images", type=int, default=60_000, help="MNIST training images in a product")
    parser.addoption("--record", type=Path, help="append the medians to this store of JSON lines")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One record a session: what was measured, median seconds, rounds and extra information."""
    path, measured = session.config.getoption("--record"), getattr(session.config, "_benchmarksession", None)
    finished = [m for m in measured.benchmarks if m.stats.data] if measured is not None else []
    if path is None or not finished:
        return
    rows = [
        {"name": m.name, "group": m.group, "seconds": m.stats.median, "rounds": m.stats.rounds, **m.extra_info}
        for m in finished
    ]
    append(path, Record("kernels", {"threads": torch.get_num_threads()}, rows, seeds=0))
