"""The README's Python runs, its commands exist; tables of the docs come from the records."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lanczos_saddle.cli import build_parser

README_PATH = Path(__file__).parent.parent / "README.md"
README = README_PATH.read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "negative" in capsys.readouterr().out


COMMANDS = re.findall(r"^    lanczos-saddle ([^#\n]+)", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    assert len(COMMANDS) >= 8
    assert build_parser().parse_args(command.split()).run


def test_the_pages_are_what_the_records_say():
    check = [sys.executable, "validate/pages.py", "--check"]
    done = subprocess.run(check, cwd=README_PATH.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python validate/pages.py`; {done.stderr}"
