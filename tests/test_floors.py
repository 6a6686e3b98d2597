"""The architecture as a law: a module imports only from lower floors, and neighbors do not see each other."""

import ast
from pathlib import Path

import pytest

import lanczos_saddle

SOURCE = Path(lanczos_saddle.__file__).parent

FLOORS = [
    {"scaling", "batches", "fidelity"},
    # helpers of one idea each
    {
        "parameters",
        "files",
        "console",
        "memory",
        "measuring",
        "streams",
        "losses",
        "ldl",
        "blocked_ldl",
        "blocks",
        "eigensolvers",
        "threads",
        "placement",
        "resolution",
        "readings",
        "scalars",
        "matrices",
        "hermitian",
        "array_products",
    },
    {"objective", "mixture"},
    {"survey", "differences", "function_objective"},
    {"symmetric", "tracing", "folded_convolutions", "folded_products", "writable"},
    {"folding", "linear_terms", "states"},
    {"stages"},
    {"problem", "operator", "limits", "block_products", "sylvester"},
    {"examination"},
    {"curvature"},
    {"hessian", "gauss_newton", "structure", "known_spectra", "kronecker"},
    {"layers", "blank_inputs", "null_vectors"},
    {"closed_form"},
    {"lanczos", "exact", "block_cg", "layer_block", "congruence"},
    {"subset"},
    {"preconditioners"},
    {"quadrature", "beta_interval", "padding", "cauchy", "preflight"},
    {"intervals", "extremes", "lipschitz", "density", "deflation", "block_lanczos", "elimination_bounds", "partition"},
    {"evidence", "enumeration", "elimination_run", "definitions"},
    {"adaptive", "allocation", "elimination", "directions"},
    {"planning"},
    {"counts"},
    {"exact_counts", "sampled_counts"},
    {"congruent_counts"},
    {"counting"},
    {"records", "comparison", "saddle", "markdown"},
    {"plots"},
    {"paper"},
    {"landscapes"},
    {"reproduction"},
    {"commands"},
    {"demo", "landscape_report", "bench", "reproduce"},
    {"options"},
    {"arguments"},
    {"cli"},
    {"__main__", "__init__"},
]
"""Lowest first. `paper`, `landscapes`, `reproduction` stand beside the floors: only the command line imports them."""

FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


def imported_modules(path: Path) -> set[str]:
    """The package's own modules that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            package, _, rest = node.module.partition(".")
            if package == "lanczos_saddle":
                found |= {rest.split(".")[0]} if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lanczos_saddle.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert path.parent != SOURCE or node.module, f"{path.name}: relative imports hide the floor"
            found |= {(node.module or "").split(".")[0]} if path.parent == SOURCE else set()
    return found


def modules() -> list[Path]:
    return sorted(SOURCE.glob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: p.stem)
def test_imports_come_from_lower_floors(path):
    for name in imported_modules(path) - {"__version__"}:
        assert FLOOR[name] < FLOOR[path.stem], f"{path.stem} (floor {FLOOR[path.stem]}) imports {name} ({FLOOR[name]})"


def test_the_oracle_does_not_lean_on_what_it_judges():
    above = {"exact"}
    while True:
        reached = above | {name for module in above for name in imported_modules(SOURCE / f"{module}.py")}
        if reached == above:
            break
        above = reached
    assert not above & {"lanczos", "quadrature", "beta_interval", "intervals", "counts", "counting"}


def test_only_the_command_line_imports_the_paper():
    users = {path.stem for path in modules() if "paper" in imported_modules(path)}
    assert users <= {"commands", "demo", "bench", "arguments", "options", "reproduce"}


def test_only_the_command_line_imports_the_reproduction():
    users = {path.stem for path in modules() if "reproduction" in imported_modules(path)}
    assert users == {"arguments", "reproduce"}


def test_only_the_command_line_imports_the_landscapes():
    users = {path.stem for path in modules() if "landscapes" in imported_modules(path)}
    assert users == {"landscape_report"}


@pytest.mark.parametrize("path", sorted((SOURCE / "reproduction").glob("*.py")), ids=lambda p: p.stem)
def test_the_reproduction_uses_the_floors_below_the_command_line(path):
    assert not imported_modules(path) & {"commands", "demo", "bench", "cli", "landscape_report"}


@pytest.mark.parametrize("path", sorted((SOURCE / "landscapes").glob("*.py")), ids=lambda p: p.stem)
def test_the_landscapes_use_the_floors_below_the_command_line(path):
    assert not imported_modules(path) & {"commands", "demo", "cli", "landscape_report", "plots", "counts", "counting"}


def test_only_plots_imports_matplotlib():
    users = {path.stem for path in SOURCE.rglob("*.py") if "matplotlib" in path.read_text()}
    assert users == {"plots", "paper_plots", "shape_plots"}


def test_the_plots_of_shapes_compute_nothing():
    assert imported_modules(SOURCE / "reproduction" / "shape_plots.py") == {"plots"}


@pytest.mark.parametrize("path", sorted((SOURCE / "paper").glob("*.py")), ids=lambda p: p.stem)
def test_the_paper_uses_the_floors_below_the_command_line(path):
    assert not imported_modules(path) & {"commands", "demo", "bench", "cli", "counts", "exact"}
