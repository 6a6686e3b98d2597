"""One thread for what is too small to share, and all of them again afterwards."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from lanczos_saddle.certificates.cauchy import SMALL, Compression
from lanczos_saddle.machine.threads import one_thread


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_thread_within_and_as_before_after_an_error(two_threads):
    before, within = blas_threads(), []

    @one_thread()
    def fails():
        within.append((torch.get_num_threads(), set(blas_threads())))
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert within == [(1, {1})]
    assert torch.get_num_threads() == 2
    assert blas_threads() == before


def test_what_is_not_small_keeps_its_threads(two_threads):
    with one_thread(small=False):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("columns", "threads"), [(4, 1), (SMALL + 1, 2)])
def test_threads_of_a_compression(two_threads, monkeypatch, columns, threads):
    seen = []

    def eigenvalues(matrix, **_):
        seen.append(torch.get_num_threads())
        return matrix.diagonal()

    monkeypatch.setattr("lanczos_saddle.certificates.cauchy.eigvalsh", eigenvalues)
    signs = np.where(np.arange(columns) < 3, -1.0, 1.0)
    assert Compression(np.diag(signs), np.zeros((columns, columns)), 0.5, 0.0).sides(0.0) == (3, columns - 3)
    assert seen == [threads]
