"""What happens to an operator while it is counted: it changes, or it stops being finite."""

import numpy as np
import pytest
import torch
from matrices import holds, three

from lanczos_saddle import (
    as_operator,
    assemble,
    check_operator,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    negative_eigenvectors,
    spectral_density,
)
from lanczos_saddle.density import Density
from lanczos_saddle.krylov.block_cg import BlockCG
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.krylov.largest import largest_magnitude

N = 200
F64 = torch.float64
spread = torch.linspace(-1, 2, N, dtype=F64)
ROTATION = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(3), dtype=F64)).Q
H = (ROTATION * spread) @ ROTATION.mT
TAU = 0.1
TRUTH = three(spread, TAU)


class Later:
    """H for so many products, then something else; a column counts as one."""

    shape, dtype, device = (N, N), F64, torch.device("cpu")

    def __init__(self, products, then):
        self.products, self.then, self.made = products, then, 0

    def __matmul__(self, v):
        self.made += v.shape[1]
        return H @ v if self.made <= self.products else self.then(v)


def dropout(v):
    return H @ (v * (torch.rand(N, 1, generator=torch.Generator().manual_seed(5)) > 0.2) / 0.8)


CHANGES = {
    "scaled": lambda v: 1.01 * (H @ v),
    "shifted": lambda v: H @ v + 1e-3 * v,
    "another": lambda v: spread[:, None] * v,
    "a little": lambda v: (1 + 1e-9) * (H @ v),
    "dropout": dropout,
    "one entry": lambda v: H @ v + 0.1 * torch.eye(N, dtype=F64)[:, :1] * v[0],
    "zero": lambda v: 0.0 * v,
}


@pytest.mark.parametrize("products", [20, 60, 100])
@pytest.mark.parametrize("change", CHANGES)
def test_an_operator_that_changes_during_the_run_is_refused(change, products):
    for options in ({"probes": 4, "steps": 40}, {"max_products": 200}, {"probes": 4, "steps": 40, "max_products": 150}):
        with pytest.raises(ValueError, match=r"must stay the same while it is counted; .* differs by"):
            count_eigenvalues(
                Later(products, CHANGES[change]), threshold=TAU, method="lanczos", precision=1e-6, **options
            )
    with pytest.raises(ValueError, match="must stay the same"):
        spectral_density(Later(products, CHANGES[change]), probes=4, steps=40)


@pytest.mark.parametrize("products", [20, 70, 150])
@pytest.mark.parametrize("change", CHANGES)
def test_an_operator_that_changes_while_it_is_assembled_is_refused(change, products):
    if change == "a little":
        return  # below the square root of the rounding, as what asymmetry may be
    calls = [exact_eigenvalues, assemble, lambda h: inertia(h, 0.0)] * (products >= 64)  # the first block of columns
    for call in (*calls, lambda h: count_eigenvalues(h, threshold=TAU, method="exact")):
        with pytest.raises(ValueError, match=r"must stay the same while|must be symmetric|must agree"):
            call(Later(products, CHANGES[change]))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_that_differs_every_time_is_no_change(dtype, seed):
    """Atomic sums on a GPU: the order of a sum, and so its rounding, differs at every call."""
    matrix, generator = H.to(dtype), torch.Generator().manual_seed(seed)

    def product(v):
        order = torch.randperm(N, generator=generator)
        return matrix[:, order] @ v[order]

    for call in (
        lambda h: count_eigenvalues(h, threshold=0.3, method="lanczos", probes=4, steps=30),
        lambda h: count_eigenvalues(h, threshold=0.3, method="exact"),
        lambda h: spectral_density(h, probes=2, steps=30),
    ):
        call(as_operator(product, N, dtype=dtype))


NOT_FINITE = {
    "nan": lambda v: v * float("nan"),
    "infinite": lambda v: v * float("inf"),
    "one entry": lambda v: torch.where(torch.arange(N)[:, None] == 7, float("nan"), H @ v),
    "one column": lambda v: torch.where(torch.arange(v.shape[1]) == 1, float("inf"), H @ v),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("bad", NOT_FINITE)
def test_the_intervals_so_far_remain_where_a_product_is_not_finite(bad, keep):
    whole = count_eigenvalues(
        Later(10**9, None), threshold=TAU, method="lanczos", probes=4, steps=21, precision=1e-9, reorthogonalize=keep
    )
    operator = Later(11 + 2 + 4 * 21, NOT_FINITE[bad])
    counts = count_eigenvalues(
        operator, threshold=TAU, method="lanczos", probes=4, steps=100, precision=1e-9, reorthogonalize=keep
    )
    assert counts.stopped.startswith("a product of step 22 was not finite: the intervals are those of the 21 steps")
    assert counts.steps == 21
    assert counts.products == operator.made == 11 + 2 + 4 * 22 + 1
    for name in ("negative", "near_zero", "positive"):
        assert getattr(counts, name) == getattr(whole, name)
    assert holds(counts, TRUTH)


def test_a_product_that_is_not_finite_once_ends_the_run_too():
    operator = Later(11 + 2 + 80, None)
    operator.then = lambda v: H @ v * (float("nan") if operator.made <= 11 + 2 + 84 else 1.0)
    counts = count_eigenvalues(operator, threshold=TAU, method="lanczos", probes=4, steps=60, precision=1e-9)
    assert (counts.steps, counts.stopped[:24]) == (20, "a product of step 21 was")
    assert "after it" not in counts.stopped
    assert holds(counts, TRUTH)


def test_what_was_finite_before_the_run_and_is_not_after_it_is_told():
    operator = Later(11 + 2 + 4 * 20, NOT_FINITE["nan"])
    counts = count_eigenvalues(operator, threshold=TAU, method="lanczos", probes=4, steps=20, precision=1e-9)
    assert counts.steps == 20
    assert counts.stopped.endswith("a product that was finite before the run is not finite after it")


def test_the_first_step_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"must be finite; the first of the recurrence gave NaN"):
        count_eigenvalues(Later(13, NOT_FINITE["nan"]), threshold=TAU, method="lanczos", probes=4, steps=20)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_density_says_where_it_ended(bad, tmp_path):
    density = spectral_density(Later(11 + 4 * 30, NOT_FINITE[bad]), probes=4, steps=60)
    assert density.steps == 30
    assert density.products == 11 + 4 * 31 + 1
    assert "step 31 was not finite" in density.stopped
    whole = spectral_density(Later(10**9, None), probes=4, steps=30)
    np.testing.assert_array_equal(density.nodes, whole.nodes)
    density.save(tmp_path / "density.npz")
    assert Density.load(tmp_path / "density.npz").stopped == density.stopped
    assert whole.stopped == ""


def test_a_checkpoint_of_a_run_that_ended_early_is_continued(tmp_path):
    options = {"threshold": TAU, "method": "lanczos", "probes": 4, "steps": 40, "precision": 1e-9}
    first = count_eigenvalues(Later(11 + 2 + 4 * 21, NOT_FINITE["nan"]), state=tmp_path / "state", **options)
    again = count_eigenvalues(Later(10**9, None), state=tmp_path / "state", **options)
    plain = count_eigenvalues(Later(10**9, None), **options)
    assert first.steps == 21
    assert again.negative == plain.negative
    assert again.positive == plain.positive


def test_an_enumeration_ends_where_a_product_is_not_finite():
    check = check_operator(H)
    found = negative_eigenvectors(Later(100, NOT_FINITE["nan"]), TAU, check, columns=64)
    assert not found.finite
    assert "not finite" in found.stopped
    assert found.at_least <= TRUTH[0]
    counts = count_eigenvalues(
        Later(11 + 2 + 160, NOT_FINITE["nan"]),
        threshold=TAU,
        method="lanczos",
        probes=4,
        steps=30,
        enumerate_negative=True,
    )
    assert "not finite" in counts.stopped
    assert holds(counts, TRUTH)


def test_an_assembly_names_the_column():
    with pytest.raises(ValueError, match=r"got NaN or infinity in column 6[45] of 200"):
        exact_eigenvalues(Later(64, NOT_FINITE["one column"]))


def test_conjugate_gradients_name_the_product():
    cg = BlockCG(Later(40, NOT_FINITE["nan"]), torch.randn(N, 4, dtype=F64, generator=torch.Generator()), shifts=[3.0])
    with pytest.raises(ValueError, match="one of those up to number 44 of conjugate gradients was NaN"):
        [cg.advance() for _ in range(20)]


def test_a_search_for_the_largest_ends_with_what_it_has():
    largest, spent = largest_magnitude(Later(24, NOT_FINITE["nan"]), torch.Generator().manual_seed(0))
    assert 1.9 < largest <= 2 + 1e-12
    assert spent == 30


def test_a_failed_run_stays_as_it_was():
    run = Lanczos(Later(2 * 12, NOT_FINITE["nan"]), torch.randn(N, 2, dtype=F64, generator=torch.Generator()))
    run.advance(20)
    assert run.failed == 13
    assert (run.steps, run.products) == (12, 40)
    plain = Lanczos(H, torch.randn(N, 2, dtype=F64, generator=torch.Generator()))
    np.testing.assert_allclose(run.tridiagonalization().diagonal, plain.extend(12).diagonal, atol=1e-13)
    torch.testing.assert_close(run.following, plain.following, rtol=0, atol=1e-13)
