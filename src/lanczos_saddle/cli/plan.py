"""What a count will take, before it is made."""

from __future__ import annotations

import argparse
from dataclasses import fields

import torch

from lanczos_saddle.cli.commands import hessian_of, write_result
from lanczos_saddle.forecast.plan import plan as forecast
from lanczos_saddle.forecast.table import GIB
from lanczos_saddle.machine.memory import require_directory


def plan(options: argparse.Namespace) -> None:
    """Print what every way takes, and which one `count` would choose; with --json all of it as numbers."""
    if options.memory is not None and not 0 < options.memory < 1e9:
        raise ValueError(f"memory must be a number of GiB above 0; got {options.memory:g}")
    if options.directory is not None:
        require_directory(options.directory)
    operator, source = hessian_of(options)
    names = ("method", "confidence", "precision", "probes", "steps", "max_products")
    found = forecast(
        operator,
        threshold=options.threshold,
        relative_threshold=options.relative_threshold,
        **{name: getattr(options, name) for name in names},
        preconditioner=None if options.preconditioner == "none" else options.preconditioner,
        generator=torch.Generator().manual_seed(options.seed),
        memory=None if options.memory is None else int(options.memory * GIB),
        directory=options.directory,
        pilot=options.pilot,
        ranks=options.ranks,
        over=options.over_ranks,
        link=None if options.link is None else options.link * 1e9,
    )
    print(found)
    said = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in ("size", "products")}
    more = {"parameters": found.size, "products": sum(found.products.values()), "spent": found.products}
    write_result(options, {**more, **said, "problem": source})
