import pytest

from lanczos_saddle.studies.paper.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of records and networks, empty at the start of a file."""
    return Store(tmp_path_factory.mktemp("store"))
