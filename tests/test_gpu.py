"""The same numbers on a CUDA device: probes are drawn on the CPU, so runs differ by rounding alone."""

import pytest
import torch

from lanczos_saddle import (
    GaussNewton,
    Hessian,
    as_operator,
    assemble,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    spectral_density,
)
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.operators.prescribed import PrescribedSpectrum
from lanczos_saddle.studies.known_problems import clustered

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none"),
]

CUDA = "cuda"


def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 10), torch.nn.ReLU(), torch.nn.Linear(10, 4))
    return model, torch.nn.CrossEntropyLoss(), (torch.randn(300, 12), torch.randint(0, 4, (300,)))


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_products_agree_with_the_cpu(kind, dtype, bound):
    here, there = (kind(*problem(), dtype=dtype, device=device) for device in ("cpu", CUDA))
    v = torch.randn(here.shape[0], 5, dtype=dtype)
    expected, found = here @ v, (there @ v.to(there.device)).cpu()
    assert (found - expected).norm() <= bound * expected.norm()


@pytest.mark.parametrize("kind", [Hessian, GaussNewton])
def test_nothing_in_the_recurrence_waits_for_the_device(kind):
    operator = kind(*problem(), dtype=torch.float64, device=CUDA)
    run = Lanczos(operator, torch.randn(operator.shape[0], 4, dtype=torch.float64))
    run.advance(2)  # the first product records the operations, and is compared
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.advance(20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.steps == 20


def test_counts_agree_with_the_cpu():
    here, there = (
        count_eigenvalues(
            Hessian(*problem(), dtype=torch.float64, device=d), threshold=1e-3, method="lanczos", probes=6
        )
        for d in ("cpu", CUDA)
    )
    assert (here.negative.lower, here.negative.upper) == (there.negative.lower, there.negative.upper)
    assert (here.positive.lower, here.positive.upper) == (there.positive.lower, there.positive.upper)


def test_exact_agrees_with_the_cpu():
    here, there = (Hessian(*problem(), dtype=torch.float64, device=d) for d in ("cpu", CUDA))
    values = exact_eigenvalues(here)
    assert (exact_eigenvalues(there) - values).abs().max() <= 1e-14 * len(values) * values.abs().max()
    found = inertia(there, -1e-3)  # blocked, on the device
    assert found == inertia(here, -1e-3)
    assert found.holds_for(0.0)
    here, there = assemble(here), assemble(there)  # in closed form
    assert there.device.type == CUDA
    assert here.error > 0
    assert there.error > 0
    assert (there.matrix.cpu() - here.matrix).norm() <= 1e-14 * len(values) * here.matrix.norm()


@pytest.mark.parametrize("size", [3, 1000, 3000])
def test_blocked_inertia_on_the_device(size):
    values = torch.linspace(-1, 2, size, dtype=torch.float64)
    operator = PrescribedSpectrum(values, torch.Generator().manual_seed(0), torch.float64, CUDA)
    found = inertia(operator, -0.2503, method="blocked")
    assert found == (int((values < -0.2503).sum()), int((values > -0.2503).sum()))
    assert found.holds_for(0.0)


def test_intervals_hold_at_a_hundred_thousand():
    generator = torch.Generator().manual_seed(0)
    operator = clustered(100_000, 1e-2, generator, torch.float64, CUDA)
    counts = count_eigenvalues(operator, threshold=1e-2, probes=4, steps=100, generator=generator)
    for true, interval in zip(operator.count(1e-2), (counts.negative, counts.near_zero, counts.positive), strict=True):
        assert true in interval


def test_a_callable_on_the_device_and_a_density():
    diagonal = torch.linspace(-1, 1, 200, dtype=torch.float64, device=CUDA)
    operator = as_operator(lambda v: diagonal[:, None] * v, 200, dtype=torch.float64, device=CUDA)
    assert spectral_density(operator, probes=2, steps=20).weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_cupy_operators_share_the_device():
    cupy = pytest.importorskip("cupy")
    matrix = cupy.diag(cupy.linspace(-1, 1, 150))
    counts = count_eigenvalues(matrix, threshold=0.5, method="lanczos", probes=8)
    assert int((cupy.linspace(-1, 1, 150) < -0.5).sum()) in counts.negative


def test_a_run_resumes_on_the_other_device(tmp_path):
    options = {"threshold": 1e-3, "probes": 4, "precision": 1e-6, "state": tmp_path / "run"}
    count_eigenvalues(Hessian(*problem(), dtype=torch.float64), steps=20, **options)
    resumed = count_eigenvalues(Hessian(*problem(), dtype=torch.float64, device=CUDA), steps=40, **options)
    assert resumed.steps == 40
