"""Brackets on integrals of functions in a spectral measure, against the measure itself, at every depth."""

import numpy as np
import pytest
import torch
from matrices import gaussian

from lanczos_saddle.certificates.function_brackets import Shape, integral_bracket
from lanczos_saddle.krylov.lanczos import Lanczos

VALUES = np.concatenate([np.linspace(0.01, 1, 40), np.full(10, 2.0), np.linspace(3, 30, 30)])
LOW, HIGH = 0.005, 31.0
FUNCTIONS = {
    "log": (np.log, (1, -1)),
    "exp": (lambda x: np.exp(x / 10), (1, 1)),
    "inverse": (lambda x: 1 / (x + 0.1), (-1, 1)),
    "root": (np.sqrt, (1, -1)),
    "step": (lambda x: np.tanh(3 * (x - 2)), (1, 0)),
    "falling step": (lambda x: -np.tanh(3 * (x - 2)), (-1, 0)),
}
RUN = Lanczos(torch.diag(torch.as_tensor(VALUES)), gaussian(len(VALUES), 6), reorthogonalize=True).extend(40)
MASSES = (gaussian(len(VALUES), 6).square() / gaussian(len(VALUES), 6).square().sum(0)).numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("steps", [1, 2, 5, 12, 40])
def test_they_hold_and_close(name, steps):
    f, signs = FUNCTIONS[name]
    run = RUN.truncated(steps)
    for i in range(run.probes):
        true = float(MASSES[:, i] @ f(VALUES))
        found = integral_bracket(*run.coefficients(i), Shape(f, LOW, HIGH, *signs), 0.3)
        assert found.lower <= true <= found.upper
        assert found.lower <= found.estimate <= found.upper
        assert float(MASSES[:, i] @ (f(VALUES) - 0.3) ** 2) <= found.square
        if steps == 40 and signs[1]:
            assert found.upper - found.lower <= 1e-3 * abs(f(HIGH) - f(LOW))


def test_an_even_sign_that_is_wrong_gives_brackets_that_cross():
    for i in range(RUN.probes):
        found = integral_bracket(*RUN.truncated(5).coefficients(i), Shape(np.log, LOW, HIGH, 1, 1), 0.0)
        assert found.lower > found.upper


def test_an_odd_sign_that_is_wrong_is_refused():
    with pytest.raises(ValueError, match="must be decreasing"):
        integral_bracket(*RUN.coefficients(0), Shape(np.log, LOW, HIGH, -1, 1), 0.0)


def test_a_space_that_has_closed_is_known_exactly():
    run = Lanczos(torch.diag(torch.tensor([1.0, 2.0, 2.0, 5.0], dtype=torch.float64)), gaussian(4, 1)).extend(4)
    found = integral_bracket(*run.coefficients(0), Shape(np.log, 0.5, 6.0, 1, -1), 0.0)
    masses = gaussian(4, 1).square().numpy()[:, 0]
    true = float(masses @ np.log([1, 2, 2, 5]) / masses.sum())
    assert found.lower <= true <= found.upper
    assert found.upper - found.lower < 1e-10


def test_a_function_that_is_not_defined_there_is_refused():
    with pytest.raises(ValueError, match="finite numbers"), np.errstate(all="ignore"):
        integral_bracket(*RUN.coefficients(0), Shape(np.log, -1.0, HIGH, 1, -1), 0.0)
