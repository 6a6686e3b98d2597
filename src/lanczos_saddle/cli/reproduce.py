"""The command `reproduce`: fill the store with the cells of the tables and figures that are named, then print them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from lanczos_saddle import defaults
from lanczos_saddle.cli.commands import device_of, write_result
from lanczos_saddle.cli.console import uncovered
from lanczos_saddle.machine.files import replacing
from lanczos_saddle.machine.progress import current, stage
from lanczos_saddle.studies.paper import degeneracy, epsilon_alpha, plateau, semicircle, tables
from lanczos_saddle.studies.paper.along_training import NO_DATA
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import measure, parameters_of
from lanczos_saddle.studies.paper.rows import rows, table_names
from lanczos_saddle.studies.paper.store import Store
from lanczos_saddle.studies.shapes import study as shapes

FIGURES = dict(
    zip(defaults.FIGURES, (plateau.run, epsilon_alpha.run, degeneracy.run, semicircle.run, shapes.run), strict=True)
)
NAMES = defaults.REPRODUCED
DATASETS = ("mnist", "cifar10_features")
DENSE_SIZE = {"cpu": 27_000, "cuda": 100_000}
"""Dense counts up to this many parameters: up to 40 minutes of one core and three matrices, seconds on a large GPU."""

GENERAL_SIZE = {"cpu": 7_000, "cuda": 25_000}
"""The paper's general eigensolver up to this many parameters (a quarter of an hour of one core); inertia beyond."""

FAILURES = (ValueError, ArithmeticError, MemoryError, RuntimeError)
"""What a cell may end with: refusals, solvers that do not converge, and torch's own, device memory among them."""

Cell = tuple[str, Experiment]


def reproduce(options: argparse.Namespace) -> int:
    """Compute what is missing, in order of cost, and write each table as Markdown.

    A cell that is refused or fails (memory, divergence, a solver) is named at the end; the others are computed all the
    same. Returns the exit status: 1 where something was not done.
    """
    chosen = tuple(options.datasets or DATASETS)
    names = _names(options.names, chosen)
    store = Store(options.folder, finished=options.report_only, device=device_of(options))
    if options.report_only and not store.path.is_file():
        raise ValueError(f"--report-only prints what a store has; {store.path} is not there: name another --store")
    refused = [] if options.report_only else _fill(store, list(cells(names, chosen, options)), options)
    pages = {}
    for name in names:
        page = pages[name] = f"## {name}\n\n{_body(store, name, chosen, options, refused)}"
        print(page, end="\n\n")
        with replacing(Path(options.folder, f"{name}.md")) as temporary:
            temporary.write_text(page + "\n", encoding="utf-8")
    for line in refused:
        print(f"not done: {line}")
    print(f"records and tables: {options.folder}")
    write_result(options, {"tables": pages, "refused": refused})
    return 1 if refused else 0


def cells(names: Iterable[str], chosen: Iterable[str], options: argparse.Namespace) -> Iterator[Cell]:
    """What the tables need, the cheapest first; each cell once."""
    counted = options.counted if options.counted is not None else 1 if _kind(options) == "cpu" else options.trials
    experiments = [
        variant
        for name in names
        if name in table_names()
        for dataset in chosen
        for row in rows(name, dataset)
        for variant in row.variants(options.objective)
    ]
    unique = list(dict.fromkeys(experiments))
    dense, general = DENSE_SIZE[_kind(options)], GENERAL_SIZE[_kind(options)]
    for kind, trials, least, most in (
        ("structure", options.trials, 0, sys.maxsize),
        ("certified", counted, 0, sys.maxsize),
        ("exact", counted, 0, dense),
        ("convention", counted, 0, general),
        ("float32 signs", counted, general + 1, dense),
    ):
        for trial in range(min(trials, options.trials)):
            yield from ((kind, replace(one, trial=trial)) for one in unique if least <= one.size <= most)


def _fill(store: Store, wanted: list[Cell], options: argparse.Namespace) -> list[str]:
    """Compute the cells that the store does not have; returns what was refused, with the reasons."""
    for dataset in {experiment.dataset for _, experiment in wanted}:
        store.check_data(dataset)  # data that are missing are named before hours of work
    missing = [cell for cell in wanted if store.find(cell[0], parameters_of(*cell)) is None]
    refused = []
    with stage("cells", len(missing), unit="cell") as told:
        for done, (kind, experiment) in enumerate(missing, start=1):
            name = f"{kind} of {experiment}"
            told.to(done - 1)
            if not options.silent:
                with uncovered():
                    print(f"[{done}/{len(missing)}] {name}", file=sys.stderr)
            try:
                measure(store, kind, experiment, progress=not options.quiet)
            except FAILURES as error:
                refused.append(f"{name}: {str(error) or type(error).__name__}")
            except KeyboardInterrupt:
                with uncovered():
                    here = f"{done - 1} of {len(missing)} done, in {store.folder}"
                    print(f"{here}: the same command continues", file=sys.stderr)
                raise
        told.to(len(missing))
    return refused


def _names(asked: Iterable[str], chosen: Iterable[str]) -> tuple[str, ...]:
    """The tables and figures that are asked for, each once.

    Figures are of the paper's networks, or of small ones on digits: of data of one's own "all" means the tables.
    Raises ValueError for a figure of such data.
    """
    known = {*DATASETS, "digits"}.intersection(chosen)
    names = tuple(dict.fromkeys(asked))
    if "all" in names:
        return NAMES if known else tuple(name for name in NAMES if name not in FIGURES)
    if drawn := [name for name in names if name in FIGURES and not known]:
        raise ValueError(
            f"figures are drawn of digits, mnist and cifar10_features alone; got {', '.join(drawn)} of "
            f"{', '.join(chosen)}: ask for tables, or leave --datasets out"
        )
    return names


def _body(store: Store, name: str, chosen: Iterable[str], options: argparse.Namespace, refused: list[str]) -> str:
    """A table or a figure in Markdown; the reason of a figure that could not be drawn is put among the `refused`."""
    if name in FIGURES:
        small = set(chosen) == {"digits"}
        current().say(name)
        try:
            drawn = FIGURES[name](store, store.folder / "figures", small=small, progress=not options.quiet)
            _, found, without = drawn.partition(NO_DATA)
            refused += [f"{name}: no data for {without.splitlines()[0]}"] if found else []
            return drawn
        except FAILURES as error:
            reason = str(error) or type(error).__name__
            refused.append(f"{name}: {reason}")
            return f"Not drawn: {reason}"
    found = tables.markdown(store, name, chosen, options.objective)
    if not found:
        return "Nothing computed yet."
    return f"{found}\n\n{tables.LEGEND}" if name in table_names() else found


def _kind(options: argparse.Namespace) -> str:
    kind: str = options.device.partition(":")[0]
    return kind
