"""Exact counts of large problems: inertia at every threshold, from one triangle in memory or in a file."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from lanczos_saddle.cli.commands import hessian_of, write_result
from lanczos_saddle.cli.console import uncovered
from lanczos_saddle.cli.ranks import launched, ranks
from lanczos_saddle.dense.exact import for_inertia
from lanczos_saddle.dense.one_triangle import Counted, foretold_seconds, inertia_at, plan_layout
from lanczos_saddle.machine.memory import require_disk
from lanczos_saddle.operators.hermitian import real_form


def inertia(options: argparse.Namespace) -> None:
    """Eigenvalues below and above every threshold, with their certificates; with --plan what that would take."""
    if launched() and (options.plan or options.directory is not None or options.memory is not None):
        raise ValueError("--plan, --memory and --directory are of one process; got several ranks: leave them out")
    given, source = hessian_of(options)
    hessian, copies = real_form(given)
    tell, began = None if options.silent else _say, time.perf_counter()
    if launched():
        dense = for_inertia(hessian, progress=not options.quiet)
        solver = dense.solver()
        counted = Counted([solver.at(t) for t in options.at], dense.products, dense.error)
        _write(options, counted, (hessian.shape[0], copies), began, source)
        return
    size, directory = hessian.shape[0], None if options.directory is None else Path(options.directory)
    memory = None if options.memory is None else int(options.memory * 2**30)
    layout = plan_layout(size, len(options.at), memory, directory)
    if directory is not None:
        require_disk(layout.disk, directory, f"inertia at N = {size}")
    seconds = foretold_seconds(layout, len(options.at))
    plan = f"{layout}; about {seconds / 3600:.2f} hours, an assembly not counted"
    if options.plan:
        print(plan)
        write_result(
            options, {"parameters": size // copies, "memory": layout.memory, "disk": layout.disk, "seconds": seconds}
        )
        return
    if tell:
        tell(plan)
    began = time.perf_counter()
    counted = inertia_at(hessian, options.at, memory=memory, directory=directory, progress=tell)
    _write(options, counted, (size, copies), began, source)


def _write(
    options: argparse.Namespace, counted: Counted, sizes: tuple[int, int], began: float, source: dict[str, Any]
) -> None:
    """A line and a row for every threshold; `sizes`: N, and how often it has each eigenvalue."""
    size, copies = sizes
    seconds, rows = time.perf_counter() - began, []
    print(f"N = {size // copies}, {counted.products} products, |A - H| at most {counted.error:.1e}, {seconds:.1f} s")
    print("     threshold      below      above     margin   distance  certified")
    for found in counted.found:
        sure = found.holds_for(counted.error)
        rows.append(
            {
                "threshold": found.threshold,
                "below": found.below // copies,
                "above": found.above // copies,
                "margin": found.margin,
                "separation": found.separation,
                "certified": sure,
            }
        )
        print(
            f"{found.threshold:14.6e} {found.below // copies:10d} {found.above // copies:10d} {found.margin:10.1e} "
            f"{found.separation:10.1e}  {'yes' if sure else 'no: an eigenvalue may lie within the margin'}"
        )
    result = {"parameters": size // copies, "method": "inertia", "rows": rows, "error": counted.error}
    write_result(
        options, {**result, "products": counted.products, "seconds": seconds, "ranks": ranks(), "problem": source}
    )


def _say(text: str) -> None:
    with uncovered():
        print(text, file=sys.stderr, flush=True)
