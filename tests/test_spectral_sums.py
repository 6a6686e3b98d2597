"""Sums over all eigenvalues: against closed forms, with intervals that hold at least as often as stated."""

import numpy as np
import pytest
import torch
from matrices import F64, as_products, diagonal_products, rotated, seeded, symmetric

from lanczos_saddle import log_determinant, spectral_sum, trace

VALUES = np.concatenate([np.linspace(0, 1, 70), np.linspace(2, 9, 30)])
MATRIX = as_products(rotated(VALUES))


@pytest.mark.parametrize("sketch", [0, 5, None])
def test_a_trace_with_its_interval(sketch):
    found = trace(MATRIX, probes=16, sketch=sketch)
    assert VALUES.sum() in found
    assert found.lower <= found.estimate <= found.upper
    assert found.probes == 16
    assert abs(found.estimate - VALUES.sum()) <= 5 * found.standard_error


def test_a_sketch_takes_what_few_directions_hold():
    values = np.concatenate([np.full(195, 1e-3), [50.0, 60, 70, 80, 90]])
    operator = as_products(rotated(values))
    with_sketch, without = trace(operator, probes=10, sketch=8), trace(operator, probes=26, sketch=0)
    assert values.sum() in with_sketch
    assert values.sum() in without
    assert with_sketch.upper - with_sketch.lower < 1e-2 * (without.upper - without.lower)


def test_as_many_products_as_coordinates_leave_no_chance():
    found = trace(MATRIX, probes=50)
    assert found.probes == 0
    assert VALUES.sum() in found
    assert found.upper - found.lower < 1e-9
    assert found.products == 100 + 11 + 1


def test_traces_are_right_at_least_as_often_as_stated_and_no_wider_than_they_must():
    operator, right, inside = diagonal_products(VALUES), 0, 0
    for seed in range(200):
        found = trace(operator, probes=8, sketch=0, confidence=0.9, generator=seeded(seed))
        right += VALUES.sum() in found
        inside += abs(found.estimate - VALUES.sum()) <= (found.upper - found.lower) / 16
    assert right >= 190
    assert inside < 170  # an eighth of the width is not enough


FUNCTIONS = {
    "exp": (lambda x: np.exp(x / 3), (1, 1)),
    "root": (lambda x: np.sqrt(x + 0.1), (1, -1)),
    "resolvent": (lambda x: 1 / (x + 1), (-1, 1)),
    "step": (lambda x: np.tanh(x - 3), (1, 0)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_of_functions(name):
    f, signs = FUNCTIONS[name]
    found = spectral_sum(MATRIX, f, derivatives=signs, lowest=-1e-9, highest=9.001, probes=8, steps=20)
    assert f(VALUES).sum() in found
    assert abs(found.estimate - f(VALUES).sum()) <= 5 * found.standard_error + 2 * found.quadrature
    if signs[1]:
        assert found.quadrature < 0.05 * (found.upper - found.lower)


@pytest.mark.parametrize("highest", [None, 9.5])
def test_the_logarithm_of_a_determinant(highest):
    true = float(np.log(VALUES + 0.5).sum())
    found = log_determinant(MATRIX, 0.5, lowest=-1e-9, highest=highest, probes=10, steps=20)
    assert true in found
    assert found.upper - found.lower < 100
    sign, dense = np.linalg.slogdet(rotated(VALUES).numpy() + 0.5 * np.eye(100))
    assert sign == 1
    assert dense == pytest.approx(true)


def test_brackets_hold_where_few_steps_leave_much_open():
    true = float(np.log(VALUES + 1e-3).sum())
    shallow, deep = (log_determinant(MATRIX, 1e-3, lowest=-1e-9, probes=6, steps=k) for k in (3, 40))
    assert true in shallow
    assert true in deep
    assert shallow.quadrature > 10 * deep.quadrature


def test_sums_are_right_at_least_as_often_as_stated():
    operator, true, right = diagonal_products(VALUES), float(np.log(VALUES + 0.5).sum()), 0
    for seed in range(200):
        found = log_determinant(
            operator, 0.5, lowest=-1e-9, highest=9.001, probes=4, steps=6, confidence=0.9, generator=seeded(seed)
        )
        right += true in found
    assert right >= 190


def test_complex_matrices_are_summed_once():
    matrix = symmetric(30).numpy() + 1j * (
        np.triu(symmetric(30, seed=1).numpy(), 1) - np.tril(symmetric(30, seed=1).numpy(), -1)
    )
    values = np.linalg.eigvalsh(matrix)
    assert values.sum() in trace(matrix, probes=4, sketch=2)
    low = float(values[0]) - 1
    found = log_determinant(matrix, 1 - low, lowest=low, probes=4, steps=30)
    assert float(np.log(values + 1 - low).sum()) in found


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: log_determinant(MATRIX, 0.0, lowest=0.0), "lowest \\+ shift > 0"),
        (lambda: log_determinant(MATRIX, 1.0, lowest=0.5), "bounds must be those of the spectrum"),
        (lambda: log_determinant(MATRIX, 1.0, lowest=0.0, highest=5.0), "bounds must be those of the spectrum"),
        (lambda: spectral_sum(MATRIX, np.log, derivatives=(1, -1), lowest=-1.0), "finite numbers"),
        (lambda: spectral_sum(MATRIX, np.exp, derivatives=(0, 1), lowest=0.0), "signs of the odd"),
        (lambda: spectral_sum(MATRIX, np.exp, derivatives=(1, 1), lowest=0.0, highest=-1.0), "lowest < highest"),
        (lambda: trace(MATRIX, probes=0), "probes must be at least 1"),
        (lambda: trace(MATRIX, confidence=1.0), "confidence"),
        (lambda: spectral_sum(MATRIX, np.exp, derivatives=(1, 1), lowest=0.0, probes=1), "probes must be at least 2"),
    ],
    ids=range(9),
)
def test_misuse_is_refused(call, said):
    with pytest.raises(ValueError, match=said), np.errstate(all="ignore"):
        call()


def test_products_in_float32_are_paid_for():
    matrix = rotated(VALUES, dtype=torch.float32)
    found = trace(as_products(matrix), probes=60)
    assert float(matrix.to(F64).trace()) in found
    assert found.upper - found.lower > 1e-6


@pytest.mark.parametrize(
    ("f", "signs", "said"),
    [
        (np.exp, (-1, 1), "must be decreasing"),
        (lambda x: (x - 4) ** 2, (1, 1), "must be increasing"),
        (lambda x: np.log(x + 0.5), (1, 1), "signs that are given"),
        (np.exp, (1, -1), "signs that are given"),
        (lambda x: x + 1j, (1, 1), "real finite numbers"),
        (np.exp, 1, "signs of the odd"),
        (np.exp, (1, 1, 1), "signs of the odd"),
    ],
    ids=range(7),
)
def test_what_the_brackets_refute_is_refused(f, signs, said):
    with pytest.raises(ValueError, match=said):
        spectral_sum(MATRIX, f, derivatives=signs, lowest=-0.1, highest=9.1, probes=8, steps=3)


def test_a_jump_at_an_eigenvalue_is_as_uncertain_as_its_place():
    values, wrong = np.repeat([0.0, 3.0, 9.0], 50), 0
    for seed in range(20):  # rounding alone moves the Ritz value at 3, and tanh from -1 to 1
        found = spectral_sum(
            diagonal_products(values),
            lambda x: np.tanh(1e15 * (x - 3)),
            derivatives=(1, 0),
            lowest=-0.01,
            highest=9.5,
            probes=300,
            steps=5,
            generator=seeded(seed),
        )
        wrong += 0.0 not in found
    assert wrong == 0  # 5 of 20 where the change at Ritz values was left out


def test_one_value_alone_leaves_nothing_but_rounding():
    found = log_determinant(diagonal_products(np.full(100, 3.0)), lowest=1.0, probes=2, steps=4)
    assert 100 * np.log(3) in found
    assert found.upper - found.lower < 1e-7


def test_a_chance_bound_below_a_ritz_value_is_no_fault_of_the_caller():
    operator = diagonal_products([1.0, 50.0, 3.0])
    for seed in range(60):  # at this confidence the Frobenius norm is bounded too low in one of ten
        found = log_determinant(operator, lowest=1.0, probes=2, steps=2, confidence=0.3, generator=seeded(seed))
        assert found.lower <= found.estimate <= found.upper
