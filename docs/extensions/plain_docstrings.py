"""Docstrings here are plain text with formulas; Sphinx wants reStructuredText. This turns one into the other.

What stands between backquotes becomes code, or a link where it is a public name. What is indented stays as it is set.
"Args:" and "Raises:" become lists. Everything else is escaped, so that |H|, x_i' and 2 * N say what they say. The
comment behind a field is its description.
"""

from __future__ import annotations

import inspect
import re
import textwrap

import lanczos_saddle

PUBLIC = frozenset(lanczos_saddle.__all__)
SECTION = re.compile(r"(Args|Raises|Returns|Yields):$")
ENTRY = re.compile(r"(\*{0,2}\w[\w, *]*?)( \([^)]*\))?: ?(.*)$")
QUOTED = re.compile(r"``(.+?)``|`([^`]+)`")
FIELD = re.compile(r"    (\w+): [^#]*?(?:  # (.*))?$")


def escaped(text: str) -> str:
    """Plain text that reStructuredText leaves alone."""
    return re.sub(r"_(?!\w)", r"\\_", re.sub(r"([\\*|`])", r"\\\1", text))


def quoted(match: re.Match[str]) -> str:
    """Code, or a link to what is public."""
    code = match[1] or match[2]
    role = f":py:obj:`{code} <lanczos_saddle.{code}>`" if code in PUBLIC else f"``{code}``"
    return rf"\ {role}\ "


def inline(line: str) -> str:
    """One line of running text."""
    parts, end = [], 0
    for match in QUOTED.finditer(line):
        parts += [escaped(line[end : match.start()]), quoted(match)]
        end = match.end()
    return "".join([*parts, escaped(line[end:])])


def running(block: list[str]) -> list[str]:
    """A paragraph; `code` that is broken over two lines is put on one."""
    return inline("\n".join(block)).split("\n")


def entries(block: list[str]) -> list[str]:
    """What stands below "Args:": a name, and behind it or below what it means."""
    made: list[str] = []
    for line in textwrap.dedent("\n".join(block)).split("\n"):
        if (found := ENTRY.match(line)) is not None:
            made += ["", f"``{found[1]}``{escaped(found[2] or '')}", f"    {found[3]}"]
        elif line.strip():
            made.append(f"    {line.strip()}")
        else:
            made.append("")
    return [line if line.startswith("``") else inline(line) for line in made]


def blocks(lines: list[str]) -> list[list[str]]:
    """Lines between blank lines."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line.rstrip())
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def restructured(lines: list[str]) -> list[str]:
    """The whole docstring."""
    made: list[str] = []
    section = False
    for block in blocks(lines):
        if (title := SECTION.match(block[0])) is not None:
            made += [f"**{title[1]}**", "", *entries(block[1:])]
            section = True
        elif section and block[0].startswith("    "):
            made += entries(block)
        elif block[0].startswith(" ") or any(line.startswith(" ") for line in block if not block[0].startswith("- ")):
            made += ["::", "", *(f"    {line}" for line in block)]
            section = False
        else:
            made += running(block)
            section = False
        made.append("")
    return made


def fields(what: type) -> list[str]:
    """The public fields that a class declares, each with the comment behind it."""
    named = {name for name in inspect.get_annotations(what) if not name.startswith("_")}
    if not named:
        return []
    try:
        source = inspect.getsource(what)
    except (OSError, TypeError):
        return []
    found = [match for line in source.splitlines() if (match := FIELD.match(line)) and match[1] in named and match[2]]
    if not found:
        return []
    lines = ["**Fields**", ""]
    for match in found:
        lines += [f"``{match[1]}``", f"    {inline(match[2])}", ""]
    return lines


def process(app, what, name, obj, options, lines):
    """The event of autodoc: `lines` is changed in place."""
    text = restructured(lines)
    if what in ("class", "exception"):
        text += fields(obj)
    lines[:] = text


def resolve(app, env, node, contnode):
    """A public name that a signature calls by its module is the one that is documented."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in PUBLIC:
        return None
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"lanczos_saddle.{name}", node, contnode
    )


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", process)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
