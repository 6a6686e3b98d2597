"""Certified intervals judged by the exact counts of the same networks, as far as a store has both."""

from __future__ import annotations

import statistics

from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import parameters_of
from lanczos_saddle.studies.paper.store import Store


def markdown(store: Store) -> str:
    """For every threshold: networks with both, those whose three intervals hold, and the median width, in % of N."""
    judged: dict[str, list[tuple[bool, float]]] = {}
    for record in store.all("certified"):
        exact = store.find("exact", parameters_of("exact", Experiment.recorded(record["parameters"])))
        if exact is None:
            continue
        for tau, intervals in record["result"]["intervals"].items():
            inside = [low <= n <= high for n, (low, _, high) in zip(exact["counts"][tau], intervals, strict=True)]
            width = 100 * max(high - low for low, _, high in intervals) / exact["size"]
            judged.setdefault(tau, []).append((all(inside), width))
    body = [
        [tau, len(cells), sum(held for held, _ in cells), f"{statistics.median(width for _, width in cells):.1f}"]
        for tau, cells in judged.items()
    ]
    return table("tau / largest|networks|all three hold|median width of the widest, % of N", body)
