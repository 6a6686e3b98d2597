"""Names of modules before they stood in packages, for one release: whoever imports one gets what took its place.

The same module, so that what is set in it is set; with a DeprecationWarning that says the new name. What is exported by
`lanczos_saddle` itself is better imported from there.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "lanczos_saddle."

MOVED = {
    "adaptive": "counting.deepening",
    "allocation": "counting.allocation",
    "arguments": "cli.arguments",
    "array_products": "operators.array_products",
    "batches": "networks.batches",
    "bench": "cli.bench",
    "beta_interval": "certificates.beta_interval",
    "blank_inputs": "structure.blank_inputs",
    "block_cg": "krylov.block_cg",
    "block_lanczos": "krylov.block_lanczos",
    "block_products": "networks.columns.cache",
    "blocked_ldl": "dense.blocked_ldl",
    "blocks": "networks.columns.layout",
    "cauchy": "certificates.cauchy",
    "closed_form": "structure.closed_form",
    "commands": "cli.commands",
    "comparison": "counting.comparison",
    "congruence": "preconditioning.congruence",
    "congruent_counts": "counting.preconditioned",
    "console": "cli.console",
    "counts": "counting.result",
    "curvature": "networks.curvature",
    "definitions": "classification.definitions",
    "deflation": "certificates.deflation",
    "demo": "cli.demo",
    "differences": "networks.comparison.differences",
    "directions": "classification.directions",
    "eigensolvers": "dense.eigensolvers",
    "elimination": "counting.eliminated",
    "elimination_bounds": "certificates.schur",
    "elimination_run": "counting.elimination_run",
    "enumeration": "counting.enumeration",
    "evidence": "counting.evidence",
    "exact": "dense.exact",
    "exact_counts": "counting.exact",
    "examination": "networks.comparison.examination",
    "extremes": "krylov.largest",
    "fidelity": "operators.fidelity",
    "files": "machine.files",
    "folded_convolutions": "networks.columns.convolutions",
    "folded_products": "networks.columns.matrix_products",
    "folding": "networks.columns.rules",
    "function_objective": "networks.function_objective",
    "gauss_newton": "networks.gauss_newton",
    "hermitian": "operators.hermitian",
    "hessian": "networks.hessian",
    "intervals": "certificates.intervals",
    "known_spectra": "operators.prescribed",
    "kronecker": "preconditioning.ekfac",
    "lanczos": "krylov.lanczos",
    "landscape_report": "cli.landscapes",
    "landscapes": "studies.landscapes",
    "landscapes.catalogue": "studies.landscapes.catalogue",
    "landscapes.critical_points": "studies.landscapes.critical_points",
    "landscapes.escapes": "studies.landscapes.escapes",
    "landscapes.exit_path": "studies.landscapes.exit_path",
    "landscapes.linear_nets": "studies.landscapes.linear_nets",
    "landscapes.splitting": "studies.landscapes.splitting",
    "landscapes.strictness": "studies.landscapes.strictness",
    "landscapes.surfaces": "studies.landscapes.surfaces",
    "landscapes.tables": "studies.landscapes.tables",
    "landscapes.tensors": "studies.landscapes.tensors",
    "layer_block": "structure.layer_block",
    "layers": "structure.layers",
    "ldl": "dense.ldl",
    "limits": "machine.rates",
    "linear_terms": "networks.columns.terms",
    "lipschitz": "classification.lipschitz",
    "losses": "networks.losses",
    "markdown": "reports.markdown",
    "matrices": "operators.matrices",
    "measuring": "machine.measuring",
    "memory": "machine.memory",
    "mixture": "networks.comparison.mixture",
    "null_vectors": "structure.null_vectors",
    "objective": "networks.objective",
    "operator": "operators.operator",
    "options": "cli.options",
    "padding": "certificates.padding",
    "paper": "training",
    "paper.checkpoints": "training.checkpoints",
    "paper.data_files": "training.data_files",
    "paper.datasets": "training.datasets",
    "paper.evaluation": "training.evaluation",
    "paper.idx": "training.idx",
    "paper.methods": "training.methods",
    "paper.networks": "training.networks",
    "paper.objectives": "training.objectives",
    "paper.perturbations": "training.perturbations",
    "paper.problems": "training.problems",
    "paper.saddle_free": "training.saddle_free",
    "paper.training": "training.training",
    "parameters": "networks.parameters",
    "partition": "counting.partition",
    "placement": "networks.placement",
    "planning": "counting.planning",
    "plots": "reports.plots",
    "preconditioners": "preconditioning.choice",
    "preflight": "krylov.preflight",
    "problem": "networks.problem",
    "quadrature": "certificates.quadrature",
    "readings": "networks.columns.readings",
    "records": "reports.records",
    "reproduce": "cli.reproduce",
    "reproduction": "studies.paper",
    "reproduction.along_training": "studies.paper.along_training",
    "reproduction.convention": "studies.paper.convention",
    "reproduction.definitions": "studies.paper.definitions",
    "reproduction.degeneracy": "studies.paper.degeneracy",
    "reproduction.epsilon_alpha": "studies.paper.epsilon_alpha",
    "reproduction.experiments": "studies.paper.experiments",
    "reproduction.judged": "studies.paper.judged",
    "reproduction.kept_weights": "studies.paper.kept_weights",
    "reproduction.measurements": "studies.paper.measurements",
    "reproduction.paper_plots": "studies.paper.paper_plots",
    "reproduction.plateau": "studies.paper.plateau",
    "reproduction.printed": "studies.paper.printed",
    "reproduction.random_matrices": "studies.paper.random_matrices",
    "reproduction.rows": "studies.paper.rows",
    "reproduction.semicircle": "studies.paper.semicircle",
    "reproduction.shape_anatomy": "studies.shapes.anatomy",
    "reproduction.shape_cells": "studies.shapes.cells",
    "reproduction.shape_figures": "studies.shapes.figures",
    "reproduction.shape_plots": "studies.shapes.plots",
    "reproduction.shape_results": "studies.shapes.results",
    "reproduction.shape_tables": "studies.shapes.tables",
    "reproduction.shapes": "studies.shapes.study",
    "reproduction.spectra": "studies.paper.spectra",
    "reproduction.store": "studies.paper.store",
    "reproduction.tables": "studies.paper.tables",
    "reproduction.verdicts": "studies.paper.verdicts",
    "resolution": "operators.resolution",
    "saddle": "classification.classify",
    "sampled_counts": "counting.sampled",
    "scalars": "operators.scalars",
    "scaling": "operators.scaling",
    "stages": "networks.columns.stages",
    "states": "machine.states",
    "streams": "machine.streams",
    "subset": "preconditioning.subset",
    "survey": "networks.comparison.survey",
    "sylvester": "dense.sylvester",
    "symmetric": "operators.symmetric",
    "threads": "machine.threads",
    "tracing": "networks.columns.trace",
    "writable": "machine.writable",
}


class OldNames(MetaPathFinder, Loader):
    """Finds modules under their old names."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        """Of an old name alone; every other import goes its way."""
        known = fullname.startswith(PACKAGE) and fullname.removeprefix(PACKAGE) in MOVED
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that took its place."""
        new = PACKAGE + MOVED[spec.name.removeprefix(PACKAGE)]
        warnings.warn(f"{spec.name} is now {new}; the old name goes with the next release", DeprecationWarning, 2)
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run again; the module keeps its own specification."""
        spec = module.__spec__
        if spec is not None and spec.loader is self:
            module.__spec__ = spec.loader_state


def moved(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that was a module: what it had is found where it is now, with a warning."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        new = PACKAGE + names[name]
        said = f"{package}.{name} is now in {new}; the old place goes with the next release"
        warnings.warn(said, DeprecationWarning, 2)
        return getattr(import_module(new), name)

    return find


def known() -> None:
    """Let old names be found."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
