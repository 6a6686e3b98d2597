"""This package's ways to count on a problem of the user's, in one table, beside the limits of the machine."""

from __future__ import annotations

import argparse

import torch

from lanczos_saddle.certificates.intervals import check_confidence, check_positive
from lanczos_saddle.cli.commands import hessian_of, write_result
from lanczos_saddle.counting.comparison import METHODS, Row, Three, compare, table
from lanczos_saddle.krylov.largest import largest_magnitude
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.machine.rates import machine_limits
from lanczos_saddle.machine.streams import Streams


def bench(options: argparse.Namespace) -> None:
    """Count by every method, exactly where N allows it; print the table and the machine's limits."""
    check_positive(options.relative_threshold if options.threshold is None else options.threshold)
    check_confidence(options.confidence)
    hessian, source = hessian_of(options)
    size = hessian.shape[0]
    streams = Streams(torch.Generator().manual_seed(options.seed))
    check_operator(hessian, generator=streams.spawn())
    scale, _ = largest_magnitude(hessian, streams.spawn())  # once for all methods: none of them pays for it
    if scale == 0.0 and options.threshold is None:
        raise ValueError("a relative threshold needs a nonzero Hessian; every product was zero: pass --threshold")
    tau = options.relative_threshold * scale if options.threshold is None else options.threshold
    methods = [method for method in METHODS if method.samples or size <= options.exact_up_to]
    rows = compare(
        hessian,
        methods,
        threshold=tau,
        confidence=options.confidence,
        seed=options.seed,
        probes=options.probes,
        steps=options.steps,
        progress=not options.quiet,
    )
    exact = exact_counts_of(rows)
    limits = machine_limits(hessian.dtype, hessian.device)
    print(f"{options.problem}: N = {size}, tau = {tau:.3e}, largest |eigenvalue| {scale:.3e}, {hessian.dtype}")
    print(table(rows, exact))
    print("estimate (error); width of the widest interval; MiB beyond the problem's own")
    print(
        f"machine: {limits.gflop_per_second:.0f} GFLOP/s in a matrix product, "
        f"{limits.gb_per_second:.1f} GB/s in a copy, {torch.get_num_threads()} threads"
    )
    write_result(
        options,
        {
            "parameters": size,
            "threshold": tau,
            "scale": scale,
            "confidence": options.confidence,
            "exact": exact,
            "rows": rows,
            "limits": limits,
            "threads": torch.get_num_threads(),
            "problem": source,
        },
    )


def exact_counts_of(rows: list[Row]) -> Three | None:
    """What the exact method found; None where it was not run or failed."""
    for row in rows:
        if row.method == "exact" and row.failed is None:
            negative, near_zero, positive = (int(answer.estimate or 0) for answer in row.answers)
            return negative, near_zero, positive
    return None
