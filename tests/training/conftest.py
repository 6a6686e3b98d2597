import pytest

from lanczos_saddle.training.datasets import digits


@pytest.fixture(scope="module")
def images():
    return digits()
