"""The README's Python runs, and the commands of the README and of docs/ exist."""

import re
from pathlib import Path

import pytest

from lanczos_saddle.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_runs(code, capsys):
    for library in set(re.findall(r"^from (\w+) import", code, flags=re.MULTILINE)) - {"torch", "lanczos_saddle"}:
        pytest.importorskip(library)
    exec(compile(code, "README.md", "exec"), {})
    assert "negative" in capsys.readouterr().out


PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMANDS = {
    page: re.findall(r"^    lanczos-saddle ([^#\n]+)", (ROOT / page).read_text(), flags=re.MULTILINE) for page in PAGES
}


@pytest.mark.parametrize("command", [command for page in PAGES for command in COMMANDS[page]])
def test_commands_parse(command):
    assert build_parser().parse_args(command.split()).run


def test_the_commands_are_found():
    assert len(COMMANDS["README.md"]) >= 8
    assert sum(map(len, COMMANDS.values())) >= 18
