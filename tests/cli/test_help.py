"""Help that teaches: grouped options, examples that parse and run, and nothing heavy imported for it."""

import argparse
import json
import shlex

import pytest

from lanczos_saddle.cli.arguments import COMMANDS, KINDS
from lanczos_saddle.cli.entry import build_parser, main
from lanczos_saddle.cli.examples import EXAMPLES


def commands_of(parser):
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices


def test_no_arguments_print_the_help_and_succeed(capsys):
    assert main([]) == 0
    bare = capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert bare.out == capsys.readouterr().out
    assert bare.err == ""
    assert all(f"\n    {name} " in bare.out for name in COMMANDS)
    places = [bare.out.index(f"\n  {kind}\n") for kind in KINDS]
    assert places == sorted(places)


def test_every_command_has_a_heading_and_two_to_five_examples():
    assert {command.kind for command in COMMANDS.values()} == set(KINDS)
    assert set(EXAMPLES) == {"", *COMMANDS}
    assert all(2 <= len(examples) <= 5 for examples in EXAMPLES.values())


def test_every_option_of_a_count_stands_under_a_title():
    count = commands_of(build_parser())["count"]
    assert count._optionals._group_actions == []
    assert len([group for group in count._action_groups if group._group_actions]) == 6


LINES = [(command, text) for command, examples in EXAMPLES.items() for text, _ in examples if "$(" not in text]


@pytest.mark.parametrize(("command", "text"), LINES, ids=[text for _, text in LINES])
def test_every_example_parses(command, text):
    words = shlex.split(text.partition(" > ")[0])
    assert build_parser(words).parse_args(words).command == words[0]
    assert command in ("", words[0]) or words[0] == "count"


def test_the_help_of_a_command_ends_with_its_examples(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([name, "--help"])
        text = capsys.readouterr().out
        shown = text[text.index("examples:") :]
        assert all(example in shown and purpose in shown for example, purpose in EXAMPLES[name])


QUICK = ("new", "plan", "count", "classify", "check", "exact", "inertia", "density")


@pytest.mark.parametrize("name", QUICK)
def test_examples_run(name, tmp_path_factory, monkeypatch, tmp_path):
    """On the template in place of digits, which would have to be trained; one layer of it is 2.* there, too."""
    monkeypatch.chdir(tmp_path)
    assert main(["new", "problem.py"]) == 0
    for text, _ in EXAMPLES[name]:
        words = ["problem.py:problem" if word == "digits" else word for word in shlex.split(text)]
        assert main([*words, *(["--force"] if words[0] == "new" else []), "--quiet"]) == 0, text
    if name == "count":
        assert json.loads((tmp_path / "counts.json").read_text())["parameters"] == 16 * 3 + 3
