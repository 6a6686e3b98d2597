"""The report page of records that other commands wrote; it starts without torch."""

from __future__ import annotations

import argparse

from lanczos_saddle.reports.page import report as page_of


def report(options: argparse.Namespace) -> None:
    """Read the records, write one self-contained HTML file."""
    page_of(options.files, options.output, title=options.title)
    print(f"report: {options.output}")
