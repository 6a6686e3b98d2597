"""count_eigenvalues: what it refuses, its cost and repeatability, and agreement with exact counts."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from matrices import Metered, as_products, holds, intervals, rotated, seeded, three

from lanczos_saddle.counting.count import count_eigenvalues, recount
from lanczos_saddle.counting.planning import beside_bytes
from lanczos_saddle.counting.result import Counts
from lanczos_saddle.krylov.preflight import HELD, preflight
from lanczos_saddle.machine.measuring import measure
from lanczos_saddle.operators.operator import FromFunction, as_operator
from lanczos_saddle.operators.resolution import RESOLUTION, recurrence_noise

N = 120
TAU = 1e-3
CPU = torch.device("cpu")


def spectrum():
    rng = np.random.default_rng(0)
    bulk = rng.choice([-1, 1, 1], 60) * 10 ** rng.uniform(-2, 0, 60)
    near = np.concatenate([np.zeros(40), rng.uniform(-0.5, 0.5, 14) * TAU])
    return torch.as_tensor(np.concatenate([near, bulk, [-4.0, -3.0, 5.0, 6.0, 7.0, 8.0]]))


def dense(values=None, dtype=torch.float64, seed=0):
    return rotated(spectrum() if values is None else values, seed, dtype)


def truth(values=None, tau=TAU):
    return three(spectrum() if values is None else values, tau)


def lanczos(operator, **options):
    options = {"threshold": TAU, "method": "lanczos", "probes": 4, "steps": 40, "generator": seeded(1), **options}
    return count_eigenvalues(operator, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "a threshold must be positive and finite; got 0.0"),
        ({"threshold": -1e-3}, "positive and finite; got -0.001"),
        ({"threshold": float("nan")}, "positive and finite; got nan"),
        ({"threshold": float("inf")}, "positive and finite; got inf"),
        ({"threshold": None}, "pass one of threshold .* and relative_threshold"),
        ({"relative_threshold": 1e-3}, "pass one of threshold .* and relative_threshold"),
        ({"threshold": None, "relative_threshold": 0.0}, "positive and finite; got 0.0"),
        ({"threshold": None, "relative_threshold": float("nan")}, "positive and finite; got nan"),
        ({"threshold": None, "relative_threshold": 1.0}, "relative_threshold must be below 1"),
        ({"confidence": 0.0}, "confidence must be between 0 and 1, say 0.95; got 0.0"),
        ({"confidence": 1.0}, "got 1.0"),
        ({"confidence": 95}, "got 95"),
        ({"confidence": float("nan")}, "got nan"),
        ({"precision": 0.0}, "precision is a fraction of N, between 0 and 1; got 0.0"),
        ({"probes": 0}, "probes must be at least 1; got 0"),
        ({"probes": -2}, "got -2"),
        ({"steps": 0}, "steps must be between 1 and 120, the dimension of the operator; got 0"),
        ({"steps": N + 1}, "got 121"),
        ({"method": "guess"}, 'method must be "auto", "exact", "lanczos" or "elimination"; got \'guess\''),
    ],
)
def test_bad_arguments_are_refused_before_any_product(options, message):
    operator = Metered(dense())
    with pytest.raises(ValueError, match=message):
        lanczos(operator, **options)
    assert operator.columns == 0


@pytest.mark.parametrize("method", ["lanczos", "exact"])
def test_unfit_operators_are_refused(method):
    asymmetric = dense()
    asymmetric[0, 1] += 1
    with pytest.raises(ValueError, match="must be symmetric"):
        lanczos(asymmetric, method=method)
    broken = dense()
    broken[2, 2] = float("nan")
    with pytest.raises(ValueError, match="must be finite; got NaN"):
        lanczos(broken, method=method)
    with pytest.raises(ValueError, match="square"):
        lanczos(torch.zeros(3, 4), method=method)


def test_a_threshold_below_the_noise_is_refused_with_the_number():
    operator = as_products(dense(dtype=torch.float32))  # which cannot be had in float64: its noise is bounded
    with pytest.raises(ValueError, match=r"the threshold must be at least .* zero cannot mean less than the noise"):
        lanczos(operator, threshold=1e-6)
    check = lanczos(operator, threshold=0.1).check
    least = RESOLUTION * recurrence_noise(check, 40)
    assert 1e-6 < least < 0.1
    assert holds(lanczos(operator, threshold=1.01 * least), truth(tau=1.01 * least))
    with pytest.raises(ValueError, match="at least"):
        lanczos(operator, threshold=0.99 * least)


def test_a_basis_that_cannot_fit_is_refused_and_auto_goes_without(monkeypatch):
    monkeypatch.setattr("lanczos_saddle.counting.planning.available_bytes", lambda _: 1000)
    with pytest.raises(ValueError, match=r"keeps 4 x 40 vectors, .* GiB are free: pass reorthogonalize=False"):
        lanczos(dense(), reorthogonalize=True)
    assert holds(lanczos(dense(), reorthogonalize="auto"), truth())


@pytest.mark.parametrize("budget", [1, 12, 17])
def test_a_budget_that_is_too_small_is_refused(budget):
    with pytest.raises(
        ValueError, match=f"max_products must leave one step for each of 4 probes .* got {budget}: raise it to"
    ):
        lanczos(dense(), max_products=budget)


def test_the_budget_of_an_exact_count_holds_the_search_for_the_largest():
    options = {"threshold": None, "relative_threshold": 1e-3, "method": "exact"}
    operator = Metered(dense())
    with pytest.raises(ValueError, match="max_products must leave the exact count") as refused:
        lanczos(operator, max_products=N + 12, **options)
    least = int(str(refused.value).rpartition(" ")[2])
    assert operator.columns == 0
    assert lanczos(operator, max_products=least, **options).products == least == operator.columns
    assert lanczos(dense(), max_products=N, **options).products <= N  # the entries of a dense one are there


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, None),
        ({"max_products": 100}, 100),
        ({"max_products": 18}, 18),
        ({"threshold": None, "relative_threshold": 1e-3}, None),
        ({"threshold": None, "relative_threshold": 1e-3, "max_products": 200}, 200),
        ({"method": "exact"}, None),
        ({"method": "exact", "threshold": None, "relative_threshold": 1e-3, "max_products": 400}, 400),
    ],
)
def test_products_are_counted_and_the_budget_is_kept(options, most):
    operator = Metered(dense())
    counts = lanczos(operator, **options)
    assert counts.products == operator.columns
    assert most is None or counts.products <= most


def test_intervals_hold_and_sum_up():
    for seed in range(4):
        for options in ({}, {"reorthogonalize": False}, {"probes": 1}, {"steps": 5}, {"steps": 80}):
            counts = lanczos(dense(seed=seed), generator=seeded(seed), confidence=0.999, **options)
            assert holds(counts, truth())
            for interval in intervals(counts):
                assert 0 <= interval.lower <= interval.estimate <= interval.upper <= N
            lows, highs = (sum(getattr(i, end) for i in intervals(counts)) for end in ("lower", "upper"))
            assert lows <= N <= highs
            assert counts.negative.lower + counts.near_zero.upper + counts.positive.lower <= N
            assert (counts.size, counts.threshold, counts.confidence, counts.method) == (N, TAU, 0.999, "lanczos")


def test_full_depth_with_a_basis_is_exact():
    # N steps from one probe span the space, and then Cauchy's bounds meet
    values = torch.linspace(-1, 2, 16, dtype=torch.float64)
    counts = count_eigenvalues(
        dense(values), threshold=0.01, method="lanczos", probes=1, reorthogonalize=True, generator=seeded(1)
    )
    assert counts.steps == 16
    assert [(i.lower, i.upper) for i in intervals(counts)] == [(c, c) for c in truth(values, 0.01)]


@pytest.mark.parametrize("method", ["exact", "auto"])
def test_exact_counts(method):
    counts = count_eigenvalues(dense(), threshold=TAU, method=method)
    assert counts.method == "exact"
    assert [(i.lower, i.upper) for i in intervals(counts)] == [(c, c) for c in truth()]
    assert counts.probes == 0
    assert counts.eigenvalues is not None


def test_auto_goes_matrix_free_beyond_the_limit(monkeypatch):
    monkeypatch.setattr("lanczos_saddle.counting.count.EXACT_SIZE", N - 1)
    assert count_eigenvalues(dense(), threshold=TAU, steps=10, probes=2, generator=seeded(1)).method == "lanczos"


def test_a_relative_threshold_refers_to_the_largest_magnitude():
    values = spectrum()
    for sign in (1, -1):
        for method in ("exact", "lanczos"):
            counts = lanczos(sign * dense(), threshold=None, relative_threshold=TAU / 8, method=method)
            assert counts.threshold == pytest.approx(TAU, rel=1e-9)
            assert holds(counts, truth(sign * values))


@pytest.mark.parametrize("size", [2, 5, 9, 10, 11, 15, 19, 25])
def test_a_relative_threshold_is_right_for_small_operators_too(size):
    values = torch.linspace(0.5, 1, size, dtype=torch.float64)
    counts = count_eigenvalues(torch.diag(values), relative_threshold=0.9, method="exact")
    assert counts.threshold == pytest.approx(0.9, rel=1e-9)


def test_the_same_through_every_way_in():
    h = dense()
    ways = [
        h,
        h.numpy(),
        scipy.sparse.linalg.aslinearoperator(h.numpy()),
        FromFunction(lambda v: h @ v, N, h.dtype, CPU),
        as_operator(lambda v: h @ v, N, dtype=torch.float64),
        Metered(h),
    ]
    results = [lanczos(way) for way in ways]
    for way, other in zip(ways[1:], results[1:], strict=True):
        # SciPy multiplies by other routines: an end is rounded outward to a whole number, and may fall beside it
        apart = 1 if isinstance(way, scipy.sparse.linalg.LinearOperator) else 0
        for one, two in zip(intervals(results[0]), intervals(other), strict=True):
            assert abs(one.lower - two.lower) <= apart
            assert abs(one.upper - two.upper) <= apart
            assert one.estimate == pytest.approx(two.estimate, rel=1e-6, abs=1e-6)  # rounding grows with depth
        assert (other.products, other.steps) == (results[0].products, results[0].steps)


def test_the_generator_decides_everything_and_the_global_state_nothing():
    state = torch.random.get_rng_state()
    first = lanczos(dense())
    torch.manual_seed(5)
    moved = torch.random.get_rng_state()
    second, other = lanczos(dense()), lanczos(dense(), generator=seeded(2))
    assert torch.equal(moved, torch.random.get_rng_state())
    torch.random.set_rng_state(state)
    assert first.evidence is not None
    assert second.evidence is not None
    assert other.evidence is not None
    np.testing.assert_array_equal(first.evidence.run.diagonal, second.evidence.run.diagonal)
    assert intervals(first) == intervals(second)
    assert not np.array_equal(first.evidence.run.norms, other.evidence.run.norms)
    default = [lanczos(dense(), generator=None) for _ in range(2)]
    assert intervals(default[0]) == intervals(default[1])


def test_one_generator_gives_new_probes_at_each_call():
    generator = seeded(1)
    first, second = (lanczos(dense(), generator=generator) for _ in range(2))
    assert first.evidence is not None
    assert second.evidence is not None
    assert not np.array_equal(first.evidence.run.norms, second.evidence.run.norms)


def test_a_checkpoint_resumes_to_the_same_counts(tmp_path):
    path = tmp_path / "run.safetensors"
    whole = lanczos(dense(), steps=60, precision=1e-9)
    short = lanczos(dense(), steps=20, precision=1e-9, state=path)
    resumed = lanczos(dense(), steps=60, precision=1e-9, state=path)
    assert (short.steps, resumed.steps) == (20, 60)
    assert short.negative.width >= resumed.negative.width
    assert intervals(resumed) == intervals(whole)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="another operator or to other probes"):
        lanczos(dense(), state=path, generator=seeded(9))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        lanczos(dense(), state=path)


def test_dead_coordinates_are_dropped_and_counted():
    values = spectrum()
    h = torch.zeros(N + 30, N + 30, dtype=torch.float64)
    order = torch.randperm(N + 30, generator=seeded(1))
    h[order[:N, None], order[:N]] = dense()
    negative, near_zero, positive = truth(values)
    for reorthogonalize in (True, False):
        counts = lanczos(h, reorthogonalize=reorthogonalize)
        assert (counts.dead, counts.size) == (30, N + 30)
        assert counts.near_zero.lower >= 30
        assert holds(counts, (negative, near_zero + 30, positive))
        assert counts.evidence is not None
        assert counts.evidence.living == N


@pytest.mark.parametrize("method", ["lanczos", "exact"])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_zero_operator(size, method):
    counts = count_eigenvalues(torch.zeros(size, size), threshold=TAU, method=method)
    assert [(i.lower, i.upper) for i in intervals(counts)] == [(0, 0), (size, size), (0, 0)]
    with pytest.raises(ValueError, match="a relative threshold needs a nonzero operator"):
        count_eigenvalues(torch.zeros(size, size), relative_threshold=TAU, method=method)


@pytest.mark.parametrize("values", [[3.0], [-3.0], [1e-5], [0.0, 2.0], [-1.0, 1.0], [-1.0, -1.0], [1e-5, -4.0]])
@pytest.mark.parametrize("method", ["lanczos", "exact"])
def test_one_and_two_parameters(values, method):
    values = torch.tensor(values, dtype=torch.float64)
    counts = count_eigenvalues(torch.diag(values), threshold=TAU, method=method, generator=seeded(1))
    assert holds(counts, truth(values))
    if method == "exact":
        assert all(i.width == 0 for i in intervals(counts))


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_intervals_of_a_float32_operator_hold(reorthogonalize):
    for seed in range(8):
        counts = lanczos(
            dense(dtype=torch.float32, seed=seed),
            threshold=5e-3,
            generator=seeded(seed),
            confidence=0.999,
            reorthogonalize=reorthogonalize,
        )
        assert holds(counts, truth(tau=5e-3))
        assert counts.check.noise_source == "float64"
        assert counts.noise > 0


def test_exact_counts_of_float32_are_made_in_float64():
    counts = count_eigenvalues(dense(dtype=torch.float32), threshold=5e-3, method="exact")
    assert counts.eigenvalues is not None
    assert counts.eigenvalues.dtype == torch.float64
    assert holds(counts, truth(tau=5e-3))


def test_a_bound_that_the_caller_proves_is_used():
    negative = truth()[0]
    counts = lanczos(dense(), steps=6, negative_at_most=negative)
    assert counts.negative.upper <= negative
    assert holds(counts, truth())


def test_more_steps_narrow_and_the_reason_to_stop_is_told():
    widths = [lanczos(dense(), steps=k, precision=1e-9).negative.width for k in (6, 20, 80)]
    assert widths == sorted(widths, reverse=True)
    assert lanczos(dense(), steps=6).stopped == "all 6 steps made"
    assert lanczos(dense(), precision=0.9).stopped == "the wanted precision is reached"
    few = torch.tensor([-1.0, 2.0, 3.0], dtype=torch.float64).repeat_interleave(40)
    operator = FromFunction(lambda v: few[:, None] * v, N, torch.float64, CPU)
    assert lanczos(operator, precision=1e-9).stopped == "every Krylov space has closed"


@pytest.mark.parametrize("method", ["lanczos", "exact"])
def test_a_recount_asks_the_same_products(method):
    operator = Metered(dense())
    counts = lanczos(operator, method=method)
    spent = operator.columns
    for tau in (1e-4, 0.03, 2.0):
        again = recount(counts, tau)
        assert isinstance(again, Counts)
        assert again.threshold == tau
        assert holds(again, truth(tau=tau))
    assert intervals(recount(counts, TAU)) == intervals(counts)
    assert operator.columns == spent
    with pytest.raises(ValueError, match="positive and finite"):
        recount(counts, 0.0)
    if method == "lanczos":
        with pytest.raises(ValueError, match="at least"):
            recount(counts, 1e-16)


def test_the_progress_bar_keeps_stdout_clean(capsys):
    lanczos(dense(), progress=True)
    assert capsys.readouterr().out == ""


def test_it_reads_as_a_table():
    text = str(lanczos(dense()))
    assert "negative" in text
    assert "95 % joint, 4 probes x" in text
    assert "exact" in str(count_eigenvalues(dense(), threshold=TAU))


def test_auto_is_matrix_free_where_options_of_the_recurrences_are_given():
    h = torch.linspace(-1, 1, 100, dtype=torch.float64).diag()
    assert count_eigenvalues(h, threshold=0.1).method == "exact"
    for options in ({"probes": 4}, {"steps": 20}, {"max_products": 500, "probes": 4}):
        assert count_eigenvalues(h, threshold=0.1, **options).method == "lanczos"


def test_a_budget_that_reaches_is_spent_on_all_eigenvalues():
    values = torch.linspace(-1, 1, 100, dtype=torch.float64)
    assert count_eigenvalues(values.diag(), threshold=0.1, max_products=50).method == "exact"  # its entries are there
    by_products = as_operator(lambda v: values[:, None] * v, 100, dtype=torch.float64)
    found = count_eigenvalues(by_products, threshold=0.105, max_products=113)
    assert (found.method, found.products) == ("exact", 113)
    assert found.plan.startswith("exact")
    assert holds(found, truth(values, 0.105))
    sampled = count_eigenvalues(by_products, threshold=0.105, max_products=112)
    assert sampled.method == "lanczos"
    assert sampled.products <= 112


def test_a_budget_below_the_exact_count_is_refused():
    h = torch.eye(100, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"max_products must leave the exact count .* at least 11$"):
        count_eigenvalues(h, threshold=0.1, method="exact", max_products=10)
    assert count_eigenvalues(h, threshold=0.1, method="exact", max_products=11).products == 11  # the preflight's
    by_products = as_operator(lambda v: 1.0 * v, 100, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"max_products must leave the exact count .* at least 113$"):
        count_eigenvalues(by_products, threshold=0.1, method="exact", max_products=112)
    assert count_eigenvalues(by_products, threshold=0.1, method="exact", max_products=113).products == 113


def test_the_same_seed_draws_the_same_probes_however_the_threshold_is_named(tmp_path):
    """A checkpoint made with a relative threshold resumes with the absolute one that it stood for."""
    h = torch.linspace(-1, 2, 200, dtype=torch.float64).diag()
    options = {"method": "lanczos", "probes": 4, "precision": 1e-6, "state": tmp_path / "run"}
    first = count_eigenvalues(h, relative_threshold=0.1, steps=10, **options)
    resumed = count_eigenvalues(h, threshold=first.threshold, steps=20, **options)
    fresh = count_eigenvalues(h, threshold=first.threshold, steps=20, **{**options, "state": None})
    assert resumed.negative == fresh.negative
    assert resumed.positive == fresh.positive


def test_products_may_carry_a_graph():
    w = torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    h = as_operator(lambda v: (w + w.mT) @ v, 30, dtype=torch.float64)
    values = torch.linalg.eigvalsh((w + w.mT).detach())
    found = count_eigenvalues(h, threshold=0.5, method="lanczos", probes=4)
    assert int((values < -0.5).sum()) in found.negative
    assert w.grad is None


def test_what_draws_from_the_global_generator_is_found_out():
    h = as_operator(lambda v: v * (1 + torch.rand(())), 20)
    with pytest.raises(ValueError, match="two products with the same vector"):
        count_eigenvalues(h, threshold=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 2.5}, "probes must be a whole number; got 2.5"),
        ({"steps": 10.5}, "steps must be a whole number; got 10.5"),
        ({"generator": 3}, "generator must be"),
        ({"reorthogonalize": "no"}, "reorthogonalize must be"),
        ({"threshold": "1e-2"}, "threshold must be a number; got '1e-2'"),
    ],
)
def test_arguments_of_another_type_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        count_eigenvalues(torch.eye(20), **{"threshold": 0.1, "method": "lanczos", **options})


def test_a_bound_that_certain_eigenvalues_contradict_is_refused():
    values = torch.tensor([-0.5] * 10 + [-0.05] * 20 + [1.0] * 70, dtype=torch.float64)
    options = {"method": "lanczos", "probes": 4, "steps": 40, "precision": 1e-9, "reorthogonalize": True}
    spread = values + torch.linspace(0, 1e-3, len(values), dtype=torch.float64)
    counts = count_eigenvalues(torch.diag(spread), threshold=0.1, negative_at_most=10, **options)
    assert counts.negative.upper == 10
    with pytest.raises(ValueError, match="must be one that can be proved; got 10, but"):
        recount(counts, 0.01)  # 30 are below -0.01: the bound at 0.1 was none on all below 0


def test_what_noise_hides_is_refused_before_eigenvectors_are_searched():
    matrix = dense(dtype=torch.float32)
    spent = []
    for enumerate_negative in (False, True):
        operator = Metered(matrix)
        with pytest.raises(ValueError, match="zero cannot mean less than the noise"):
            lanczos(operator, threshold=1e-6, enumerate_negative=enumerate_negative)
        spent.append(operator.columns)
    assert spent[1] <= spent[0]


def test_a_float32_matrix_symmetric_to_its_own_rounding_is_counted_exactly():
    values = spectrum()
    q = torch.linalg.qr(torch.randn(N, N, generator=seeded(1), dtype=torch.float64)).Q.float()
    matrix = (q * values.float()) @ q.mT
    assert 0 < (matrix - matrix.mT).norm() < 1e-5
    for method in ("auto", "exact"):
        assert holds(count_eigenvalues(matrix, threshold=TAU, method=method), truth())
    lopsided = matrix + 1e-2 * torch.triu(torch.ones(N, N), 1)
    with pytest.raises(ValueError, match="symmetric"):
        count_eigenvalues(lopsided, threshold=TAU)


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_sparse_tensors_are_counted(layout):
    values = torch.tensor([-1.0] * 5 + [0.0] * 20 + [2.0] * 15, dtype=torch.float64)
    matrix = torch.diag(values)
    matrix = matrix.to_sparse() if layout == "coo" else matrix.to_sparse_csr()
    for method in ("auto", "lanczos"):
        assert holds(count_eigenvalues(matrix, threshold=0.1, method=method), (5, 20, 15))


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("factor", [1e-300, 1e-159, 1e159, 1e300])
def test_an_operator_whose_squares_vanish_or_overflow_is_counted(factor, method):
    counts = count_eigenvalues(factor * dense(), threshold=factor * TAU, method=method, precision=1e-9)
    assert counts.threshold == factor * TAU
    assert holds(counts, truth())
    assert 0.9 < counts.check.scale / (factor * float(spectrum().abs().max())) < 1.01
    again = recount(counts, factor * 2 * TAU)
    assert holds(again, truth(tau=2 * TAU))
    if method == "exact":
        wanted = torch.linalg.eigvalsh(dense()) * factor
        assert float((counts.eigenvalues / factor - wanted / factor).abs().max()) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 3])
def test_memory_without_a_basis_is_as_planned(probes):
    # blocks of 40 MB come from fresh pages and go back at once, so that what is resident is what is alive
    size, tau = 5_000_000, 0.1
    values = torch.rand(size, generator=seeded(0), dtype=torch.float64).mul_(1.3).sub_(0.3)

    class Diagonal:
        shape, dtype, device = (size, size), torch.float64, torch.device("cpu")

        def __matmul__(self, v):
            return values * v if v.ndim == 1 else values[:, None] * v

    operator, cpu = Diagonal(), torch.device("cpu")
    found, cost = measure(lambda: preflight(as_operator(operator)), cpu)
    if cost.peak_bytes is None:
        pytest.skip("this system does not tell a peak that can be reset")
    del found
    small = 32 * 2**20  # interpreter, libraries on their first call, coefficients
    assert cost.peak_bytes <= 8 * HELD * size + small
    counts, cost = measure(
        lambda: count_eigenvalues(
            operator,
            threshold=tau,
            method="lanczos",
            probes=probes,
            steps=4,
            reorthogonalize=False,
            generator=seeded(1),
        ),
        cpu,
    )
    assert cost.peak_bytes <= max(8 * HELD * size, beside_bytes(probes, size)) + small
    holds(counts, three(values, tau))
