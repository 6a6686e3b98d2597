"""Put what the code of the pages prints below it: the tutorial, the first page, and the gallery of examples/.

python validate/printed.py            # runs them, and writes docs/gallery.md and the pages of SHOWN
python validate/printed.py --check    # exit status 1 where a page does not show what is printed

Seconds are left out. What is of the size of rounding differs from machine to machine and is not compared.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GALLERY = DOCS / "gallery.md"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SHOWN = ("index.md", "tutorial.md")
"""Pages of docs/ whose blocks go on from one another, each followed by what it prints."""

PAIR = re.compile(r"```python\n(.*?)```\n(.*?)(?=```python|\Z)", re.DOTALL)
OUTPUT = re.compile(r"```\n(.*?)```", re.DOTALL)
SECONDS = re.compile(r",? \d+(?:\.\d+)? s$", re.MULTILINE)
ROUNDING = re.compile(r"\d(?:\.\d+)?e-(?:0[7-9]|[1-9]\d)")


def without_seconds(text: str) -> str:
    """What is shown: seconds belong to a machine and to what else it did."""
    return SECONDS.sub("", text)


def comparable(text: str) -> str:
    """What is the same in every run."""
    return ROUNDING.sub("rounding", without_seconds(text)).strip()


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """What is printed, in an empty folder that goes away."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        os.chdir(folder)
        try:
            yield printed
        finally:
            os.chdir(before)


def printed_by_blocks(page: str) -> list[str]:
    """Runs the blocks of a page one after the other; what each prints."""
    names: dict[str, object] = {"__name__": "page"}
    texts = []
    with captured() as printed:
        for match in PAIR.finditer(page):
            began = len(printed.getvalue())
            exec(compile(match[1], "page", "exec"), names)
            texts.append(printed.getvalue()[began:])
    return texts


def shown_by_blocks(page: str) -> list[str | None]:
    """What stands below each block; None where nothing is shown."""
    found = [OUTPUT.search(match[2]) for match in PAIR.finditer(page)]
    return [None if match is None else match[1] for match in found]


def with_output(page: str) -> str:
    """The page, with what its blocks print in place of what it shows."""
    texts = iter(printed_by_blocks(page))

    def pair(match: re.Match[str]) -> str:
        text = without_seconds(next(texts))
        return f"```python\n{match[1]}```\n" + OUTPUT.sub(lambda _: f"```\n{text}```", match[2], count=1)

    return PAIR.sub(pair, page)


def missing(example: Path) -> list[str]:
    """Libraries that a script imports and that are not here."""
    named = re.findall(r"^(?:from|import) (\w+)", example.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [name for name in named if importlib.util.find_spec(name) is None]


def printed_by(example: Path) -> str:
    """What a script prints; what the gallery shows already where a library is missing."""
    if missing(example):
        return shown_in_gallery(example)
    with captured() as printed:
        runpy.run_path(str(example), run_name="__main__")
    return printed.getvalue()


def entry(example: Path, text: str) -> str:
    """One section of the gallery."""
    said = (ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    title = example.stem.replace("_", " ").capitalize()
    source = f"```{{literalinclude}} ../examples/{example.name}\n:language: python\n:start-at: import\n```"
    output = (
        f"```text\n{without_seconds(text).rstrip()}\n```"
        if text.strip()
        else "Its libraries were not at hand for this page."
    )
    return f"## {title}\n\n{said}\n\n[examples/{example.name}](../examples/{example.name})\n\n{source}\n\n{output}\n"


def shown_in_gallery(example: Path) -> str:
    """What the gallery shows below a script."""
    page = GALLERY.read_text(encoding="utf-8") if GALLERY.exists() else ""
    section = page.partition(f"](../examples/{example.name})\n")[2].partition("\n## ")[0]
    found = re.search(r"```text\n(.*?)```", section, re.DOTALL)
    return "" if found is None else found[1]


def gallery() -> str:
    """The whole page."""
    head = (
        "# Gallery\n\nScripts and what they print. Each is shorter than 40 lines and runs within seconds: "
        "`python examples/NAME.py`.\n"
        "There is a notebook, too, [digits.ipynb](../examples/digits.ipynb), which trains, counts and draws.\n\n"
        "This page is written by `python validate/printed.py`; the tests compare it with what the scripts print.\n\n"
    )
    return head + "\n".join(entry(example, printed_by(example)) for example in EXAMPLES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--only", metavar="PAGE", help="one page of docs/")
    options = parser.parse_args()
    stale = False
    for name in (*SHOWN, GALLERY.name):
        if options.only not in (None, name):
            continue
        path = DOCS / name
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        new = gallery() if path == GALLERY else with_output(page)
        stale |= comparable(new) != comparable(page)
        if not options.check:
            path.write_text(new, encoding="utf-8")
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
