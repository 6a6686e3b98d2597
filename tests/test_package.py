"""What is installed: one version, the data beside the code, the extras that the commands and the tests need."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import lanczos_saddle

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def test_the_version_is_written_once():
    assert version("lanczos-saddle") == lanczos_saddle.__version__
    assert "version" not in PROJECT
    assert not re.search("^version:", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)


def test_the_changelog_knows_the_version_and_what_comes():
    titles = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert lanczos_saddle.__version__ in titles


def test_the_core_draws_nothing_and_has_no_data():
    core = names(PROJECT["dependencies"])
    assert core == {"torch", "numpy", "scipy", "safetensors", "threadpoolctl", "tqdm"}
    for extra in EXTRAS.values():
        assert not names(extra) & core


def test_the_tests_have_what_the_demonstration_has():
    assert "lanczos-saddle[paper]" in EXTRAS["dev"]
    assert "lanczos-saddle[report]" in EXTRAS["dev"]
    assert "lanczos-saddle[plots]" in EXTRAS["paper"]


def test_the_oldest_versions_are_those_that_are_admitted():
    """constraints-oldest.txt pins the lower bounds of the core and of what the demonstration needs."""
    requirements = [*PROJECT["dependencies"], *EXTRAS["plots"], *EXTRAS["paper"]]
    bounds = dict(item.split(">=") for item in requirements if ">=" in item)
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: pinned.get(name) for name in bounds} == {name: f"{bound}.0" for name, bound in bounds.items()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, through the source archive, with what is installed here."""
    if find_spec("build") is None:
        pytest.skip("build is not installed here: pip install 'lanczos-saddle[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.glob("*.tar.gz"))) == 1
    return next(folder.glob("*.whl"))


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    here = {name for name in files if name.startswith("lanczos_saddle/") and "__pycache__" not in name}
    assert "lanczos_saddle/py.typed" in here
    assert any(name.endswith(".toml") for name in here)
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == here


def test_the_wheel_has_its_version_license_and_command(wheel):
    assert wheel.name == f"lanczos_saddle-{lanczos_saddle.__version__}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    meta = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in meta
    assert "lanczos-saddle = lanczos_saddle." in archive.read(meta["entry_points.txt"]).decode()


@pytest.mark.parametrize(
    ("library", "ask", "extra"),
    [
        pytest.param(
            "matplotlib",
            "lanczos_saddle.plot_count_band('x.png', None, size=1, linear=1.0, title='')",
            "plots",
            marks=pytest.mark.slow,
        ),
        ("matplotlib", "main(['density', 'digits', '--output', 'x.npz'])", "plots"),
        pytest.param("matplotlib", "main(['demo', '--output', 'folder/'])", "paper", marks=pytest.mark.slow),
        ("altair", "main(['report', 'c.json'])", "report"),
        ("vl_convert", "lanczos_saddle.report('c.json')", "report"),
        ("sklearn", "main(['train', 'digits', '--output', 'x.safetensors'])", "paper"),
        pytest.param("lightning", "lanczos_saddle.LightningSpectrum", "lightning", marks=pytest.mark.slow),
        ("transformers", "lanczos_saddle.TrainerSpectrum", "transformers"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_brings_it(library, ask, extra, tmp_path):
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "import lanczos_saddle\n"
        "from lanczos_saddle.cli import main\n"
        "try:\n"
        f"    sys.exit({ask})\n"
        "except ModuleNotFoundError as error:\n"
        "    sys.exit(str(error))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    assert f"pip install 'lanczos-saddle[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".png")]  # it was said before the work


def test_counting_needs_no_extra(tmp_path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'sklearn', 'altair', 'rich')))\n"
        "import numpy, lanczos_saddle, lanczos_saddle.cli.commands\n"
        "print(lanczos_saddle.count_eigenvalues(numpy.diag([-1.0, 0, 2]), threshold=0.5).negative)\n"
        "lanczos_saddle.vector_parallel, lanczos_saddle.weight_parallel\n"
        "print({'scipy.stats', 'torch.distributed.tensor', 'sympy'} & set(sys.modules))\n"  # a second each
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["1", "set()"]), done.stderr
