"""A command on several ranks, as torchrun starts it: rank 0 does what the command does, the others multiply.

    torchrun --nproc-per-node=4 -m lanczos_saddle count PROBLEM --threshold 1e-4

Each rank makes the problem and takes its share of the data (`distributed.share`), or with --over-ranks probes all of
them; with --over-ranks vectors it has its share and a slice of every vector, with --over-ranks weights its share and a
part of the parameters, with --over-ranks all its share of all three. Only rank 0 prints and writes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any

from lanczos_saddle.cli.console import hush

COMMANDS = ("count", "classify", "exact", "inertia", "density", "check")
"""What several ranks work on; all that these ask of a problem is its products."""


class Served(Exception):
    """Rank 0 has what it wanted of this one, which has nothing else to do."""


def launched() -> bool:
    """Whether torchrun started this process as one of several; without torch. What is no number is of others."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return rank.isdecimal() and size.isdecimal() and int(size) > 1


def first_rank() -> bool:
    """Whether this process prints and writes: rank 0, or one alone."""
    return not launched() or int(os.environ["RANK"]) == 0


@contextmanager
def quiet_but_first() -> Iterator[None]:
    """What ranks other than 0 print, their errors included, is dropped: rank 0 says it."""
    if first_rank():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), hush():
        yield


def over_ranks(options: argparse.Namespace, command: Callable[[argparse.Namespace], Any]) -> int:
    """The command on all ranks; the exit status of this one. Raises ValueError for one that is not shared."""
    if options.command not in COMMANDS:
        instead = f" as plan --ranks {ranks()}" if options.command == "plan" else ""
        raise ValueError(
            f"several ranks work on {', '.join(COMMANDS)}; got {options.command}: start it without torchrun{instead}"
        )
    from lanczos_saddle.distributed.group import RankFailed, RankLost, joined

    with joined(options.rank_timeout), ExitStack() as stack:
        options.led = stack
        try:
            return command(options) or 0
        except Served:
            return 0
        except (ValueError, RankFailed):
            if first_rank():
                raise
            return 0  # all ranks raise the same, and rank 0 says it: one that ends first would end the job
        except RankLost as error:
            if os.environ["RANK"] == "1":  # rank 0 may be the one that is gone
                with suppress(OSError):
                    os.write(2, f"lanczos-saddle: {error}\n".encode())
            raise


def ranks() -> int:
    """How many processes work on this command."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def shared(options: argparse.Namespace, load: Callable[[], Any], make: Callable[[Any, Any], Any]) -> Any:
    """(the matrix of all ranks, the problem): `load` gives a problem, `make` its matrix on some data.

    On other ranks than 0 this does not return: it raises `Served` at the end. Raises on all ranks what any of them did.
    """
    from lanczos_saddle.distributed.data import data_parallel
    from lanczos_saddle.distributed.group import Group
    from lanczos_saddle.distributed.in_slices import vector_parallel
    from lanczos_saddle.distributed.replicas import probe_parallel
    from lanczos_saddle.distributed.shares import share
    from lanczos_saddle.networks.refusals import WeightlessError

    group = Group(timeout=options.rank_timeout)
    how: dict[str, Any] = {"timeout": options.rank_timeout, "dense": options.exact_over_ranks}
    alone = ":" not in options.problem  # a built-in one is trained and kept in a file by the first that asks
    first = group.attempted(lambda: load() if group.rank == 0 or not alone else None)
    problem = group.attempted(lambda: load() if first is None else first)

    if options.over_ranks in ("weights", "all"):
        group.attempted(lambda: _require_model(options, problem))
        cut = _cut(options, problem, group.attempted(lambda: share(problem.data)))
        whole = options.over_ranks == "weights"
        return _led(options, cut if whole else vector_parallel(cut, timeout=options.rank_timeout)), problem
    if options.over_ranks == "probes":
        data = None if problem.hessian is not None else problem.data
        matrix: Any = probe_parallel(group.attempted(lambda: make(problem, data)), **how)
        return _led(options, matrix), problem

    def own() -> Any:
        if problem.hessian is not None:
            return make(problem, None)
        part = share(problem.data)
        with suppress(WeightlessError):  # all targets are ignored there: as good as no samples
            return None if part is None else make(problem, part)
        return None

    if options.over_ranks == "vectors":
        return _led(options, vector_parallel(group.attempted(own), timeout=options.rank_timeout)), problem
    matrix = data_parallel(group.attempted(own), **how)
    return _led(options, matrix), problem


def _require_model(options: argparse.Namespace, problem: Any) -> None:
    if problem.hessian is not None:
        raise ValueError(
            f"--over-ranks {options.over_ranks} cuts the parameters of a model; {options.problem} returns a Hessian, "
            "which has them whole: let it return (model, loss, data)"
        )


def _cut(options: argparse.Namespace, problem: Any, part: Any) -> Any:
    """The matrix of a problem whose parameters are cut over ranks, of this rank's part of the data."""
    import torch

    from lanczos_saddle.distributed.weights import weight_parallel

    matrix = weight_parallel(
        problem.model,
        problem.loss,
        part,
        weights=options.weights,
        parameters=options.parameters,
        dtype=getattr(torch, options.dtype),
        device=options.device,
        fidelity=not options.no_fidelity,
        timeout=options.rank_timeout,
    )
    matrix.dense = options.exact_over_ranks
    return matrix


def _led(options: argparse.Namespace, matrix: Any) -> Any:
    """The matrix as rank 0 asks for its products; other ranks multiply, and raise `Served` at the end."""
    from lanczos_saddle.distributed.leading import LedInterrupt, follow, leading

    if matrix.group.rank:
        with suppress(LedInterrupt):
            follow(matrix)
        raise Served
    return options.led.enter_context(leading(matrix))
