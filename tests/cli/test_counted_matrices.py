"""Counts of matrix files at the command line, and of pencils, against the eigenvalues that LAPACK finds.

The oracle is numpy.linalg.eigvalsh (scipy.linalg.eigh for two matrices) on the numbers that were written to the file.
"""

import json

import numpy as np
import pytest
import scipy.io
import scipy.linalg
import scipy.sparse as sp

from lanczos_saddle import count_eigenvalues, count_in, pencil
from lanczos_saddle.cli.entry import main

THREE = ("negative", "near_zero", "positive")
SIDES = ("below", "inside", "above")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def counted(file, *options, names=THREE):
    """What `count` writes: (lower, upper) for each of three counts."""
    assert main(["count", str(file), *map(str, options), "--json", "c.json", "--quiet"]) == 0
    with open("c.json", encoding="utf-8") as found:
        result = json.load(found)
    return [(result[name]["lower"], result[name]["upper"]) for name in names]


def split(values, low, high):
    """Below low, within [low, high], above high."""
    return [int((values < low).sum()), int(((values >= low) & (values <= high)).sum()), int((values > high).sum())]


def rotated(values, seed=0):
    """A symmetric matrix with these eigenvalues."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    matrix = (q * np.asarray(values)) @ q.T
    return (matrix + matrix.T) / 2


def symmetric(size, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(size, size))
    return matrix + matrix.T


def write(form, matrix):
    """The matrix in a file of this form; returns its name."""
    if form == "npy":
        np.save("a.npy", matrix)
    elif form == "npz":
        np.savez("a.npz", matrix)
    elif form == "sparse.npz":
        sp.save_npz("a.sparse.npz", sp.csc_array(matrix))
    elif form == "triangle.mtx":
        scipy.io.mmwrite("a.triangle.mtx", sp.coo_array(matrix), symmetry="symmetric", precision=17)
    elif form == "twice.mtx":  # every entry as two halves at one place
        coo = sp.coo_array(matrix)
        rows, columns = (np.concatenate([axis, axis]) for axis in coo.coords)
        twice = sp.coo_array((np.concatenate([coo.data, coo.data]) / 2, (rows, columns)), shape=matrix.shape)
        scipy.io.mmwrite("a.twice.mtx", twice, symmetry="general", precision=17)
    else:
        scipy.io.mmwrite("a.dense.mtx", matrix, symmetry="general", precision=17)
    return f"a.{form}"


@pytest.mark.parametrize("form", ["npy", "npz", "sparse.npz", "triangle.mtx", "twice.mtx", "dense.mtx"])
@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_every_form_of_a_random_matrix(form, size):
    matrix = symmetric(size, seed=size)
    values = np.linalg.eigvalsh(matrix)
    file = write(form, matrix)
    for tau in (0.01, 0.9, 3.0, 100.0):
        assert abs(abs(values) - tau).min() > 1e-6
        assert counted(file, "--threshold", tau) == [(n, n) for n in split(values, -tau, tau)]


KINDS = {
    "int8": np.array([[1, -2, 0], [-2, 3, 5], [0, 5, -7]], dtype=np.int8),
    "uint8": np.array([[1, 255], [255, 1]], dtype=np.uint8),
    "bool": np.array([[0, 1, 1], [1, 0, 0], [1, 0, 1]], dtype=bool),
    "float16": symmetric(9).astype(np.float16),
    "float32": symmetric(9).astype(np.float32),
    "swapped": symmetric(9).astype(">f8"),
    "long": symmetric(9).astype(np.longdouble),
    "fortran": np.asfortranarray(symmetric(9)),
    "hermitian": symmetric(9) + 1j * (np.triu(symmetric(9, 1), 1) - np.triu(symmetric(9, 1), 1).T),
    "one": np.array([[-2.0]]),
    "zeros": np.zeros((5, 5)),
    "small": symmetric(9) * 1e-300,
    "large": symmetric(9) * 1e300,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_every_kind_of_number(kind, share):
    matrix = KINDS[kind]
    wide = matrix.astype(complex if matrix.dtype.kind == "c" else np.float64)
    size = abs(wide).max() or 1.0
    values = np.linalg.eigvalsh(wide / size)
    file = write("npy", matrix)
    tau = share * size
    assert abs(abs(values) - share).min() > 1e-3
    assert counted(file, "--threshold", repr(float(tau))) == [(n, n) for n in split(values, -share, share)]


def test_every_command_counts_a_complex_matrix(capsys):
    matrix = KINDS["hermitian"]
    values = np.linalg.eigvalsh(matrix)
    file = write("npy", matrix)
    assert main(["exact", file, "--output", "e.npz", "--quiet"]) == 0
    np.testing.assert_allclose(np.load("e.npz")["eigenvalues"], values, atol=1e-12 * abs(values).max())
    assert main(["check", file]) == 0
    assert "parameters  9 " in capsys.readouterr().out
    assert main(["inertia", file, "--at", "-1", "2", "--json", "c.json", "--quiet"]) == 0
    with open("c.json", encoding="utf-8") as found:
        result = json.load(found)
    assert result["parameters"] == 9
    for row in result["rows"]:
        t = row["threshold"]
        assert (row["below"], row["above"]) == (int((values < t).sum()), int((values > t).sum()))
        assert row["certified"]


MULTIPLE = np.repeat([-2.0, -1.0, 0.0, 0.5, 1.0, 4.0], [3, 5, 7, 1, 6, 2])
"""24 eigenvalues; several are at 1 and -1, the thresholds below."""


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("matrix", [np.diag(MULTIPLE), rotated(MULTIPLE)], ids=["diagonal", "rotated"])
@pytest.mark.parametrize("tau", [1.0, 0.5, 2.0, 0.75, 4.0])
def test_a_threshold_at_an_eigenvalue_leaves_open_what_rounding_leaves_open(method, matrix, tau):
    values = np.sort(MULTIPLE)
    found = counted(write("npy", matrix), "--threshold", tau, "--method", method)
    near = np.isclose(abs(values), tau, rtol=1e-9)
    open_ones = [int((near & (values < 0)).sum()), int(near.sum()), int((near & (values > 0)).sum())]
    for (lower, upper), true, width in zip(found, split(values, -tau, tau), open_ones, strict=True):
        assert lower <= true <= upper
        if method == "exact":
            assert upper - lower <= width


ENDS = [(-1.0, 1.0), (-2.0, 4.0), (0.0, 0.5), (0.1, 0.4), (-9.0, -2.5), (5.0, 7.0), (-9.0, 9.0), (0.6, 9.0)]


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize(("low", "high"), ENDS)
@pytest.mark.parametrize("matrix", [np.diag(MULTIPLE), rotated(MULTIPLE)], ids=["diagonal", "rotated"])
def test_intervals_whose_ends_are_eigenvalues_and_multiples(method, low, high, matrix):
    file = write("npy", matrix)
    found = counted(file, "--interval", low, high, "--method", method, names=SIDES)
    near = [np.isclose(MULTIPLE, end, rtol=1e-9, atol=1e-12) for end in (low, high)]
    widths = [int(near[0].sum()), int((near[0] | near[1]).sum()), int(near[1].sum())]
    for (lower, upper), true, width in zip(found, split(MULTIPLE, low, high), widths, strict=True):
        assert lower <= true <= upper
        if method == "exact":
            assert upper - lower <= width


@pytest.mark.parametrize("seed", range(6))
def test_intervals_of_random_matrices(seed):
    random = np.random.default_rng(seed)
    matrix = symmetric(int(random.integers(1, 40)), seed)
    values = np.linalg.eigvalsh(matrix)
    file = write("npy", matrix)
    for _ in range(4):
        low, high = np.sort(random.normal(scale=abs(values).max(), size=2))
        assert counted(file, "--interval", low, high, names=SIDES) == [(n, n) for n in split(values, low, high)]


def test_an_interval_and_a_threshold_say_the_same():
    file = write("npy", symmetric(25))
    for tau in (0.1, 1.0, 5.0):
        assert counted(file, "--interval", -tau, tau, names=SIDES) == counted(file, "--threshold", tau)


PENCILS = {
    "random": (symmetric(20), symmetric(20, 1) @ symmetric(20, 1) + np.eye(20)),
    "multiple": (np.diag(MULTIPLE), np.diag(np.repeat([1.0, 4.0], 12))),
    "singular A": (np.diag([1.0, 0, 0, -1]), symmetric(4) @ symmetric(4) + np.eye(4)),
    "small B": (symmetric(12), 1e-8 * (symmetric(12, 2) @ symmetric(12, 2) + np.eye(12))),
    "one": (np.array([[-3.0]]), np.array([[2.0]])),
}


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("name", PENCILS)
def test_pencils(name, method, form):
    a, b = PENCILS[name]
    values = scipy.linalg.eigh(a, b, eigvals_only=True)
    pair = pencil(a, b) if form == "dense" else pencil(sp.csr_array(a), sp.csr_array(b))
    for tau in np.quantile(abs(values), [0.3, 0.8]) * 1.001 + 1e-3 * abs(values).max():
        one = count_eigenvalues(pair, threshold=float(tau), method=method)
        two = count_in(pair, -float(tau), 2 * float(tau), method=method)
        found = (one.negative, one.near_zero, one.positive, two.below, two.inside, two.above)
        true = [*split(values, -tau, tau), *split(values, -tau, 2 * tau)]
        assert all(interval.lower <= n <= interval.upper for interval, n in zip(found, true, strict=True))
