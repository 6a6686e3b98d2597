"""Pages that live outside docs/ and are linked from it: a copy of each is built, its links turned to the copies."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = {"bench/README.md": "bench.md", "findings/README.md": "findings.md"}
FOLDER = "outside"


def turned(text: str, source: str) -> str:
    """The page of `source` as it reads from docs/outside: links to docs/ and beside it still lead somewhere."""
    home = source.rpartition("/")[0]

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if "://" in target or target.startswith("#"):
            return match[0]
        if target.startswith("../docs/"):
            return f"](../{target.removeprefix('../docs/')})"
        return f"](../../{target.removeprefix('../')})" if target.startswith("../") else f"](../../{home}/{target})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def write(folder: Path) -> None:
    """The copies; a file is written only where it changes."""
    (folder / FOLDER).mkdir(exist_ok=True)
    for source, name in PAGES.items():
        text = turned((folder.parent / source).read_text(encoding="utf-8"), source)
        path = folder / FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def point_to_copies(app, docname, content):
    """Links to the originals lead to the copies."""
    up = "../" * docname.count("/")
    for source, name in PAGES.items():
        content[0] = content[0].replace(f"](../{up}{source}", f"]({up}{FOLDER}/{name}")


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    app.connect("source-read", point_to_copies)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
