"""A budget that is refused comes with one number, which suffices at once; less would not do, or is not asked for."""

import re

import numpy as np
import pytest
import torch

from lanczos_saddle import Hessian, as_operator, count_eigenvalues

F64 = torch.float64


def diagonal(size):
    return torch.linspace(-1, 1, size, dtype=F64)


def products(size):
    values = diagonal(size)
    return as_operator(lambda v: values[:, None] * v, size, dtype=F64)


def network(dtype=F64, hidden=5, inputs=8):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 3)).to(dtype)
    data = torch.randn(60, inputs, dtype=dtype), torch.randint(0, 3, (60,))
    return Hessian(model, torch.nn.CrossEntropyLoss(), data)


OPERATORS = {
    "dense": lambda: torch.diag(diagonal(200)),
    "dense float32": lambda: torch.diag(diagonal(200)).float(),
    "small": lambda: torch.diag(diagonal(12)),
    "tiny": lambda: torch.diag(diagonal(3)),
    "products": lambda: products(150),
    "network": network,
    "network float32": lambda: network(torch.float32),
    "complex": lambda: np.diag(diagonal(60).numpy()).astype(complex) + 0.1j * (np.eye(60, k=1) - np.eye(60, k=-1)),
}
OPTIONS = [
    {},
    {"probes": 1},
    {"probes": 30},
    {"steps": 2},
    {"steps": 3, "probes": 7},
    {"precision": 1e-3},
    {"precision": 0.4},
    {"enumerate_negative": True},
    {"enumerate_negative": True, "probes": 40},
    {"reorthogonalize": False},
]


def refused(operator, **options):
    """The number that the refusal names; checks that it names no argument that was not passed."""
    with pytest.raises(ValueError, match=r"raise it to at least \d+") as error:
        count_eigenvalues(operator, **options)
    text = str(error.value)
    assert "\n" not in text
    assert ("fewer probes" not in text) or "probes" in options
    assert "negative_at_most" not in text
    assert "enumeration" not in text or "enumerate_negative" in options
    return int(re.search(r"raise it to at least (\d+)", text)[1])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tau", [{"threshold": 0.15}, {"relative_threshold": 0.15}], ids=lambda t: next(iter(t)))
@pytest.mark.parametrize("name", OPERATORS)
def test_the_advice_suffices_at_once_and_is_the_least(name, tau, options):
    operator = OPERATORS[name]()
    options = {"method": "lanczos", **tau, **options}
    for given in (1, 12, 17):
        if given >= (least := refused(operator, max_products=1, **options)):
            continue
        assert refused(operator, max_products=given, **options) == least
    assert count_eigenvalues(operator, max_products=least, **options).products <= least
    assert refused(operator, max_products=least - 1, **options) == least


@pytest.mark.parametrize("tau", [{"threshold": 0.15}, {"relative_threshold": 0.15}], ids=lambda t: next(iter(t)))
@pytest.mark.parametrize("name", OPERATORS)
def test_of_an_exact_count(name, tau):
    operator = OPERATORS[name]()
    options = {"method": "exact", **tau}
    least = refused(operator, max_products=1, **options)
    counts = count_eigenvalues(operator, max_products=least, **options)
    assert counts.products <= least
    if not name.startswith("network"):  # whose closed form is known only when it has been tried
        assert counts.products == least
    assert refused(operator, max_products=least - 1, **options) == least


@pytest.mark.parametrize("name", ["dense", "complex", "small"])
def test_an_exact_count_of_a_stored_matrix_asks_for_no_products(name):
    operator = OPERATORS[name]()
    assert count_eigenvalues(operator, threshold=0.15, method="exact", max_products=13).products <= 13


def test_null_vectors_are_part_of_it():
    values = torch.cat([torch.zeros(30, dtype=F64), diagonal(90)])
    nulls = torch.eye(120, dtype=F64)[:, :20]
    rotation = torch.linalg.qr(torch.randn(120, 120, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    matrix, nulls = (rotation * values) @ rotation.mT, rotation @ nulls
    for extra in ({}, {"enumerate_negative": True}, {"probes": 9}):
        options = {"threshold": 0.15, "method": "lanczos", "null_vectors": nulls, **extra}
        least = refused(matrix, max_products=2, **options)
        assert count_eigenvalues(matrix, max_products=least, **options).products <= least
        assert refused(matrix, max_products=least - 1, **options) == least


@pytest.mark.parametrize("preconditioner", ["ekfac", "subset", "own"])
def test_preconditioners_are_part_of_it(preconditioner):
    operator = network()
    size = operator.shape[0]
    chosen = 2 * torch.eye(size, dtype=F64) if preconditioner == "own" else preconditioner
    for probes in (None, 3):
        options = {"relative_threshold": 1e-3, "preconditioner": chosen, "method": "lanczos"}
        options |= {} if probes is None else {"probes": probes}
        enough = refused(operator, max_products=2, **options)
        assert count_eigenvalues(operator, max_products=enough, **options).products <= enough


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("probes", [None, 5, 200])
def test_an_elimination_is_part_of_it(dtype, probes):
    operator = network(dtype, hidden=3, inputs=40)
    options = {"threshold": 1e-2, "method": "elimination"} | ({} if probes is None else {"probes": probes})
    least = refused(operator, max_products=2, **options)
    counts = count_eigenvalues(operator, max_products=least, **options)
    assert counts.products <= least
    assert counts.method == "elimination"
    assert refused(operator, max_products=least - 1, **options) == least


@pytest.mark.parametrize("size", [40, 200, 1000])
@pytest.mark.parametrize("budget", [18, 54, 114, 127, 128, 150, 300, 1000])
def test_budgets_are_kept_and_used(size, budget):
    for tau in ({"threshold": 0.15}, {"relative_threshold": 0.15}):
        counts = count_eigenvalues(products(size), method="lanczos", max_products=budget, precision=1e-9, **tau)
        assert counts.products <= budget
        exact = counts.near_zero.width == 0
        if not exact and not any(word in counts.stopped for word in ("every", "span", "noise")):
            assert counts.products >= 0.8 * budget - 10


@pytest.mark.parametrize("name", ["products", "network", "network float32", "dense"])
def test_what_is_spent_before_the_probes_is_a_twelfth_beside_the_preflight(name):
    """Search and pilot are one recurrence; beside them the preflight, dead coordinates and the repeated product."""
    operator = OPERATORS[name]()
    for budget in (300, 600, 3000):
        counts = count_eigenvalues(
            operator, relative_threshold=0.1, method="lanczos", max_products=budget, precision=1e-9
        )
        spent = dict(counts.spent)
        assert spent.pop("check") <= 14
        assert spent.pop("scale") + spent.pop("pilot", 0) <= budget / 12
        assert sum(spent.values()) == spent.pop("dead") + spent.pop("probes") + spent.pop("deflation", 0)


def test_the_threshold_is_stated_and_close_to_the_fraction_of_the_largest():
    rng = np.random.default_rng(0)
    for values in (
        np.r_[rng.standard_normal(400), 8.0, 9.0],
        np.r_[np.zeros(300), -1.0, 0.5],
        rng.standard_normal(300) ** 3,
    ):
        largest = np.abs(values).max()
        counts = count_eigenvalues(np.diag(values), relative_threshold=0.2, method="lanczos", max_products=300)
        assert 0.995 * 0.2 * largest <= counts.threshold <= 0.2 * largest * (1 + 1e-12)
        exact = count_eigenvalues(np.diag(values), relative_threshold=0.2, method="exact")
        assert exact.threshold == pytest.approx(0.2 * largest, rel=1e-9)
