"""The README's Python runs, and its commands exist."""

import re
from pathlib import Path

import pytest

from lanczos_saddle.cli import build_parser

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "negative" in capsys.readouterr().out


COMMANDS = re.findall(r"^    lanczos-saddle ([^#\n]+)", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    assert len(COMMANDS) >= 8
    assert build_parser().parse_args(command.split()).run
