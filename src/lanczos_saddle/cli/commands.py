"""What each command does, between the parsed options and the library."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lanczos_saddle.classification import classify as saddle
from lanczos_saddle.cli.options import figure_beside
from lanczos_saddle.cli.ranks import launched, ranks, shared
from lanczos_saddle.counting.count import count_eigenvalues
from lanczos_saddle.counting.inside import CountsIn, count_in
from lanczos_saddle.counting.result import Counts, Interrupted, JointCounts
from lanczos_saddle.dense.exact import assemble_for, check_memory, eigenvalue_plan, exact_eigenvalues, three_counts
from lanczos_saddle.density import spectral_density
from lanczos_saddle.krylov.preflight import check_operator
from lanczos_saddle.machine.extras import require
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.machine.interrupts import interrupts_wait
from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.operators.hermitian import real_form
from lanczos_saddle.operators.matrix_files import is_matrix_file
from lanczos_saddle.operators.operator import Operator, as_operator
from lanczos_saddle.reports.records import Record, append, provenance, write_json
from lanczos_saddle.reports.summary import details, record_of, rows_of, summary
from lanczos_saddle.reports.terminal import show
from lanczos_saddle.training import checkpoints, problems
from lanczos_saddle.training.data_files import download_mnist

DECADES = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10]
"""Thresholds of the exact table, as fractions of the largest |eigenvalue|."""


LONG = 3000
"""Parameters from which an exact solve says beforehand what it takes."""


def download(options: argparse.Namespace) -> None:
    """Fetch the MNIST files, verified by checksum, to where they are looked for."""
    folder = download_mnist()
    print(f"MNIST, four files: {folder}")
    write_result(options, {"dataset": "mnist"})


def train(options: argparse.Namespace) -> None:
    """Train a built-in network (or take it from the cache) and save its weights where asked."""
    if options.problem not in problems.BUILT_IN:
        raise ValueError(
            f"train knows the built-in problems only, {' and '.join(problems.BUILT_IN)}; got {options.problem!r}: pass "
            "trained weights to the other commands with --weights"
        )
    problem = problems.problem(options.problem, seed=options.seed, progress=not options.quiet)
    for key in ("loss", "train_accuracy", "test_accuracy", "gradient_norm", "epochs"):
        print(f"{key:>14}  {problem.provenance[key]:.6g}")
    print(f"    checkpoint  {options.output}")
    write_result(
        options,
        dict(problem.provenance),
        lambda: checkpoints.save_checkpoint(options.output, problem.model, problem.provenance),
    )


def count(options: argparse.Namespace) -> int:
    """Count, print the intervals, write the JSON object that `summary` describes; 1 where the state is not saved.

    Of a count that is interrupted, what is known.
    """
    hessian, source = hessian_of(options)
    if options.interval is not None:
        return _count_in(options, hessian, source)
    try:
        counts = count_eigenvalues(
            hessian,
            threshold=options.threshold,
            relative_threshold=options.relative_threshold,
            **_counting(options),
            enumerate_negative=options.enumerate_negative,
            preconditioner=None if options.preconditioner == "none" else options.preconditioner,
            generator=_generator(options),
            progress=not options.quiet,
            state=options.state,
        )
    except Interrupted as stop:
        if stop.several is None:
            _tell(options, stop.counts, source, {})
        else:
            _tell_several(options, stop.several, source, rows_of(stop.several, options.problem))
        raise
    if isinstance(counts, JointCounts):
        return _several(options, counts, hessian, source)
    try:
        more = details(counts, hessian) if options.json is not None or options.record is not None else {}
    except KeyboardInterrupt:
        _tell(options, counts, source, {})
        raise
    _tell(options, counts, source, more)
    return 0 if counts.unsaved is None else 1  # it has been warned of


def _count_in(options: argparse.Namespace, operator: Operator, source: dict[str, Any]) -> int:
    """The same for the eigenvalues of an interval."""
    if launched():
        raise ValueError("--interval is counted by one process; got several ranks: run it without torchrun")
    others = {
        "--enumerate-negative": options.enumerate_negative,
        f"--preconditioner {options.preconditioner}": options.preconditioner not in ("auto", "none"),
        "--method elimination": options.method == "elimination",
    }
    if given := [name for name, there in others.items() if there]:
        raise ValueError(f"--interval is counted exactly or by lanczos alone; got {', '.join(given)}: leave that out")

    def tell(found: CountsIn) -> None:
        fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "size"}
        try:
            print(f"{found}\nstopped: {found.stopped}; noise of one product {found.noise:.1e}")
        finally:
            write_result(options, {"parameters": found.size, **fields, "problem": source})

    plan: dict[str, Any] = {"generator": _generator(options), "progress": not options.quiet, "state": options.state}
    try:
        found = count_in(operator, options.interval[0], options.interval[1], **_counting(options), **plan)
    except Interrupted as stop:
        tell(stop.inside)
        raise
    tell(found)
    return 0 if found.unsaved is None else 1


def _several(options: argparse.Namespace, counts: JointCounts, operator: Operator, source: dict[str, Any]) -> int:
    """The same at several thresholds, details in the first row."""
    try:
        wanted = options.json is not None or options.record is not None
        rows = record_of(counts, operator, name=options.problem) if wanted else []
    except KeyboardInterrupt:
        _tell_several(options, counts, source, rows_of(counts, options.problem))
        raise
    _tell_several(options, counts, source, rows)
    return 0 if all(one.unsaved is None for one in counts) else 1


def _tell_several(
    options: argparse.Namespace, counts: JointCounts, source: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """A row for each threshold, in the JSON object, too."""
    least = min(counts, key=lambda one: one.threshold)
    about = {"parameters": least.size, "confidence": counts.confidence, "products": counts.products}
    try:
        show(counts)
        print(f"stopped: {least.stopped}; noise of one product {least.noise:.1e}")
    finally:  # by an interrupt, too
        write_result(options, {**about, "rows": rows, "ranks": ranks(), "plan": least.plan, "problem": source})


def _tell(options: argparse.Namespace, counts: Counts, source: dict[str, Any], more: dict[str, Any]) -> None:
    run = counts.run_noise
    said = "" if run is None or not run.measured else f", of the run {run.bound:.1e}, measured"
    about = {"ranks": ranks(), "preconditioned": counts.preconditioned, "plan": counts.plan, "problem": source}
    try:
        show(counts)
        print(f"stopped: {counts.stopped}; noise of one product {counts.noise:.1e}{said}")
    finally:
        write_result(options, {**summary(counts), **about, **more})


def classify(options: argparse.Namespace) -> None:
    """Classify, print each answer with its certificate, write them as JSON; the directions to a file of their own."""
    hessian, source = hessian_of(options)
    began = time.perf_counter()
    constants = ("threshold", "relative_threshold", "epsilon", "kappa", "alpha", "gamma", "radius", "rho", "delta")
    found = saddle.classify(
        hessian,
        **{name: getattr(options, name) for name in (*constants, "lowest", "search_steps", "compare_hessians")},
        **_counting(options),
        generator=_generator(options),
        progress=not options.quiet,
    )
    seconds = time.perf_counter() - began
    show(found)
    ends = {"lowest": found.lowest_direction, "highest": found.highest_direction}
    vectors = {name: end.vector.cpu().numpy() for name, end in ends.items()}
    if options.output:
        print(f"directions: {options.output}")
    write_result(
        options,
        {
            "parameters": found.counts.size,
            "verdicts": found.verdicts,
            "counts": summary(found.counts),
            "loss": found.value,
            "gradient_norm": found.gradient_norm,
            "smallest": found.smallest,
            "largest": found.largest,
            "directions": {
                name: {"quotient": end.quotient, "residual": end.residual, "error": end.error}
                for name, end in ends.items()
            },
            "variation": found.variation,
            "products": found.products,
            "seconds": seconds,
            "problem": source,
        },
        *([lambda: _save_arrays(options.output, vectors)] if options.output else []),
    )


def exact(options: argparse.Namespace) -> None:
    """All eigenvalues: extremes, counts by decades, and the values themselves in a file."""
    given, source = hessian_of(options)
    hessian, copies = real_form(given)
    began = time.perf_counter()
    check_memory(hessian, eigenvalues=True)
    if hessian.shape[0] >= LONG and not options.silent:
        print(eigenvalue_plan(hessian), file=sys.stderr, flush=True)
    dense = assemble_for(hessian, progress=not options.quiet)
    values = exact_eigenvalues(dense, overwrite=True).numpy()[::copies]
    seconds = time.perf_counter() - began
    scale = float(np.abs(values).max())
    print(f"N = {len(values)}, eigenvalues {values[0]:.6e} to {values[-1]:.6e}, {seconds:.1f} s")
    print("tau / largest   negative  near zero   positive")
    table = {f"{relative:.0e}": three_counts(values, relative * scale) for relative in DECADES}
    for relative, (negative, near_zero, positive) in table.items():
        print(f"{relative:>13} {negative:10d} {near_zero:10d} {positive:10d}")
    if options.output:
        print(f"eigenvalues: {options.output}")
    write_result(
        options,
        {
            "parameters": len(values),
            "method": "exact",
            "smallest": values[0],
            "largest": values[-1],
            "counts": table,
            "products": dense.products,
            "seconds": seconds,
            "problem": source,
        },
        *([lambda: _save_arrays(options.output, {"eigenvalues": values})] if options.output else []),
    )


def density(options: argparse.Namespace) -> None:
    """Nodes and weights to a file, and a figure beside it."""
    require("matplotlib", "plots")
    from lanczos_saddle.reports.plots import plot_density

    hessian, source = hessian_of(options)
    began = time.perf_counter()
    result = spectral_density(
        hessian, probes=options.probes, steps=options.steps, generator=_generator(options), progress=not options.quiet
    )
    seconds = time.perf_counter() - began
    figure = figure_beside(options.output)
    linear = options.linear * (float(np.abs(result.nodes).max()) or 1.0)  # 1: the Hessian is zero
    title = f"{options.problem}, N = {result.size}, {result.probes} probes x {result.steps} products"
    print(f"nodes and weights: {options.output}\nfigure: {figure}")
    write_result(
        options,
        {
            "parameters": result.size,
            "nodes": result.nodes,
            "weights": result.weights,
            "probes": result.probes,
            "steps": result.steps,
            "products": result.products,
            "seconds": seconds,
            "problem": source,
        },
        lambda: result.save(options.output),
        lambda: plot_density(figure, result, linear=linear, title=title),
    )


def check(options: argparse.Namespace) -> None:
    """Run the preflight and say what it found."""
    given, source = hessian_of(options)
    hessian, copies = real_form(given)
    size = hessian.shape[0] // copies
    found = check_operator(hessian, generator=_generator(options))
    print(f"    parameters  {size} ({hessian.dtype}, {hessian.device})")
    print(f"   determinism  {found.determinism:.1e}  two products of one vector, relative")
    print(f"     asymmetry  {found.asymmetry:.1e}  u'Hv - v'Hu, relative")
    print(f"         noise  {found.noise:.1e}  of one product, in units of eigenvalues (by {found.noise_source})")
    print(f"         scale  {found.scale:.3e}  at least this large is the largest |eigenvalue|")
    print(found.fidelity)
    write_result(options, {"parameters": size, **dataclasses.asdict(found), "problem": source})


def hessian_of(options: argparse.Namespace) -> tuple[Operator, dict[str, Any]]:
    """The Hessian of the named problem, of all ranks together, or the matrix of a file, and where it came from."""
    if is_matrix_file(options.problem):
        if options.weights is not None or options.parameters != "*":
            raise ValueError(f"{options.problem} is a matrix: leave --weights and --parameters out")
        if launched():
            raise ValueError(f"{options.problem} is a matrix, which ranks do not share: run it without torchrun")
        matrix = as_operator(options.problem, dtype=getattr(torch, options.dtype), device=device_of(options))
        return matrix, {"problem": Path(options.problem).name}

    def load() -> problems.NamedProblem:
        device_of(options)  # before a network is trained
        return problems.problem(options.problem, progress=not options.quiet)

    def make(problem: problems.NamedProblem, data: Any) -> Hessian:
        return _matrix(options, problem, data, device_of(options))

    if not launched():
        problem = load()
        return make(problem, problem.data), _source(options, problem)
    matrix, problem = shared(options, load, make)
    return matrix, _source(options, problem)


def _source(options: argparse.Namespace, problem: problems.NamedProblem) -> dict[str, Any]:
    """Where the problem came from."""
    if options.weights is None:
        return dict(problem.provenance)
    return {"problem": options.problem, "weights": Path(options.weights).name}


def _matrix(options: argparse.Namespace, problem: problems.NamedProblem, data: Any, device: torch.device) -> Hessian:
    """The Hessian of a problem on some data, at the weights that were asked for."""
    if problem.hessian is not None:
        if options.weights is not None or options.parameters != "*" or problem.hessian.device != device:
            raise ValueError(
                f"{options.problem} returns a Hessian, which has its weights, parameters and device; leave --weights, "
                "--parameters and --device out, or let it return (model, loss, data)"
            )
        return problem.hessian.to(getattr(torch, options.dtype))
    if options.weights is not None:
        tensors = checkpoints.load_weights(options.weights)
        checkpoints.apply_weights(problem.model, checkpoints.sequential_names(tensors) if "W1" in tensors else tensors)
    return Hessian(
        problem.model,
        problem.loss,
        data,
        parameters=options.parameters,
        dtype=getattr(torch, options.dtype),
        device=device,
        fidelity=not options.no_fidelity,
    )


def device_of(options: argparse.Namespace) -> torch.device:
    """The device that was asked for; raises ValueError where it is not there."""
    device = torch.device(options.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        seen = torch.cuda.device_count() or "none"
        raise ValueError(f"--device {options.device} needs that CUDA device; torch sees {seen}: use --device cpu")
    return device


def _counting(options: argparse.Namespace) -> dict[str, Any]:
    """How the eigenvalues are counted."""
    names = ("method", "confidence", "precision", "probes", "steps", "max_products")
    return {name: getattr(options, name) for name in names}


def _generator(options: argparse.Namespace) -> torch.Generator:
    return torch.Generator().manual_seed(options.seed)


ABOUT_RANKS = ("over_ranks", "exact_over_ranks", "rank_timeout")


def write_result(options: argparse.Namespace, result: dict[str, Any], *files: Callable[[], None]) -> None:
    """The files that `files` write; --json: one object in a file of its own; --record: one line more in a store.

    All are tried, and an interrupt waits for them, but not for the reader of a FIFO; raises OSError with what was not
    written.
    """
    with interrupts_wait(patience=1):
        asked = _asked(options, result)
        fifos = [(path, write) for path, write in asked if Path(path).is_fifo()]
        failures = [error for write in files if (error := _tried(write)) is not None]
        failures += [error for one in asked if one not in fifos and (error := _tried(one[1], one[0])) is not None]
    failures += [error for path, write in fifos if (error := _tried(write, path)) is not None]
    if failures:
        raise failures[0] if len(failures) == 1 else OSError("; ".join(map(str, failures)))


def _asked(options: argparse.Namespace, result: dict[str, Any]) -> list[tuple[str, Callable[[], None]]]:
    """What --json and --record write, by their names."""
    hidden = ("json", "record", "quiet", "silent", "traceback", "command", "led", *ABOUT_RANKS)
    given = {name: value for name, value in vars(options).items() if name not in hidden}
    asked: list[tuple[str, Callable[[], None]]] = []
    if options.json is not None:
        document = {**result, "options": given, "provenance": provenance()}
        asked.append((options.json, lambda: write_json(options.json, document)))
    if options.record is not None:
        record = Record(
            options.command,
            given,
            result,
            seeds=given.get("seed"),
            products=result.get("products"),
            seconds=result.get("seconds"),
        )
        asked.append((options.record, lambda: append(options.record, record)))
    return asked


def _tried(write: Callable[[], None], path: str | None = None) -> OSError | None:
    try:
        write()
    except OSError as error:
        if path is None:
            return error
        return OSError(f"{path} could not be written: {error.strerror or error}")
    return None


def _save_arrays(path: str, arrays: Mapping[str, Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
