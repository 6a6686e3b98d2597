"""The pages of the API reference: one for each package of the house that has public names, and a table of them all."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import lanczos_saddle

OWN = {  # what users call; the rest is how the package multiplies
    "Hessian": ("of",),
    "GaussNewton": (),
    "Problem": (),
}
TITLES = {
    "counting": "Counts",
    "forecast": "Plans before running",
    "networks": "Networks",
    "operators": "Matrices and operators",
    "classification": "What kind of point",
    "dense": "Exact counts",
    "density": "Densities",
    "reports": "Figures and reports",
    "monitor": "Watching training",
    "structure": "What a network proves",
    "certificates": "Intervals",
    "preconditioning": "Preconditioners",
    "krylov": "Recurrences",
}
"""In this order; a package that is not named here comes behind, under its own name."""


def packages() -> dict[str, list[str]]:
    """Package -> its public names."""
    found: dict[str, list[str]] = {name: [] for name in TITLES}
    for name in sorted(lanczos_saddle.__all__, key=lambda name: (name[0].isupper(), name.lower())):
        place = lanczos_saddle._PLACES[name].split(".")[1]
        found.setdefault(place, []).append(name)
    return {place: names for place, names in found.items() if names}


def entry(name: str) -> str:
    """The directive for one name."""
    what = getattr(lanczos_saddle, name)
    if not inspect.isclass(what):
        return f".. autofunction:: {name}\n" if callable(what) else f".. autodata:: {name}\n"
    kind = "exception" if issubclass(what, BaseException) else "class"
    option = "" if OWN.get(name) == () else f"   :members: {', '.join(OWN.get(name, ()))}\n"
    return f".. auto{kind}:: {name}\n{option}"


def page(place: str, names: list[str]) -> str:
    """One page in reStructuredText."""
    title = TITLES.get(place, place)
    package = import_module(f"lanczos_saddle.{place}")
    said = (inspect.getdoc(package) or "").split("\n\n")[0].replace("\n", " ")
    quoted = said.replace("`", "").replace("*", r"\*").replace("|", r"\|")
    head = f"{title}\n{'=' * len(title)}\n\n``lanczos_saddle.{place}``: {quoted}\n\n.. currentmodule:: lanczos_saddle\n"
    return "\n".join([head, *(entry(name) for name in names)])


def overview(found: dict[str, list[str]]) -> str:
    """The table of all public names, and the order of the pages."""
    lines = ["API reference", "=============", "", "Every public name is imported from ``lanczos_saddle`` itself.", ""]
    lines += [".. toctree::", "   :maxdepth: 1", "", *(f"   {place}" for place in found), ""]
    for place, names in found.items():
        title = TITLES.get(place, place)
        lines += [title, "-" * len(title), "", *(f"- :py:obj:`lanczos_saddle.{name}`" for name in names), ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """All pages; a file is written only where it changes, so that a second build reads little."""
    folder.mkdir(exist_ok=True)
    found = packages()
    texts = {"index": overview(found), **{place: page(place, names) for place, names in found.items()}}
    for name, text in texts.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in texts:
            path.unlink()


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "api"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
