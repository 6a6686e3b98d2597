"""What a test needs that may not be there: without it the test is skipped, and says so."""

import os
from pathlib import Path

import pytest


def needs_data(folder):
    root = os.environ.get("LANCZOS_SADDLE_DATA")
    there = root is not None and Path(root, folder).exists()
    return pytest.mark.skipif(not there, reason=f"needs {folder}/ in $LANCZOS_SADDLE_DATA")
