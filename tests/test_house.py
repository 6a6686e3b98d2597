"""The architecture as a law: a package imports only from those above it in the table; what each may know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lanczos_saddle

SOURCE = Path(lanczos_saddle.__file__).parent

TABLE = (
    "old_names",
    "startup",
    "defaults",
    "machine",
    "operators",
    "networks",
    "structure",
    "krylov",
    "certificates",
    "dense",
    "preconditioning",
    "counting",
    "classification",
    "density",
    "spectral_sums",
    "eigenvectors",
    "distributed",
    "forecast",
    "reports",
    "pyhessian",
    "monitor",
    "training",
    "studies",
    "cli",
)
"""The stages of the question; each may use those before it. `__init__` is the face of all."""

PLACE = {name: place for place, name in enumerate(TABLE)}

FILES = sorted(SOURCE.rglob("*.py"))


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def modules_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, at any depth of nesting, under their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import hides the package"
            if node.module == "lanczos_saddle" or (node.module or "").startswith("lanczos_saddle."):
                known = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if exists(name) else str(node.module) for name in known}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("lanczos_saddle")}
    return found


def exists(module: str) -> bool:
    path = SOURCE.parent / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").exists()


def libraries_of(path: Path, *, at_import: bool = False) -> set[str]:
    """What else a file imports; `at_import`: when it is imported itself, not within functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_import else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_every_package_is_in_the_table_and_says_what_it_is():
    assert {package_of(path) for path in FILES} <= {*TABLE, "__init__", "__main__"}
    for folder in {path.parent for path in FILES}:
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert text, f"{folder.name}: a package says in one line what it is"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_package_imports_from_those_above_it(path):
    own = package_of(path)
    if own in ("__init__", "__main__"):
        return
    for name in modules_of(path):
        other = name.split(".")[1] if "." in name else ""
        if other in PLACE:
            assert PLACE[other] <= PLACE[own], f"{own}/{path.name} imports {name}, which stands below it"


def test_there_are_no_circles():
    graph = {path: {file_of(name) for name in modules_of(path)} - {path} for path in FILES}
    done: set[Path] = set()
    while True:
        free = {path for path, needed in graph.items() if path not in done and needed - {None} <= done}
        if not free:
            break
        done |= free
    assert done == set(graph), f"in a circle: {sorted(p.name for p in set(graph) - done)}"


def file_of(module: str) -> Path | None:
    path = SOURCE.parent / module.replace(".", "/")
    for found in (path.with_suffix(".py"), path / "__init__.py"):
        if found.exists():
            return found
    return None


DOORS = {("counting/result.py", "lanczos_saddle.reports.page")}
"""Modules further down that a file names and finds when it is asked: a result becomes a page by a method of its own."""


def test_what_stands_below_is_named_in_one_place_only():
    found = set()
    for path in FILES:
        if package_of(path) in ("__init__", "old_names", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if text.startswith("lanczos_saddle.") and " " not in text and exists(text):
                found.add((path.relative_to(SOURCE).as_posix(), text))
    assert found == DOORS


def test_certificates_never_multiply():
    """Theorems spend no products: no `@` on an operator, nothing that makes one advance."""
    for path in (SOURCE / "certificates").glob("*.py"):
        called = {
            node.func.attr
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert not called & {"advance", "extend", "product"}, f"{path.name} asks for products"


def test_the_judge_does_not_lean_on_what_it_judges():
    reached, waiting = set(), list((SOURCE / "dense").glob("*.py"))
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting += [file_of(name) for name in modules_of(path) if file_of(name) and name != "lanczos_saddle"]
    assert not {package_of(path) for path in reached} & {"krylov", "certificates", "counting"}


KNOW_MODULES = {"networks", "structure", "preconditioning", "monitor", "training", "studies", "classification"}
"""Where torch.nn is known: what a network is, what follows from it, its factors, its training, studies of networks."""


def test_networks_are_known_where_the_table_allows_it():
    knowing = {package_of(p) for p in FILES if libraries_of(p) & {"torch.nn", "torch.func"}}
    assert knowing <= KNOW_MODULES


def test_figures_and_data_sets_are_imported_by_the_commands_that_use_them():
    for path in FILES:
        heavy = {name.partition(".")[0] for name in libraries_of(path)} & {"matplotlib", "sklearn"}
        assert not heavy or package_of(path) in ("reports", "training", "studies", "cli"), path.name
        at_import = {name.partition(".")[0] for name in libraries_of(path, at_import=True)}
        assert not at_import & {"matplotlib", "sklearn"}, path.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--help"],
        ["report", "there-is-no-such-file.json"],
        [],
        ["--help"],
        ["count", "--help"],
        ["classify", "--help"],
        ["reproduce", "--help"],
        ["--version"],
        ["count"],
        ["nonsense"],
        ["completion", "bash"],
    ],
)
def test_help_and_misuse_start_without_torch(arguments):
    code = (
        "import sys\n"
        "from lanczos_saddle.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('heavy:', sorted({'torch', 'scipy', 'matplotlib', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


MOST_ARGUMENTS = 6

FACE = {*lanczos_saddle.__all__, "Curvature", "negative_counts_by_elimination"}
"""Their keywords are what a user chooses from. `Curvature` makes `Hessian`, the other is the plural of one."""

MORE_ARGUMENTS = {
    "certificates.schur.schur_bounds": "the matrices of the theorem, by its symbols",
    "counting.comparison.compare": "the keywords of count_eigenvalues, which it hands on to every method",
    "counting.result.Task.counts": "a keyword a field of the result, each with its default",
    "networks.columns.cache.BlockProducts.add": "a product, its cheaper copy, and what tells copies apart",
    "networks.columns.convolutions.convolution_backward.call": "torch's own operation has this signature",
    "training.perturbations.PerturbedGradientDescent.__init__": "the constants of the algorithm, by their names",
    "training.perturbations.jin_constants": "the constants of the theorem, by their names",
}
"""What takes more than six, and why. The list may only shrink: an entry that is no longer needed fails."""


def functions_in(tree: ast.AST, name: str):
    """(full name, definition) of all functions, at any depth of nesting."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield inner, node
            yield from functions_in(node, inner)
        else:
            yield from functions_in(node, name)


def many_arguments() -> set[str]:
    """Functions beyond the limit, without those of the face; of its classes, the constructors alone are the face's."""
    found = set()
    for path in FILES:
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for name, function in functions_in(ast.parse(path.read_text(encoding="utf-8")), module):
            given = function.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            of_face = name.removeprefix(f"{module}.").removesuffix(".__init__") in FACE
            if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_ARGUMENTS and not of_face:
                found.add(name)
    return found


def test_functions_take_at_most_six_arguments_the_face_aside():
    found = many_arguments()
    assert found <= set(MORE_ARGUMENTS), "group what belongs together: a frozen dataclass, a pair, a constant"
    assert found >= set(MORE_ARGUMENTS), "no longer needed: take it from the list, which may only shrink"


BELOW_THE_WAIST = {"krylov", "certificates", "dense", "counting", "classification"}
"""Whatever these want to know of a matrix beyond its products comes as `Knowledge`, made by structure."""


def test_below_the_waist_nobody_asks_what_a_matrix_is_made_of():
    for path in FILES:
        if package_of(path) not in BELOW_THE_WAIST:
            continue
        assert not {name for name in modules_of(path) if name.startswith("lanczos_saddle.networks")}, path.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Call):
                called = node.left.func
                asked = isinstance(called, ast.Name) and called.id == "type"
                assert not asked, f"{path.name}, line {node.lineno}: type(...) is asked"
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("hasattr", "getattr")
            ):
                named = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
                assert named != ["problem"], f"{path.name}, line {node.lineno}: {node.func.id} asks for a problem"
