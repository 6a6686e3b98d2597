"""Completion in real shells: what a Tab offers."""

import shutil
import subprocess

import pytest

from lanczos_saddle.cli.arguments import COMMANDS
from lanczos_saddle.cli.entry import main

pytest.importorskip("shtab")


def script(shell, capsys):
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def offered(text, folder, *words):
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in ("lanczos-saddle", *words))
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_lanczos_saddle"
    code = f'{text}\n{asked}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=folder, check=True)
    return set(run.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_choices_and_files(capsys, tmp_path):
    text = script("bash", capsys)
    (tmp_path / "weights.npz").touch()
    assert offered(text, tmp_path, "") >= set(COMMANDS)
    assert offered(text, tmp_path, "cl") == {"classify"}
    assert offered(text, tmp_path, "count", "digits", "--max-p") == {"--max-products"}
    assert offered(text, tmp_path, "count", "digits", "--dtype", "") == {"float32", "float64"}
    assert "weights.npz" in offered(text, tmp_path, "count", "digits", "--weights", "we")
    assert offered(text, tmp_path, "completion", "") >= {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_command_and_can_read_it(shell, capsys, tmp_path):
    text = script(shell, capsys)
    assert all(name in text for name in COMMANDS)
    assert "max-products" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", "script"], cwd=tmp_path, check=True)


def test_a_missing_library_is_one_line_with_its_extra(monkeypatch, capsys):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("lanczos_saddle.machine.extras.import_module", absent)
    assert main(["completion", "bash"]) == 1
    told = capsys.readouterr().err
    assert "lanczos-saddle[completion]" in told
    assert told.count("\n") == 1
