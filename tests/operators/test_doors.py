"""What comes in at the doors of the package: wrong products are seen, odd values are refused in one line."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from matrices import holds, three

from lanczos_saddle import (
    Hessian,
    Lanczos,
    as_operator,
    check_operator,
    classify,
    count_eigenvalues,
    exact_eigenvalues,
    inertia,
    negative_eigenvectors,
    spectral_density,
)
from lanczos_saddle.certificates.beta_interval import probes_for
from lanczos_saddle.cli.entry import main
from lanczos_saddle.krylov.witness import Witness
from lanczos_saddle.operators.operator import Restricted

F64 = torch.float64
N = 160
TAU = 0.1
LADDER = torch.linspace(-1, 1, N, dtype=F64)
A = np.diag(np.linspace(-1, 1, 60))
T = torch.as_tensor(A)


# every product of a run is verified by one more


def wide(wrong, limit=4):
    """The ladder for blocks of at most `limit` columns; something else for wider ones."""
    return as_operator(lambda v: LADDER[:, None] * v if v.shape[1] <= limit else wrong(v), N, dtype=F64)


WRONG = {
    "reflected": lambda v: (0.5 - LADDER[:, None]) * v,
    "2 % off": lambda v: 1.02 * LADDER[:, None] * v,
    "a billionth off": lambda v: (1 + 1e-9) * LADDER[:, None] * v,
    "columns swapped": lambda v: (LADDER[:, None] * v).flip(1),
    "the last column wrong": lambda v: torch.cat([LADDER[:, None] * v[:, :-1], 2 * v[:, -1:]], dim=1),
}

RUNS = {
    "lanczos": lambda h: count_eigenvalues(h, threshold=TAU, method="lanczos", probes=8, steps=40),
    "no basis": lambda h: count_eigenvalues(h, threshold=TAU, probes=8, reorthogonalize=False, steps=40),
    "budget": lambda h: count_eigenvalues(h, threshold=TAU, probes=8, max_products=400),
    "enumerated": lambda h: count_eigenvalues(h, threshold=TAU, probes=8, steps=20, enumerate_negative=True),
    "preconditioned": lambda h: count_eigenvalues(
        h, threshold=TAU, probes=8, steps=20, preconditioner=torch.eye(N, dtype=F64)
    ),
    "density": lambda h: spectral_density(h, probes=8, steps=40),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("wrong", WRONG)
def test_products_that_are_wrong_in_wide_blocks_are_refused(run, wrong):
    with pytest.raises(ValueError, match=r"must stay the same while .* in blocks of up to \d+ columns"):
        RUNS[run](wide(WRONG[wrong]))


class Scales:
    """S = diag(s) for blocks of at most ten columns, and half of that for wider ones; only S or only S'."""

    def __init__(self, wrong=True, other=None):
        self.wrong, self.scales = wrong, torch.linspace(0.5, 2, N, dtype=F64)[:, None]
        self.mT = other or Scales(not wrong, self)

    def __matmul__(self, v):
        return self.scales * v * (0.5 if self.wrong and 11 < v.shape[1] < 20 else 1.0)


@pytest.mark.parametrize("wrong", [True, False])
def test_an_s_that_is_wrong_in_wide_blocks_is_refused(wrong):
    good = as_operator(lambda v: LADDER[:, None] * v, N, dtype=F64)
    with pytest.raises(ValueError, match="a preconditioner S must stay the same"):
        count_eigenvalues(good, threshold=TAU, probes=12, steps=20, preconditioner=Scales(wrong))
    counts = count_eigenvalues(good, threshold=TAU, probes=10, steps=20, preconditioner=Scales(wrong))
    assert holds(counts, three(LADDER, TAU))


def test_blocks_that_are_never_wide_are_counted():
    counts = count_eigenvalues(wide(WRONG["reflected"]), threshold=TAU, method="lanczos", probes=4, steps=100)
    assert holds(counts, three(LADDER, TAU))


@pytest.mark.parametrize("at", [12, 13, 17])
def test_one_wrong_product_in_the_middle_is_refused(at):
    calls = [0]

    def once(v):
        calls[0] += 1
        return (0.5 - LADDER[:, None]) * v if calls[0] == at else LADDER[:, None] * v

    with pytest.raises(ValueError, match="a combination of all vectors"):
        count_eigenvalues(as_operator(once, N, dtype=F64), threshold=TAU, method="lanczos", probes=8, steps=40)
    assert calls[0] > at


def test_verifying_takes_no_product_more():
    made = [0]

    def product(v):
        made[0] += v.shape[1]
        return LADDER[:, None] * v

    operator = as_operator(product, N, dtype=F64)
    assert count_eigenvalues(operator, threshold=TAU, method="lanczos", probes=8, steps=40).products == made[0]
    made[0] = 0
    assert spectral_density(operator, probes=8, steps=40).products == made[0]


def test_a_resumed_run_answers_for_the_products_of_both_parts(tmp_path):
    state = tmp_path / "run"
    options = {"threshold": TAU, "method": "lanczos", "probes": 8, "precision": 1e-6, "state": state}
    good = as_operator(lambda v: LADDER[:, None] * v, N, dtype=F64)
    whole = count_eigenvalues(good, **{**options, "state": None}, steps=60)
    count_eigenvalues(good, **options, steps=30)
    resumed = count_eigenvalues(good, **options, steps=60)
    assert (resumed.negative, resumed.products) == (whole.negative, whole.products)
    state.unlink()
    with pytest.raises(ValueError, match="delete it"):  # the first part saves what its end refuses
        count_eigenvalues(wide(WRONG["2 % off"], limit=7), **options, steps=30)
    with pytest.raises(ValueError, match=r"must stay the same|another operator"):
        count_eigenvalues(good, **options, steps=60)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_sums_of_a_witness_are_those_of_the_products(dtype):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(50, 50, generator=generator, dtype=F64)
    matrix = (matrix + matrix.mT).to(dtype)
    kept = torch.arange(50) % 3 > 0
    witness = Witness()
    watched = witness.watch(Restricted(matrix, kept.nonzero().squeeze(1)), kept)
    assert witness.scaled() is None
    for columns in (1, 4, 63, 5000):
        block = torch.randn(int(kept.sum()), columns, generator=generator, dtype=F64).to(dtype)
        assert torch.equal(watched @ block, watched.base @ block)
    assert (watched @ block[:, 0]).shape == block[:, 0].shape
    watched @ torch.full_like(block, float("nan"))  # left out
    x, y = witness.scaled()
    assert not x[~kept].any()
    assert 0.5 < float(x.norm()) < 2
    error = (matrix.double() @ x - y)[kept].norm()
    assert error < 50 * torch.finfo(dtype).eps * torch.linalg.matrix_norm(matrix, 2)


# what is no linear map over its numbers


def drops(v):
    return (T @ v.real).to(v.dtype)


def conjugates(v):
    return T.to(v.dtype) @ v.conj()


@pytest.mark.parametrize("function", [drops, conjugates])
def test_a_complex_function_must_be_linear_over_complex_numbers(function):
    operator = as_operator(function, 60, dtype=torch.complex128)
    calls = [
        lambda: count_eigenvalues(operator, threshold=0.1),
        lambda: count_eigenvalues(operator, threshold=0.1, method="lanczos"),
        lambda: exact_eigenvalues(operator),
        lambda: inertia(operator, 0.1),
        lambda: spectral_density(operator, probes=2, steps=20),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"linear over complex numbers, A \(i v\) = i A v"):
            call()


def test_a_complex_function_that_is_linear_is_counted():
    half = torch.triu(torch.ones(60, 60, dtype=F64), 1) / 60
    matrix = torch.complex(T, half) + torch.complex(torch.zeros_like(T), -half.mT)
    matrix = (matrix + matrix.mH) / 2
    for dtype in (torch.complex128, torch.complex64):
        operator = as_operator(lambda v: matrix.to(v.dtype) @ v, 60, dtype=dtype)
        for method in ("exact", "lanczos"):
            counts = count_eigenvalues(operator, threshold=0.11, method=method)
            assert holds(counts, three(np.linalg.eigvalsh(matrix.numpy()), 0.11))


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("function", [lambda v: v**3, torch.abs, lambda v: T @ v + 1])
def test_a_function_that_is_not_linear_is_told_so(function, method):
    with pytest.raises(ValueError, match="must be linear"):
        count_eigenvalues(as_operator(function, 60, dtype=F64), threshold=0.1, method=method)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("last", range(1, 9))
def test_an_operator_that_changes_in_the_preflight_is_told_so(last, method):
    calls = [0]

    def product(v):
        calls[0] += 1
        return LADDER[:, None] * v if calls[0] <= last else (0.5 - LADDER[:, None]) * v

    with pytest.raises(ValueError, match=r"must stay the same|two products with the same vector"):
        count_eigenvalues(as_operator(product, N, dtype=F64), threshold=TAU, method=method)


# matrices in odd clothes


def repeated(number_type, form):
    """diag(300, 1) whose first entry is given as 100 three times."""
    if form == "torch":
        values = torch.tensor([100, 100, 100, 1], dtype=number_type)
        return torch.sparse_coo_tensor(torch.tensor([[0, 0, 0, 1]] * 2), values, (2, 2), check_invariants=True)
    values = np.array([100, 100, 100, 1], dtype=number_type)
    if form == "csr":
        return sp.csr_array((values, np.array([0, 0, 0, 1]), np.array([0, 3, 4])), shape=(2, 2))
    if form == "csc":
        return sp.csc_array((values, np.array([0, 0, 0, 1]), np.array([0, 3, 4])), shape=(2, 2))
    return sp.coo_array((values, ([0, 0, 0, 1], [0, 0, 0, 1])), shape=(2, 2))


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "torch"])
def test_what_is_there_twice_is_summed_in_float64(form):
    kinds = [torch.int8, torch.int16] if form == "torch" else [np.int8, np.uint8, np.int16, np.float64]
    for kind in kinds:
        matrix = repeated(kind, form)
        assert exact_eigenvalues(matrix).tolist() == [1, 300]
        assert count_eigenvalues(matrix, threshold=200).positive.lower == 1


def test_a_hybrid_sparse_tensor_is_its_dense_one():
    hybrid = torch.sparse_coo_tensor(
        torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]), (2, 2), check_invariants=True
    )
    assert exact_eigenvalues(hybrid).tolist() == [-1, 1]


@pytest.mark.parametrize("made", [lambda v: (T @ v).to_sparse(), lambda v: sp.coo_array((T @ v).numpy())])
def test_a_function_may_return_something_sparse(made):
    for method in ("exact", "lanczos"):
        assert holds(
            count_eigenvalues(as_operator(made, 60, dtype=F64), threshold=0.1, method=method),
            three(np.linalg.eigvalsh(A), 0.1),
        )


class Says:
    """An operator of one type that multiplies in another."""

    shape, device = (60, 60), "cpu"

    def __init__(self, says, multiplies):
        self.dtype, self.matrix = says, T.to(multiplies)

    def __matmul__(self, v):
        return self.matrix @ v


REFUSED = {
    "int64 duck": (lambda: count_eigenvalues(Says(torch.int64, torch.int64), threshold=0.1), "convert them"),
    "real over complex": (lambda: count_eigenvalues(Says(F64, torch.complex128), threshold=0.1), "convert them"),
    "half": (
        lambda: count_eigenvalues(as_operator(lambda v: (T @ v).half(), 60, dtype=F64), threshold=0.1),
        "in float32 or float64",
    ),
    "half array": (
        lambda: count_eigenvalues(as_operator(lambda v: (T @ v).numpy().astype("f2"), 60, dtype=F64), threshold=0.1),
        "in float32 or float64",
    ),
    "lists": (lambda: count_eigenvalues(A.tolist(), threshold=0.1), r"np\.array\(A\)"),
    "check of None": (lambda: check_operator(None), "as_operator takes"),
    "Lanczos of None": (lambda: Lanczos(None, torch.randn(60, 2)), "as_operator takes"),
    "Lanczos from an array": (lambda: Lanczos(A, np.ones((60, 2))), "probes must be a torch tensor"),
    "vectors of None": (lambda: negative_eigenvectors(None, 0.1, check_operator(A)), "as_operator takes"),
    "vectors without a check": (lambda: negative_eigenvectors(A, 0.1, 3), "check is what check_operator"),
    "generator of vectors": (
        lambda: negative_eigenvectors(A, 0.1, check_operator(A), generator=3),
        "generator must be",
    ),
    "generator of a check": (lambda: check_operator(A, generator=3), "generator must be"),
    "generator of a density": (lambda: spectral_density(A, generator=3), "generator must be"),
    "confidence in quotes": (lambda: count_eigenvalues(A, threshold=0.1, confidence="0.9"), "pass 0.9, without quotes"),
    "probes": (lambda: count_eigenvalues(A, threshold=0.1, probes=1.5), "pass 1 or 2"),
    "probes in quotes": (lambda: count_eigenvalues(A, threshold=0.1, probes="8"), "pass 8, without quotes"),
    "method": (lambda: count_eigenvalues(A, threshold=0.1, method=np.ones(2)), "method must be"),
    "basis": (lambda: count_eigenvalues(A, threshold=0.1, reorthogonalize=np.ones(2)), "reorthogonalize must be"),
    "S of a complex one": (
        lambda: count_eigenvalues(A + 0.1j * (np.eye(60, k=1) - np.eye(60, k=-1)), threshold=0.1, preconditioner=T),
        "preconditioner belongs to real operators.*leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name):
    call, match = REFUSED[name]
    with pytest.raises(ValueError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda:99", "banana", 99, "meta", -1, [1]])
def test_a_device_that_is_not_there_is_refused(device):
    for source in (A, T, sp.csr_array(A)):
        with pytest.raises(ValueError, match="device must be one that") as caught:
            as_operator(source, device=device)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="device must be one that"):
        as_operator(lambda v: v, 60, device=device)


@pytest.mark.parametrize("value", ["no", 2, 0, np.array([1, 2]), None])
def test_enumerating_is_asked_for_by_true(value):
    with pytest.raises(ValueError, match="enumerate_negative must be True or False"):
        count_eigenvalues(A, threshold=0.1, method="lanczos", enumerate_negative=value)


def test_what_takes_arrays_takes_them():
    check = check_operator(A)
    assert check.scale == pytest.approx(1, rel=0.05)
    assert negative_eigenvectors(A, 0.1, check).at_least == three(np.linalg.eigvalsh(A), 0.1)[0]
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(60, 2, generator=generator, dtype=F64)
    for source in (A, sp.csr_array(A), T):
        assert Lanczos(source, probes).extend(3).steps == 3


@pytest.mark.parametrize("precision", [5e-324, 1e-300, 1e-160, 1e-100])
def test_the_smallest_precision_is_one(precision):
    assert probes_for(precision, 60, 0.01) >= 10**9
    assert holds(
        count_eigenvalues(A, threshold=0.1, method="lanczos", precision=precision), three(np.linalg.eigvalsh(A), 0.1)
    )


# classify

BAD = {
    "counts": 3,
    "epsilon": "x",
    "kappa": 1.5,
    "alpha": [1],
    "gamma": "x",
    "radius": True,
    "rho": "x",
    "delta": "x",
    "lowest": "x",
    "search_steps": 1.5,
    "gradient_norm": "x",
    "value": "x",
    "compare_hessians": "x",
    "generator": 3,
}


@pytest.mark.parametrize("name", BAD)
def test_classify_refuses_by_name(name):
    with pytest.raises(ValueError, match=name):
        classify(A, **{"threshold": 0.1, "gradient_norm": 0.0, name: BAD[name]})
    if name in ("kappa", "search_steps"):
        for value in ("a", True):
            with pytest.raises(ValueError, match=name):
                classify(A, **{"threshold": 0.1, "gradient_norm": 0.0, name: value})


@pytest.mark.parametrize("size", [1e-300, 1e-155, 1e155, 1e300])
def test_classify_refuses_sizes_whose_squares_are_no_numbers(size):
    with pytest.raises(ValueError, match="classify takes operators of a size between"):
        classify(A * size, threshold=0.1 * size, gradient_norm=0.0)


@pytest.mark.parametrize("size", [1e-145, 1.0, 1e145])
def test_classify_takes_the_sizes_between(size):
    found = classify(A * size, threshold=0.1 * size, gradient_norm=0.0)
    assert holds(found.counts, three(np.linalg.eigvalsh(A), 0.1))
    assert found.saddle.answer == "holds"


# budgets


@pytest.mark.parametrize("preconditioner", [None, "ekfac", "subset"])
@pytest.mark.parametrize("method", ["lanczos", "elimination"])
def test_the_first_advice_suffices_with_a_preconditioner(method, preconditioner):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    data = torch.randn(100, 20), torch.randint(0, 3, (100,))
    hessian = Hessian(model, torch.nn.CrossEntropyLoss(), data, dtype=F64)

    def count(budget):
        return count_eigenvalues(
            hessian, threshold=1e-3, method=method, preconditioner=preconditioner, max_products=budget
        )

    with pytest.raises(ValueError, match="raise it to at least") as caught:
        count(10)
    enough = int(str(caught.value).rsplit(" ", 1)[1])
    assert count(enough).products <= enough


# the command

SMALL = "doors_problems:small"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a problem of 39 parameters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doors_problems.py").write_text(
        "import torch\n"
        "def small():\n"
        "    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))\n"
        "    return model, torch.nn.CrossEntropyLoss(), (torch.randn(20, 4), torch.randint(0, 2, (20,)))\n"
    )
    return tmp_path


@pytest.mark.parametrize("after", [0.3, 0.8, 1.5])
def test_an_interrupt_while_it_is_imported_is_one_line(here, after):
    process = subprocess.Popen(
        [sys.executable, "-m", "lanczos_saddle", "count", SMALL, "--threshold", "1e-3"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode:  # 0: a fast machine
        assert (process.returncode, err) == (130, "lanczos-saddle: interrupted by SIGINT\n")


def test_importing_the_library_leaves_signals_alone():
    code = "import signal; before = signal.getsignal(2); import lanczos_saddle; assert signal.getsignal(2) is before"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_output_that_is_closed_is_a_failure(here):
    shell = f"{sys.executable} -m lanczos_saddle count {SMALL} --threshold 1e-3 >&-"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "lanczos-saddle: standard output took not all: it is closed\n")


def test_a_full_disk_is_told_with_the_name_of_the_file(here, capfd):
    assert main(["count", SMALL, "--threshold", "1e-3", "--json", "/dev/full"]) == 1
    err = capfd.readouterr().err
    assert err.count("/dev/full") == err.count("\n") == 1
    assert "/dev/full could not be written: No space left on device" in err


def test_bench_refuses_a_negative_dimension(here, capfd):
    assert main(["bench", SMALL, "--exact-up-to", "-1"]) == 2
    assert "must be a whole number of at least 0; got -1" in capfd.readouterr().err
