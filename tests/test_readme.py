"""README and docs/: their Python runs, their commands and links exist, and what the README prints is what it shows."""

import importlib.util
import re
from pathlib import Path

import pytest

from lanczos_saddle.cli.entry import build_parser

ROOT = Path(__file__).parent.parent
MADE = {"_build", "api", "outside"}  # by the build of the site
DOCS = [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
PAGES = ["README.md", *sorted(path.as_posix() for path in DOCS if not MADE & set(path.parts))]
PRINTED = {"docs/index.md", "docs/tutorial.md"}  # run by test_printed.py, which looks at what they print
JOINED = "go on from one another"
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in [*PAGES, "bench/README.md", "findings/README.md"]}
README = TEXTS["README.md"]

OURS = {"torch", "numpy", "scipy", "pathlib", "lanczos_saddle"}
LIBRARIES = {"peft", "transformers"}  # what recipes may ask for; all else that they need comes with the package


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXTS[page], flags=re.DOTALL)


def libraries(code: str) -> set[str]:
    return set(re.findall(r"^(?:from|import) (\w+)", code, flags=re.MULTILINE)) - OURS


def recipe(page: str, heading: str, code: str):
    """One test: marked by the libraries that the code imports, whose own warnings are theirs."""
    needed = libraries(code)
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    marks = [pytest.mark.skipif(bool(missing), reason=f"the recipe needs {', '.join(missing)}")]
    marks += [pytest.mark.filterwarnings("ignore")] if needed else []
    return pytest.param(code, id=f"{page}: {heading}", marks=marks)


def recipes():
    for page in PAGES[1:]:
        if page in PRINTED:
            continue
        if JOINED in TEXTS[page]:
            yield recipe(page, "all blocks", "\n".join(blocks(page)))
            continue
        for section in re.split(r"^## ", TEXTS[page], flags=re.MULTILINE):
            for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
                yield recipe(page, section.splitlines()[0], code)


RECIPES = list(recipes())


@pytest.mark.parametrize("code", RECIPES)
def test_recipes_run(code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "recipe", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_recipes_are_found_and_ask_for_known_libraries():
    wanted = (
        "checkpoint|Token|L2|Several inputs|Graphs|Contrastive|PINN|Hugging Face|LoRA|interval|file|PyHessian|pencil"
    )
    found = {match[0] for param in RECIPES for match in re.finditer(wanted, param.id)}
    assert found == set(wanted.split("|"))
    assert all(libraries(param.values[0]) <= LIBRARIES for param in RECIPES)
    alone = [page for page in PAGES[1:] if page not in PRINTED and JOINED not in TEXTS[page]]
    joined = [page for page in PAGES[1:] if page not in PRINTED and JOINED in TEXTS[page]]
    assert sum(len(blocks(page)) for page in alone) + len(joined) == len(RECIPES)


def test_the_readme_runs_and_prints_what_it_shows(capsys):
    """The blocks go on from one another. Seconds differ; counts do not."""
    exec(compile("\n".join(blocks("README.md")), "README.md", "exec"), {})
    shown = re.search(r"```\n( negative.*?)```", README, flags=re.DOTALL)
    without_seconds = [
        re.sub(r"[\d.]+ s$", "s", text, flags=re.MULTILINE) for text in (capsys.readouterr().out, shown[1])
    ]
    assert without_seconds[0] == without_seconds[1]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


COMMANDS = {page: re.findall(r"^    lanczos-saddle ([^#\n]+)", TEXTS[page], flags=re.MULTILINE) for page in PAGES}


@pytest.mark.parametrize("command", [command for page in PAGES for command in COMMANDS[page]])
def test_commands_parse(command):
    assert build_parser().parse_args(command.split()).command


def test_the_commands_are_found():
    assert len(COMMANDS["README.md"]) >= 2
    assert len(COMMANDS["docs/command-line.md"]) >= 13
    assert sum(map(len, COMMANDS.values())) >= 26


def options_of(script: Path) -> str:
    """The sources in which the options of a script may stand: its own, and those of its folder."""
    return "".join(path.read_text(encoding="utf-8") for path in (script, *script.parent.glob("*.py")))


SCRIPTS = sorted(
    {
        (page, line)
        for page in TEXTS
        for line in re.findall(r"python ((?:validate|bench)/\w+\.py[^#`)\n]*)", TEXTS[page])
    }
)


@pytest.mark.parametrize(("page", "line"), SCRIPTS)
def test_scripts_and_their_options_exist(page, line):
    name, *rest = line.split()
    assert (ROOT / name).is_file(), page
    known = options_of(ROOT / name)
    assert all(f'"{word}"' in known for word in rest if word.startswith("--")), page


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_exist(page):
    named = set(re.findall(r"\b(?:tests|validate|bench|findings)/[\w./-]*\w", TEXTS[page]))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = re.findall(r"^    make ([\w -]+?)(?:  |#|$)", TEXTS[page], flags=re.MULTILINE)
    assert {target for line in lines for target in line.split()} <= targets


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in a link, by GitHub's rule."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {"README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", TEXTS.get(page, ""))
        found = {((ROOT / page).parent / link).resolve() for link in links if "://" not in link}
        new |= {path.relative_to(ROOT).as_posix() for path in found} - reached
    assert set(PAGES) <= reached
