"""Laws of one triangle, in memory and in a file: storage, mixing, factors, counts, against dense ones and LAPACK."""

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from matrices import seeded, symmetric
from test_sylvester import CASES, truth, zero_blocks
from torch import nn

from lanczos_saddle import Hessian, assemble
from lanczos_saddle.dense import one_triangle, spread, triangle_ldl
from lanczos_saddle.dense.exact import inertia
from lanczos_saddle.dense.one_triangle import assemble_triangle, inertia_at, plan_layout
from lanczos_saddle.dense.sylvester import Sylvester
from lanczos_saddle.dense.triangle import Triangle, triangle_bytes
from lanczos_saddle.networks.gauss_newton import GaussNewton

EPS = torch.finfo(torch.float64).eps
everywhere = pytest.mark.parametrize(("matrix", "t"), CASES)
places = pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "file"])
widths = pytest.mark.parametrize("width", [None, 8, 64])


def even(matrix):
    """Exactly symmetric."""
    return (matrix + matrix.T) / 2


@pytest.fixture
def narrow(monkeypatch):
    """Many windows and blocks at the sizes of these tests."""
    monkeypatch.setitem(triangle_ldl.factorize.__kwdefaults__, "window", 16)
    monkeypatch.setitem(triangle_ldl.factorize.__kwdefaults__, "block", 12)


def held(size, width, on_disk, folder):
    return Triangle(size, width=width, directory=folder if on_disk else None)


# --- storage ----------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize(("size", "width"), [(1, 1), (5, 2), (64, 8), (67, 8), (67, None), (300, 64)])
def test_a_triangle_holds_a_matrix(size, width, on_disk, tmp_path):
    matrix, v = symmetric(size), torch.randn(size, 3, generator=seeded(2), dtype=torch.float64)
    triangle = held(size, width, on_disk, tmp_path).fill(matrix)
    assert torch.equal(triangle.dense(), matrix)
    assert (triangle @ v - matrix @ v).norm() <= 10 * size * EPS * matrix.norm()
    assert (triangle @ v[:, 0]).shape == (size,)
    assert (triangle.norms() - matrix.norm(dim=1)).abs().max() <= 10 * size * EPS * matrix.norm()
    assert triangle.largest_entry() == float(matrix.abs().max())
    triangle.scale(3)
    assert torch.equal(triangle.dense(), 8 * matrix)
    assert torch.equal(held(size, width, on_disk, tmp_path).copy_of(triangle).dense(), 8 * matrix)


def test_blocks_are_put_where_they_and_their_mirror_images_belong():
    matrix = symmetric(40)
    triangle = Triangle(40, width=8)
    triangle.zero()
    rows, columns = torch.tensor([0, 1, 2, 17, 18, 39]), torch.arange(3, 33)
    triangle.put(rows, columns, matrix[rows[:, None], columns])
    expected = torch.zeros(40, 40, dtype=torch.float64)
    expected[rows[:, None], columns] = matrix[rows[:, None], columns]
    expected[columns[:, None], rows] = matrix[columns[:, None], rows]
    assert torch.equal(triangle.dense(), expected)


def test_half_the_memory_of_a_square():
    for size in (5000, 39_760, 60_000):
        assert triangle_bytes(size) <= 4 * size**2 * (1 + 1 / 9)


def test_numbers_of_a_file_survive_the_release_of_its_memory(tmp_path):
    triangle = Triangle(600, width=64, directory=tmp_path)  # a panel is many pages
    matrix = symmetric(600)
    triangle.fill(matrix)  # releases every panel
    with open("/proc/self/smaps", encoding="utf-8") as maps:
        mapped = _resident(maps.read(), tmp_path)
    assert mapped < 8 * triangle.flat.numel() / 4
    assert torch.equal(triangle.dense(), matrix)


def _resident(maps, folder):
    """Bytes in memory of mappings of files in the folder."""
    total, inside = 0, False
    for line in maps.splitlines():
        if "-" in line.split(" ", 1)[0] and ":" not in line.split(" ", 1)[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


def test_nothing_is_left_in_the_directory(tmp_path):
    triangle = Triangle(300, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert triangle.fill(symmetric(300)).largest_entry() > 0


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"takes .* GiB of disk; .* GiB are free in .*: name a larger disk"):
        Triangle(10**7, directory=tmp_path)
    with pytest.raises(ValueError, match="a file needs a directory that is there"):
        Triangle(10, directory=tmp_path / "absent")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ValueError, match=r"must fit in .*No space left"):
        Triangle(10, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- mixing -----------------------------------------------------------------------------------------------------


@widths
@pytest.mark.parametrize("size", [1, 3, 70, 128, 261])
def test_mixing_is_an_orthogonal_congruence(size, width):
    matrix, eye = symmetric(size), torch.eye(size, dtype=torch.float64)
    triangle = Triangle(size, width=width).fill(matrix)
    mixing = spread.spreading(triangle, seeded(3))
    spread.spread(triangle, mixing)
    m = mixing.rows(eye).mT
    assert (m @ m.mT - eye).abs().max() <= 1e-14 * 10
    assert (mixing.rows_back(eye) - m).abs().max() <= 1e-14 * 10
    assert (triangle.dense() - m @ matrix @ m.mT).norm() <= 1e-13 * matrix.norm()


def test_mixing_leaves_no_zero_block():
    matrix = zero_blocks(128)
    triangle = Triangle(256, width=32).fill(matrix)
    spread.spread(triangle, spread.spreading(triangle, seeded(3)))
    sizes = [float(triangle.tile(i, i).norm()) for i in range(triangle.panels)]
    assert min(sizes) >= 0.5 * float(matrix.norm()) / triangle.panels


# --- factors and counts -----------------------------------------------------------------------------------------


@places
@widths
@everywhere
def test_counts_agree_with_eigenvalues(matrix, t, width, on_disk, narrow, tmp_path):
    matrix = even(matrix)
    triangle, lower = (held(len(matrix), width, on_disk, tmp_path) for _ in range(2))
    solver = Sylvester(triangle.fill(matrix), lower=lower)
    for shift in (t, t + 1e-3):  # and again, from the same triangle
        found = solver.at(shift)
        assert found == truth(matrix, shift)
        distance = np.abs(np.linalg.eigvalsh(matrix.numpy()) - shift).min()
        assert found.separation <= distance + found.margin
        assert found.margin <= 1e-10 * max(1, abs(shift), float(matrix.norm()))


@pytest.mark.parametrize("method", ["lapack", "blocked"])
@everywhere
def test_all_factorizations_count_alike(matrix, t, method, narrow):
    matrix = even(matrix)
    assert Sylvester(Triangle(len(matrix)).fill(matrix)).at(t) == inertia(matrix, t, method=method)


@pytest.mark.parametrize("window", [8, 40, 512])
@pytest.mark.parametrize("block", [7, 32, 512])
@pytest.mark.parametrize("in_place", [False, True])
def test_factors_multiply_to_the_matrix_and_solve(window, block, in_place):
    matrix, t = symmetric(260), 0.3
    source = Triangle(260, width=8).fill(matrix)
    lower = source if in_place else Triangle(260, width=8)
    factor = triangle_ldl.factorize(source, lower, t, window=window, block=block)
    eye = torch.eye(260, dtype=torch.float64)
    product = triangle_ldl.apply_factors(factor, eye)
    assert (product - matrix + t * eye).norm() <= 1e-11 * matrix.norm()
    assert (triangle_ldl.solve_factors(factor, product) - eye).norm() <= 1e-7
    assert in_place or torch.equal(source.dense(), matrix)


def test_directions_wait_for_the_next_window():
    source = Triangle(256, width=8).fill(zero_blocks(128))  # not mixed: the first half has no pivot of its own
    factor = triangle_ldl.factorize(source, Triangle(256, width=8), 0.0, window=16, block=8)
    assert factor.steps[0].accepted == 0
    assert sum(step.accepted for step in factor.steps) == 256
    eye = torch.eye(256, dtype=torch.float64)
    assert (triangle_ldl.apply_factors(factor, eye) - zero_blocks(128)).norm() <= 1e-9
    assert int((factor.pivots < 0).sum()) == 128


@places
def test_a_singular_matrix_is_not_certified(on_disk, tmp_path):
    triangle = held(30, 4, on_disk, tmp_path)
    triangle.zero()
    found = Sylvester(triangle).at(0.0)
    assert not found.holds_for(0.0)
    assert found == (0, 0)


def test_subnormal_entries_beside_large_ones_are_not_certified():
    matrix = torch.diag(torch.tensor([1.0, -1.0] * 20, dtype=torch.float64)) * 1e-318
    matrix[0, 0] = 1.0
    found = Sylvester(Triangle(40, width=4).fill(matrix), lower=Triangle(40, width=4)).at(0.0)
    assert found.margin < 1e-12
    assert not found.holds_for(0.0)
    matrix[0, 0] = 1e-318
    found = Sylvester(Triangle(40, width=4).fill(matrix), lower=Triangle(40, width=4)).at(0.0)
    assert found == (20, 20)
    assert found.holds_for(0.0)


def test_matrices_of_extreme_scale():
    for exponent in (-900, 900):
        matrix = symmetric(60)
        triangle = Triangle(60, width=8).fill(matrix * 2.0**exponent)
        assert Sylvester(triangle).at(0.3 * 2.0**exponent) == truth(matrix, 0.3)


def test_a_triangle_that_is_used_up_says_so():
    solver = Sylvester(Triangle(60).fill(symmetric(60)))
    solver.at(0.1)
    with pytest.raises(ValueError, match="factored in place is used up"):
        solver.at(0.2)


def test_a_wrong_factor_is_seen(narrow, monkeypatch):
    """The certificate measures; it does not believe: one entry of L off by 1e-6."""
    plain = triangle_ldl.factorize

    def spoiled(*args, **kwargs):
        factor = plain(*args, **kwargs)
        factor.lower.tile(3, 0)[0, 0] += 1e-6
        return factor

    good = Sylvester(Triangle(256, width=32).fill(symmetric(256))).at(0.1)
    monkeypatch.setattr(triangle_ldl, "factorize", spoiled)
    bad = Sylvester(Triangle(256, width=32).fill(symmetric(256))).at(0.1)
    assert bad.margin > 1e3 * good.margin


# --- assembled --------------------------------------------------------------------------------------------------


def network(kind, *, convolution=False):
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 9).relu().double(), torch.randint(0, 4, (60,))
    if convolution:
        layers = [nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(28, 4)]
    else:
        layers = [nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)]
    return kind(nn.Sequential(*layers).double(), nn.CrossEntropyLoss(), (inputs, targets))


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("room", [100, 3000, 2**30])
def test_triangles_of_networks(kind, convolution, room, monkeypatch):
    monkeypatch.setattr(one_triangle, "BLOCKS", room)  # many passes over the data, or one
    operator = network(kind, convolution=convolution)
    triangle = Triangle(operator.shape[0])
    products, error = assemble_triangle(operator, triangle)
    expected = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    assert (triangle.dense() - expected).norm() <= 1e-12 * expected.norm()
    assert products == (10 + operator.shape[0] if convolution else 10)
    assert error <= 1e-11 * float(expected.norm())


def test_a_lopsided_operator_is_refused():
    matrix = torch.randn(40, 40, generator=seeded(0), dtype=torch.float64)

    class Lopsided:
        shape, dtype, device = (40, 40), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            return matrix @ v

    with pytest.raises(ValueError, match="must be symmetric and stay the same"):
        inertia_at(Lopsided(), [0.0])


@pytest.mark.parametrize("thresholds", [[1e-3], [1e-3, -1e-4]])
def test_every_layout_counts_alike(thresholds, tmp_path):
    operator = network(Hessian)
    expected = [inertia(assemble(operator), t) for t in thresholds]
    size = operator.shape[0]
    layouts = [plan_layout(size, len(thresholds))]
    work, one = one_triangle.work_bytes(size), triangle_bytes(size)
    for memory in (work + one, work):
        layouts.append(plan_layout(size, len(thresholds), memory, tmp_path))
        counted = inertia_at(operator, thresholds, memory=memory, directory=tmp_path)
        assert counted.found == expected
        assert all(found.holds_for(counted.error) for found in counted.found)
    assert inertia_at(operator, thresholds).found == expected
    assert sorted({layout.disk for layout in layouts}) == [0, *([one] if len(thresholds) == 1 else [one, 2 * one])]
    assert list(tmp_path.iterdir()) == []


def test_misuse_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"takes 0.* GiB of memory; 0.00 GiB are free: pass directory="):
        inertia_at(symmetric(50), [0.0], memory=1)
    with pytest.raises(ValueError, match="count matrix-free"):
        inertia_at(symmetric(50), [0.0], memory=1, directory=tmp_path)
    with pytest.raises(ValueError, match="needs a threshold; got none"):
        inertia_at(symmetric(50), [])
    with pytest.raises(ValueError, match="a finite number; got inf"):
        inertia_at(symmetric(50), [float("inf")])


def test_disk_is_asked_for_before_anything_is_assembled(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    asked = []

    class Never:
        shape, dtype, device = (50, 50), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            asked.append(v)
            return v

    with pytest.raises(ValueError, match=r"GiB of disk; 0\.00 GiB are free"):
        inertia_at(Never(), [0.5], memory=one_triangle.work_bytes(50), directory=tmp_path)
    assert asked == []
