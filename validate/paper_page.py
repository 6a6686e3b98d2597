"""Put the tables of the committed records into docs/paper.md, between their marks.

python validate/paper_page.py            # after `lanczos-saddle reproduce NAME --store validate/results/paper`
python validate/paper_page.py --check    # exit status 1 where the page is not what the records say
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from lanczos_saddle.reproduction import definitions, tables
from lanczos_saddle.reproduction.rows import table_names
from lanczos_saddle.reproduction.store import Store

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "paper.md"
STORE = ROOT / "validate" / "results" / "paper"
DATASETS = ("mnist", "cifar10_features")
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def rendered(page: str) -> str:
    """The page with every marked block made anew."""
    store = Store(STORE, finished=True)

    def block(match: re.Match[str]) -> str:
        name = match[2]
        text = tables.markdown(store, name, DATASETS) if name in table_names() else definitions.markdown(name)
        return match[1] + text + match[3]

    return BLOCK.sub(block, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = rendered(page)
    if options.check:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
