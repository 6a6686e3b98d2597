"""The state of a count: a resumed run is the run that was not interrupted, on whatever machine; or it is refused.

The oracle is the uninterrupted run without a state file, and exact counts of matrices whose eigenvalues are known.
"""

import errno
import itertools
import json
import os

import numpy as np
import pytest
import torch
from matrices import Interrupting
from safetensors.torch import load_file, save_file

from lanczos_saddle import Interrupted, count_eigenvalues
from lanczos_saddle.counting import planning as plan_module
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine import states as states_module
from lanczos_saddle.machine.journal import is_journal
from lanczos_saddle.machine.states import KEY, read_plan
from lanczos_saddle.operators.operator import as_operator

N, TAU = 300, 1e-2


def values():
    return torch.cat([torch.linspace(-1, 2, 200, dtype=torch.float64), torch.zeros(N - 200, dtype=torch.float64)])


def matrix(seed=0):
    q = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    h = (q * values()) @ q.mT
    return (h + h.mT) / 2


H = matrix()


def counted(operator=H, **options):
    return count_eigenvalues(
        operator, **{"threshold": TAU, "method": "lanczos", "probes": 4, "precision": 1e-9, **options}
    )


def answer(counts):
    """Everything that a run says, to the last bit."""
    run = counts.evidence.run
    return (
        (counts.negative, counts.near_zero, counts.positive, counts.threshold, counts.steps, counts.probes),
        counts.products,
        run.diagonal.tobytes(),
        run.offdiagonal.tobytes(),
        run.norms.tobytes(),
    )


class Stopping(Interrupting):
    """H, where no other matrix is named."""

    def __init__(self, stop=None, matrix=H):
        super().__init__(matrix, stop)


@pytest.fixture(params=[True, False], ids=["basis", "no basis"])
def basis(request):
    return request.param


# the same run


@pytest.mark.parametrize("first", [1, 16, 20, 21, 43])
def test_a_resumed_run_says_the_same_to_the_last_bit(tmp_path, basis, first):
    whole = counted(steps=60, reorthogonalize=basis)
    counted(steps=first, reorthogonalize=basis, state=tmp_path / "run")
    resumed = counted(steps=60, state=tmp_path / "run")
    assert answer(resumed) == answer(whole)


def test_it_stops_where_the_uninterrupted_run_stops(tmp_path):
    """Looks are at the same steps: a run that was cut between two of them is not judged earlier."""
    whole = counted(precision=0.1)
    assert "precision" in whole.stopped
    before = Stopping()
    counted(before, precision=0.1)
    for stop in range(before.calls - 12, before.calls - 1):
        path = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            counted(Stopping(stop), precision=0.1, state=path)
        assert answer(counted(precision=0.1, state=path)) == answer(whole)


def test_an_interrupt_carries_what_is_known_and_saves_it(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        counted(Stopping(60), state=path)
    known = stopped.value.counts
    assert known.stopped == "interrupted"
    assert 1 <= known.steps < 60
    for interval, low, high in ((known.negative, -9, -TAU), (known.near_zero, -TAU, TAU), (known.positive, TAU, 9)):
        assert int(((values() > low) & (values() < high)).sum()) in interval
    assert load_file(path)["alpha"].shape == (4, known.steps)
    assert sorted(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt) as early:  # in the preflight, nothing is known
        counted(Stopping(3), state=tmp_path / "other")
    assert not isinstance(early.value, Interrupted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run"]
    rest = Stopping()
    assert answer(counted(rest, state=tmp_path / "other")) == answer(counted())
    whole = Stopping()
    counted(whole)
    assert rest.columns <= whole.columns + 4  # the first block again, by which the operator is known


def test_an_interrupt_of_the_last_step_carries_it_too(tmp_path, monkeypatch):
    """The bounds of the whole basis come after the last product; without them the intervals hold as well."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanczos_saddle.counting.deepening.compress", interrupted)
    with pytest.raises(Interrupted) as stopped:
        counted(steps=30, state=tmp_path / "run")
    assert stopped.value.counts.steps == 30
    monkeypatch.undo()
    assert answer(counted(steps=30, state=tmp_path / "run")) == answer(counted(steps=30))


@pytest.mark.parametrize("method", ["lanczos", "exact"])
def test_an_interrupt_of_the_last_product_carries_the_counts(tmp_path, method):
    """Which verifies the others, and takes long where one product does."""
    whole, options = Stopping(), {"steps": 30, "method": method, "state": tmp_path / "run"}
    expected = counted(whole, **{**options, "state": None})
    with pytest.raises(Interrupted) as stopped:
        counted(Stopping(whole.calls), **options)
    known = stopped.value.counts
    for name in ("negative", "near_zero", "positive"):
        assert getattr(known, name) == getattr(expected, name)
    assert known.stopped == "interrupted"
    found = counted(Stopping(), **options)
    assert (found.negative, found.near_zero, found.products) == (expected.negative, known.near_zero, expected.products)


@pytest.mark.parametrize("kept", [True, False])
def test_what_auto_decided_holds_whatever_memory_is_free_later(tmp_path, monkeypatch, kept):
    free = {True: 10**12, False: 10**5}
    whole = counted(steps=60, reorthogonalize=kept)
    monkeypatch.setattr(plan_module, "available_bytes", lambda _: free[kept])
    counted(steps=20, state=tmp_path / "run")
    assert read_plan(tmp_path / "run").reorthogonalize is kept
    monkeypatch.setattr(plan_module, "available_bytes", lambda _: free[not kept])
    monkeypatch.setattr("lanczos_saddle.machine.memory.available_bytes", lambda _: 10**9)
    for choice in ("auto", kept):
        assert answer(counted(steps=60, state=tmp_path / "run", reorthogonalize=choice)) == answer(whole)
    content = (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match=f"started with reorthogonalize = {kept}, got {not kept}"):
        counted(steps=60, state=tmp_path / "run", reorthogonalize=not kept)
    assert (tmp_path / "run").read_bytes() == content


def test_probes_that_were_planned_from_the_precision_are_kept(tmp_path):
    """A finer precision plans more probes: a run that goes on to it has those that it began with."""
    first = counted(probes=None, precision=0.2, steps=16, state=tmp_path / "run")
    finer = {"precision": 0.02, "steps": 40}
    fresh = counted(probes=None, **finer)
    assert fresh.probes > first.probes
    resumed = counted(probes=None, state=tmp_path / "run", **finer)
    assert resumed.probes == first.probes
    assert answer(resumed) == answer(counted(probes=first.probes, **finer))


def test_a_budget_that_a_pilot_divided_is_divided_once(tmp_path, monkeypatch):
    options = {"probes": None, "max_products": 200}
    whole = counted(**options)
    with pytest.raises(Interrupted):
        counted(Stopping(45), **options, state=tmp_path / "run")
    monkeypatch.setattr(
        "lanczos_saddle.counting.sampled.pilot", None
    )  # another machine's rounding might divide otherwise
    resumed = counted(**options, state=tmp_path / "run")
    assert answer(resumed) == answer(whole)
    assert resumed.products <= 200
    deeper = counted(probes=None, max_products=400, state=tmp_path / "run")
    assert deeper.probes == whole.probes
    assert whole.steps < deeper.steps
    assert deeper.products <= 400


def test_a_plan_that_takes_vectors_out_goes_on(tmp_path):
    """The same plan with a state as without; its vectors are the file's, and no product finds them again."""
    ends = torch.cat([50 * torch.logspace(0, -2, 40), -8 * torch.logspace(0, -1, 15)]).double()
    small = 1e-5 * torch.randn(845, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(900, 900, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    h = (q * torch.cat([ends, small])) @ q.mT
    h, options = (h + h.mT) / 2, {"probes": None, "precision": 0.05, "max_products": 600}
    before = Stopping(None, h)
    whole = counted(before, **options)
    assert "deflated" in whole.plan
    assert (whole.negative.lower, whole.positive.lower) == (15, 40)
    for stop in (before.calls - 8, before.calls - 3):
        path, rest = tmp_path / str(stop), Stopping(None, h)
        with pytest.raises(Interrupted):
            counted(Stopping(stop, h), **options, state=path)
        resumed = counted(rest, **options, state=path)
        assert (answer(resumed), resumed.spent, resumed.plan) == (answer(whole), whole.spent, whole.plan)
        assert rest.calls < before.calls / 4
    with pytest.raises(ValueError, match=r"another operator|another kind of run"):
        counted(1.001 * h, **options, state=path)


def test_enumerated_vectors_are_kept(tmp_path, monkeypatch):
    """How many fit depends on memory and budget; the probes of a run are orthogonal to those it began with."""
    options = {"enumerate_negative": True}
    whole = counted(steps=30, **options)
    counted(steps=10, state=tmp_path / "run", **options)
    monkeypatch.setattr("lanczos_saddle.counting.sampled.negative_eigenvectors", None)
    resumed = counted(steps=30, state=tmp_path / "run", **options)
    assert answer(resumed) == answer(whole)


def test_a_relative_threshold_is_the_file_s_own(tmp_path, monkeypatch):
    """The largest |eigenvalue| is found to rounding, which differs between machines."""
    options = {"threshold": None, "relative_threshold": 5e-3}
    first = counted(steps=10, state=tmp_path / "run", **options)
    from lanczos_saddle.counting import count as counting

    exact = counting.continue_search
    monkeypatch.setattr(counting, "continue_search", lambda *a, **k: exact(*a, **k) * (1 + 1e-9))
    resumed = counted(steps=20, state=tmp_path / "run", **options)
    assert resumed.threshold == first.threshold


# refused


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"operator": matrix(seed=1)}, "another operator"),
        ({"operator": H * (1 + 1e-9)}, "another operator"),
        ({"operator": H + 1e-9 * torch.diag((torch.arange(N) == 7).double())}, "another operator"),
        ({"operator": H[:299, :299]}, "another kind of run"),
        ({"operator": H.float()}, "another kind of run"),
        ({"threshold": 2 * TAU}, f"threshold = {TAU}, got {2 * TAU}"),
        ({"threshold": [TAU, 2 * TAU]}, r"thresholds beside it = \[\], got \[2\.0\]"),
        ({"probes": 5}, "probes = 4, got 5"),
        ({"generator": torch.Generator().manual_seed(5)}, "other probes"),
        ({"enumerate_negative": True}, "enumerate_negative = False, got True"),
        ({"null_vectors": torch.linalg.eigh(H).eigenvectors[:, 67:69]}, "null_vectors = 0, got 2"),
        ({"preconditioner": torch.eye(N, dtype=torch.float64)}, "preconditioner = None, got"),
        ({"method": "exact"}, "method = lanczos, got exact"),
    ],
)
def test_another_run_is_refused_and_the_file_left(tmp_path, other, message):
    path = tmp_path / "run"
    counted(steps=10, state=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as refused:
        counted(**{"steps": 20, "state": path, **other})
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


def test_another_operator_in_float32_is_seen_up_to_its_noise(tmp_path):
    """Whose rounding is 1e-7: a change of 1e-5 is none of it."""
    single = H.float()
    whole = counted(single, steps=20)
    counted(single, steps=10, state=tmp_path / "run")
    with pytest.raises(ValueError, match="another operator"):
        counted(single * (1 + 1e-5), steps=20, state=tmp_path / "run")
    assert answer(counted(single, steps=20, state=tmp_path / "run")) == answer(whole)
    with pytest.raises(ValueError, match="another kind of run"):  # whose noise could not be measured
        counted(Blocked(single), steps=20, state=tmp_path / "run")
    counted(Blocked(single, 11), steps=10, state=tmp_path / "blocked")
    shuffled = Blocked(single)  # the same matrix, summed in another order
    assert counted(shuffled, steps=20, state=tmp_path / "blocked").steps == 20


@pytest.mark.parametrize("basis", [True, False])
def test_a_measured_noise_survives_a_state(tmp_path, basis):
    """Sums, their random numbers and what was multiplied beforehand go on where they stood."""
    single, options = H.float(), {"reorthogonalize": basis}
    whole = counted(single, steps=20, **options)
    counted(single, steps=10, state=tmp_path / "run", **options)
    resumed = counted(single, steps=20, state=tmp_path / "run", **options)
    assert whole.evidence.noise.measured
    assert resumed.evidence.noise.measured
    assert resumed.evidence.delta == pytest.approx(whole.evidence.delta, rel=1e-6)
    assert (answer(resumed), resumed.spent) == (answer(whole), whole.spent)
    with pytest.raises(ValueError, match="another kind of run"):
        counted(H, steps=20, state=tmp_path / "run", **options)


class Blocked(Stopping):
    """H in float32, its products summed over pieces from the end."""

    def __init__(self, matrix, piece=7):
        super().__init__(None, matrix)
        self.piece = piece

    def __matmul__(self, v):
        k = self.piece
        return sum(self.matrix[:, i : i + k] @ v[i : i + k] for i in range(N - N % k, -1, -k))


def _of_another_version(path):
    tensors = load_file(path)
    save_file(tensors, path, metadata={KEY: json.dumps({"format": 999, "facts": {}, "sum": 0})})


def _spoiled(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _facts(path):
    """A plan that was written by hand: the threshold."""
    content = path.read_bytes()
    assert content.count(b'\\"threshold\\": 0.01') == 1
    path.write_bytes(content.replace(b'\\"threshold\\": 0.01', b'\\"threshold\\": 0.02'))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "truncated header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "text": lambda path: path.write_text("no state\n"),
    "random": lambda path: path.write_bytes(np.random.default_rng(0).bytes(10_000)),
    "numpy": lambda path: np.zeros(3).tofile(path),
    "weights": lambda path: save_file({"alpha": torch.zeros(2)}, path),
    "no header": lambda path: save_file(load_file(path), path),
    "version": _of_another_version,
    "one bit of the last tensor": lambda path: _spoiled(path, -3),
    "one bit in the middle": lambda path: _spoiled(path, len(path.read_bytes()) // 2),
    "the plan": _facts,
    "a run without a plan": lambda path: _plain(path),
}


def _plain(path):
    run = Lanczos(as_operator(H), torch.ones(N, 4, dtype=torch.float64))
    run.extend(3)
    run.save(path)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_and_foreign_files_are_refused_in_one_line_and_left(tmp_path, damage):
    path = tmp_path / "run"
    counted(steps=10, state=path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=str(path)) as refused:
        counted(steps=20, state=path, threshold=0.02 if damage is _facts else TAU)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_of_what_was_decided_is_refused(tmp_path):
    """What is read before all tensors are: the plan, and what was found before the run."""
    path, rng = tmp_path / "run", np.random.default_rng(0)
    counted(steps=10, state=path)
    content = path.read_bytes()
    begin, end = content.index(b"facts"), content.index(b"}", content.index(b"beginning"))
    for at in rng.integers(begin, end, 50):
        spoiled = bytearray(content)
        spoiled[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=str(path)) as refused:
            counted(steps=20, state=path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "dir", "fifo", "/dev/null", "loop", "file/x", "a\0b", 3])
def test_what_cannot_be_a_state_is_refused_before_any_product(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo("fifo")
    operator = Stopping()
    with pytest.raises(ValueError, match=r"written to a file|read back from a file|names a file"):
        counted(operator, state=name)
    assert operator.calls == 0


def test_a_link_to_a_state_stays_one(tmp_path):
    (tmp_path / "link").symlink_to("sub/run")
    whole = counted(steps=60)
    for steps in (20, 60):
        resumed = counted(steps=steps, state=tmp_path / "link")
    assert answer(resumed) == answer(whole)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["run"]


# a full disk


def test_a_state_that_cannot_be_saved_does_not_end_the_run(tmp_path, monkeypatch):
    path = tmp_path / "run"
    counted(steps=16, state=path)
    before = path.read_bytes()
    real, full = os.fsync, itertools.chain([False], itertools.repeat(True))

    def fsync(descriptor):
        if next(full):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(
        RuntimeWarning, match=r"could not be saved: .*No space left on device; the count goes on"
    ) as seen:
        counts = counted(steps=60, state=path)
    assert len(seen) == 1
    assert answer(counts) == answer(counted(steps=60))
    assert "No space left" in counts.unsaved
    assert path.read_bytes() == before  # the look at 16 was saved once more, later ones were not
    assert sorted(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert counted(steps=60, state=path).unsaved is None


def test_what_the_writer_of_the_format_says_counts_as_a_full_disk(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise states_module.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(states_module, "save_file", failing)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert counted(steps=20, state=tmp_path / "run").unsaved
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert is_journal(tmp_path / "run")  # what came before the recurrence could be written


# the old name


def test_the_old_name_works_for_one_release(tmp_path):
    with pytest.warns(DeprecationWarning, match="checkpoint= is now state=") as seen:
        first = counted(steps=20, checkpoint=tmp_path / "run")
    assert seen[0].filename == __file__
    assert answer(counted(steps=20, state=tmp_path / "run")) == answer(first)
    with pytest.raises(ValueError, match="got both"):
        counted(state=tmp_path / "run", checkpoint=tmp_path / "run")
