"""Put the tables of the committed records into the pages of docs/ that have marks for them: PAGES.

python validate/pages.py            # after `lanczos-saddle reproduce NAME --store validate/results/paper`
python validate/pages.py --check    # exit status 1 where a page is not what the records say

The first draws the figures of the paper and of depth and width, too. Neither needs data or weights.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from lanczos_saddle.reports.records import read
from lanczos_saddle.studies.landscapes import tables as landscape_tables
from lanczos_saddle.studies.paper import degeneracy, epsilon_alpha, judged, plateau, semicircle, tables, verdicts
from lanczos_saddle.studies.paper.store import Store
from lanczos_saddle.studies.shapes import figures as shape_figures
from lanczos_saddle.studies.shapes import study as shapes
from lanczos_saddle.studies.shapes import tables as shape_tables

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "validate"))
from networks_zoo import tables as network_tables  # noqa: E402

STORE = ROOT / "validate" / "results" / "paper"
LANDSCAPES = ROOT / "validate" / "results" / "landscapes.jsonl"
NETWORKS = ROOT / "validate" / "results" / "networks.jsonl"
DATASETS = ("mnist", "cifar10_features")
FIGURES = {"fig1": plateau, "fig2": epsilon_alpha, "fig3": degeneracy, "wigner": semicircle}
BLOCK = re.compile(r"<!-- ([\w-]+) -->\n(?:(?!<!--).)*<!-- end -->", re.DOTALL)


def paper_tables(store: Store) -> Callable[[str], str]:
    """Name of a block of docs/paper.md and docs/paper-tables.md -> its text."""

    def text(name: str) -> str:
        if name in FIGURES:
            return FIGURES[name].summary(FIGURES[name].compute(store))
        module = {"judged": judged, "verdicts": verdicts}.get(name)
        return tables.markdown(store, name, DATASETS) if module is None else module.markdown(store)

    return text


def shape_blocks(store: Store) -> Callable[[str], str]:
    """Name of a block of docs/depth-and-width.md and of its tables -> its text."""
    blocks = shape_tables.blocks(shapes.compute(store, shapes.full()))
    return lambda name: blocks[name][1]


def landscape_blocks(_: Store) -> Callable[[str], str]:
    """Name of a block of docs/landscapes.md -> its text, by the newest record."""
    return landscape_tables.markdown(read(LANDSCAPES)[-1]["result"]).__getitem__


def network_blocks(_: Store) -> Callable[[str], str]:
    """Name of a block of docs/networks.md -> its text, by the newest record of each network and size."""
    return network_tables.blocks(read(NETWORKS))


def plan_blocks(_: Store) -> Callable[[str], str]:
    """Name of a block of docs/how-to/plan.md -> its text."""
    sys.path.insert(0, str(Path(__file__).parent))
    import plan_peaks

    return {"peaks": plan_peaks.markdown(list(plan_peaks.recorded().values()))}.__getitem__


def draw_figures(store: Store, folder: Path) -> None:
    """The pictures of the paper, and of depth and width."""
    for module in FIGURES.values():
        module.draw(module.compute(store), folder)
    shape_figures.draw(shapes.compute(store, shapes.full()), folder)


def race_blocks(_: Store) -> Callable[[str], str]:
    """Name of a block of docs/race-tables.md and docs/results.md -> its text, by the newest records of the race."""
    sys.path.append(str(ROOT / "bench"))
    import race_tables

    return race_tables.block


PAGES = {
    "paper.md": paper_tables,
    "paper-tables.md": paper_tables,
    "depth-and-width.md": shape_blocks,
    "depth-and-width-tables.md": shape_blocks,
    "landscapes.md": landscape_blocks,
    "networks.md": network_blocks,
    "how-to/plan.md": plan_blocks,
    "race-tables.md": race_blocks,
    "results.md": race_blocks,
}


def rendered(page: str, text: Callable[[str], str]) -> str:
    """The page with every marked block made anew; raises ValueError for a mark that does not close."""
    if (opened := len(re.findall("<!-- (?!end )", page))) != (whole := len(BLOCK.findall(page))):
        raise ValueError(f"{opened} blocks begin and {whole} of them end with <!-- end --> before the next begins")
    return BLOCK.sub(lambda match: f"<!-- {match[1]} -->\n{text(match[1])}".rstrip("\n") + "\n<!-- end -->", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    store = Store(STORE, finished=True)
    stale = False
    for name, texts in PAGES.items():
        path = ROOT / "docs" / name
        page = path.read_text(encoding="utf-8")
        new = rendered(page, texts(store))
        stale |= new != page
        if not options.check:
            path.write_text(new, encoding="utf-8")
    if not options.check:
        draw_figures(store, ROOT / "docs" / "figures")
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
