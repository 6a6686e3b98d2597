import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--images", type=int, default=60_000, help="MNIST training images in a product")
