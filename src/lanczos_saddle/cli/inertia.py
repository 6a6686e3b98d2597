"""Exact counts of large problems: inertia at every threshold, from one triangle in memory or in a file."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from lanczos_saddle.cli.commands import hessian_of, write_result
from lanczos_saddle.cli.console import uncovered
from lanczos_saddle.dense.one_triangle import foretold_seconds, inertia_at, plan_layout
from lanczos_saddle.machine.memory import require_disk
from lanczos_saddle.operators.hermitian import real_form


def inertia(options: argparse.Namespace) -> None:
    """Eigenvalues below and above every threshold, with their certificates; with --plan what that would take."""
    given, source = hessian_of(options)
    hessian, copies = real_form(given)
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
    tell = None if options.silent else _say
    if tell:
        tell(plan)
    began = time.perf_counter()
    counted = inertia_at(hessian, options.at, memory=memory, directory=directory, progress=tell)
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
    write_result(options, {**result, "products": counted.products, "seconds": seconds, "problem": source})


def _say(text: str) -> None:
    with uncovered():
        print(text, file=sys.stderr, flush=True)
