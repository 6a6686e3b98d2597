"""What the library says of its arguments, said of the options of the command line: max_products is --max-products.

Errors of functions name arguments as Python spells them. Here a name is an option where it cannot be anything else:
it holds an underscore, a value is given to it (`dtype=...`), it stands between backticks, it opens the sentence
("steps must be ..."), or it stands in the way out that follows "pass" ("pass fewer probes").
"""

from __future__ import annotations

import re
from argparse import Action, ArgumentParser
from collections.abc import Mapping

NEGATED = {"fidelity": "no_fidelity", "compare_hessians": "compare_hessians"}
"""Arguments that are true unless an option is given."""

GIVEN = "given threshold"
"""Under this name stands the option that gave tau, where another than --threshold did: it is the one at fault."""

RULES = "must|is|are|bounds|keeps|needs|belongs|takes|makes"
"""Words that follow a name which opens a sentence."""

WAYS = ("pass", "lower", "raise", "choose", "drop")
"""Words that begin a way out."""


def flags_of(parser: ArgumentParser) -> dict[str, Action]:
    """Options by the names of their arguments."""
    return {action.dest: action for action in parser._actions if action.option_strings}


def on_command_line(message: str, flags: Mapping[str, Action] | None) -> str:
    """The message with options in place of arguments; unchanged where no command is known."""
    if not flags:
        return message
    names = "|".join(sorted(({*flags, *NEGATED} - {GIVEN}), key=len, reverse=True))
    value = r"torch\.\w+|\"[^\"]*\"|'[^']*'|\.\.\.|[\w.+-]*\w"
    message = re.sub(rf"(pass )?(?<![\w.-])({names})=({value})?", lambda m: _given(m, flags), message)
    message = re.sub(
        rf"(?<![\w.-])({names})(?![\w=]|\.\w)", lambda m: _named(m[1], flags) if "_" in m[1] else m[0], message
    )
    message = re.sub(rf"`({names})`", lambda m: _named(m[1], flags) if m[1] in flags else m[0], message)
    said = {**flags, "threshold": flags[GIVEN]} if GIVEN in flags else flags
    message = re.sub(rf"^(?:an? )?({names})(?= (?:{RULES})\b)", lambda m: _named(m[1], said), message)
    kinds = [name for name, action in flags.items() if action.type in (int, float) and name != GIVEN]
    numbers = "|".join(kinds) or "(?!)"
    clause = rf"(?<![\w-])(?:{'|'.join(WAYS)}) [^:;]*"
    return re.sub(clause, lambda m: re.sub(rf"(?<![\w-])({numbers})\b", lambda n: _named(n[1], flags), m[0]), message)


def _named(name: str, flags: Mapping[str, Action]) -> str:
    """The longest spelling of the option, or the name where it is none of this command."""
    action = flags.get(NEGATED.get(name, name))
    return name if action is None else max(action.option_strings, key=len)


def _given(match: re.Match[str], flags: Mapping[str, Action]) -> str:
    """`name=value`, perhaps after "pass": the option with its value, or left out."""
    ask, name, value = match[1] or "", match[2], (match[3] or "").strip("\"'").removeprefix("torch.")
    action, flag = flags.get(NEGATED.get(name, name)), _named(name, flags)
    if action is None:
        return match[0]
    if action.nargs == 0:
        wanted = (value == "True") != (name in NEGATED)
        return f"{ask}{flag}" if wanted else f"leave {flag} out"
    if value == "None":
        return f"{ask}{flag} none" if "none" in (action.choices or ()) else f"leave {flag} out"
    return f"{ask}{flag}" if value in ("", "...") else f"{ask}{flag} {value}"
