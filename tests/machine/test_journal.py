"""What a count made before its recurrence: taken up to the last bit, or refused in one line; never a wrong count.

The oracle is the count that was not interrupted and kept nothing.
"""

import errno
import os
import random
import re
import resource
import warnings

import pytest
import torch
from matrices import Interrupting, seeded

from lanczos_saddle import Interrupted, count_eigenvalues
from lanczos_saddle.machine import journal as journal_module
from lanczos_saddle.machine.journal import MAGIC, Journal, is_journal

N, TAU, STOP = 120, 1e-2, 16
CPU = torch.device("cpu")


def matrix(seed=0):
    values = torch.cat([torch.linspace(-1, 2, 80, dtype=torch.float64), torch.zeros(N - 80, dtype=torch.float64)])
    q = torch.linalg.qr(torch.randn(N, N, generator=seeded(seed), dtype=torch.float64)).Q
    h = (q * values) @ q.mT
    return (h + h.mT) / 2


H = matrix()


class Stopping(Interrupting):
    """H, where no other matrix is named."""

    def __init__(self, stop=None, matrix=H):
        super().__init__(matrix, stop)


OPTIONS = {
    "threshold": TAU,
    "method": "lanczos",
    "probes": 2,
    "steps": 20,
    "precision": 1e-9,
    "enumerate_negative": True,
    "preconditioner": None,
}


def counted(operator=None, **options):
    return count_eigenvalues(Stopping() if operator is None else operator, **{**OPTIONS, **options})


def answer(counts):
    run = counts.evidence.run
    three = (counts.negative, counts.near_zero, counts.positive)
    return three, counts.threshold, dict(counts.spent), counts.check, run.diagonal.tobytes(), run.offdiagonal.tobytes()


@pytest.fixture
def begun(tmp_path):
    """A count that was interrupted in its enumeration."""
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        counted(Stopping(STOP), state=path)
    assert not isinstance(stopped.value, Interrupted)
    assert is_journal(path)
    return path


WHOLE = Stopping()
EXPECTED = answer(counted(WHOLE))


def test_an_interrupted_enumeration_goes_on(begun, tmp_path):
    first, rest = Stopping(STOP), Stopping()
    with pytest.raises(KeyboardInterrupt):
        counted(first)
    assert answer(counted(rest, state=begun)) == EXPECTED
    again = 4 + 2 + 8  # the first block of the preflight, of the dead coordinates and of the enumeration
    assert rest.columns <= WHOLE.columns - first.columns + 8 + again
    assert not is_journal(begun)  # the recurrence has saved itself in its place
    assert list(tmp_path.iterdir()) == [begun]
    assert answer(counted(state=begun)) == EXPECTED


def test_a_file_grows_by_what_is_new(begun):
    before = begun.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        counted(Stopping(12), state=begun)
    after = begun.read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    assert answer(counted(state=begun)) == EXPECTED


@pytest.mark.parametrize("left", ["a byte", "half", "the arguments", "nothing beyond them"])
def test_a_file_that_was_cut_goes_on_from_what_is_whole(begun, left):
    content = begun.read_bytes()
    head = content.index(b"rec\n", len(MAGIC) + 40)
    sizes = {
        "a byte": len(content) - 1,
        "half": len(content) // 2,
        "the arguments": head + 3,
        "nothing beyond them": head,
    }
    begun.write_bytes(content[: sizes[left]])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert answer(counted(state=begun)) == EXPECTED
    assert len(said) == (left != "nothing beyond them")
    assert all("not whole" in str(one.message) for one in said)


@pytest.mark.parametrize("size", [0, 5, len(MAGIC), len(MAGIC) + 10])
def test_a_file_without_its_beginning_is_refused(begun, size):
    begun.write_bytes(begun.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"must be a state|cannot be read") as refused:
        counted(state=begun)
    assert "\n" not in str(refused.value)
    assert begun.stat().st_size == size


def test_a_flipped_bit_is_never_counted_with(begun):
    """Anywhere: what it spoils is made again, or the file is refused."""
    content, rng, refused = begun.read_bytes(), random.Random(0), 0
    for _ in range(25):
        spoiled = bytearray(content)
        spoiled[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        begun.write_bytes(spoiled)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = counted_or_refused(begun)
        assert found == EXPECTED or (str(begun) in found and "\n" not in found)
        refused += found != EXPECTED
    assert refused < 5


def counted_or_refused(path):
    """The answer, or the words of the refusal."""
    try:
        return answer(counted(state=path))
    except ValueError as error:
        return str(error)


CHANGED = {
    "another matrix": ({"operator": Stopping(None, matrix(1))}, "to other weights or to other data"),
    "a little": ({"operator": Stopping(None, H * (1 + 1e-9))}, "to other weights or to other data"),
    "size": ({"operator": Stopping(None, H[:90, :90])}, r"N = 120, got 90"),
    "type": ({"operator": Stopping(None, H.float())}, r"dtype = torch\.float64, got torch\.float32"),
    "threshold": ({"threshold": 2e-2}, r"threshold = 0\.01, got 0\.02"),
    "relative": ({"threshold": None, "relative_threshold": 1e-2}, r"threshold = 0\.01, got None"),
    "several": ({"threshold": [1e-2, 2e-2]}, r"threshold = 0\.01, got"),
    "method": ({"method": "exact", "enumerate_negative": False}, "method = lanczos, got exact"),
    "probes": ({"probes": 3}, "probes = 2, got 3"),
    "budget": ({"max_products": 500}, "max_products = None, got 500"),
    "enumeration": ({"enumerate_negative": False}, "enumerate_negative = True, got False"),
    "seed": ({"generator": seeded(7)}, "another generator"),
    "null vectors": ({"null_vectors": torch.linalg.eigh(H).eigenvectors[:, 30:31]}, "another null_vectors"),
}


@pytest.mark.parametrize(("change", "message"), CHANGED.values(), ids=CHANGED.keys())
def test_another_count_is_refused_and_the_file_left(begun, change, message):
    before = begun.read_bytes()
    with pytest.raises(ValueError, match=message) as refused:
        counted(**change, state=begun)
    assert "\n" not in str(refused.value)
    assert str(begun) in str(refused.value)
    assert begun.read_bytes() == before


def test_another_version_is_refused(begun, monkeypatch):
    monkeypatch.setattr("lanczos_saddle.__version__", "99.0")
    with pytest.raises(ValueError, match=r"lanczos_saddle = .*, got 99\.0"):
        counted(state=begun)


def test_another_way_of_rounding_is_refused_where_products_do_not_fit(begun):
    """Vectors of another number of threads differ in the last bit: what was made with theirs is of no use here."""
    content = begun.read_bytes()
    made = Journal(begun, {}, {"torch": "1.0", "threads": torch.get_num_threads(), "device": "cpu"})
    with pytest.raises(ValueError, match=rf"made with torch {re.escape(torch.__version__)} \(here 1\.0\)"):
        made.product("H", torch.ones(N, 1, dtype=torch.float64), lambda v: v)
    assert begun.read_bytes() == content


# the disk


def test_a_full_disk_is_warned_of_once_and_nothing_is_wrong(begun, monkeypatch):
    before = begun.read_bytes()
    monkeypatch.setattr(journal_module, "INTERVAL", 0.0)

    def full(descriptor, content, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    words = "could not be saved: .*No space left on device; the count goes on"
    with pytest.warns(RuntimeWarning, match=words) as seen, pytest.raises(KeyboardInterrupt):
        counted(Stopping(10), state=begun)
    assert len(seen) == 1
    assert begun.read_bytes() == before
    monkeypatch.undo()
    assert answer(counted(state=begun)) == EXPECTED


def test_a_limit_of_the_system_is_a_full_disk(begun):
    """A record that does not fit whole is not there at all."""
    before, (soft, hard) = begun.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
    try:
        with pytest.warns(RuntimeWarning, match="File too large"), pytest.raises(KeyboardInterrupt):
            counted(Stopping(10), state=begun)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert begun.read_bytes() == before
    assert answer(counted(state=begun)) == EXPECTED


def test_a_result_says_what_was_not_saved(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Journal, "_write", full)
    own = torch.diag(torch.linspace(1, 2, N, dtype=torch.float64))
    options = {"preconditioner": own, "enumerate_negative": False, "state": tmp_path / "run"}
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert "No space left" in counted(**options).unsaved
    monkeypatch.undo()
    assert counted(**options).unsaved is None
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_a_file_takes_at_most_half_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module.shutil, "disk_usage", lambda _: Free(40_000))
    words = "more than half of what its disk had free"
    with pytest.warns(RuntimeWarning, match=words), pytest.raises(KeyboardInterrupt):
        counted(Stopping(STOP), state=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


class Free:
    def __init__(self, free):
        self.free = free


# what is kept


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_tensors_come_back_as_they_lay_in_memory(tmp_path, kind):
    made = torch.randn(6, 4, generator=seeded(), dtype=torch.float64).to(kind)
    shapes = [made, made.mT, made[:, :1], made[0], made[::2], torch.zeros(0, 3, dtype=kind)]
    path = tmp_path / "run"
    first = Journal(path, {}, {})
    given = [first.product("A", torch.full((3, 1), float(i)), lambda _, t=t: t) for i, t in enumerate(shapes)]
    first.flush()
    second = Journal(path, {}, {})
    for i, (t, before) in enumerate(zip(shapes, given, strict=True)):
        found = second.product("A", torch.full((3, 1), float(i)), lambda _, t=t: t.clone())
        assert torch.equal(found, t)
        assert (found.dtype, found.stride()) == (before.dtype, before.stride())


def test_answers_come_back_in_order_and_products_for_their_own_vectors_only(tmp_path):
    path, v = tmp_path / "run", torch.ones(3, 2, dtype=torch.float64)
    first = Journal(path, {}, {})
    assert [first.answer("free", lambda n=n: n) for n in (5, 7)] == [5, 7]
    first.product("A", v, lambda v: 2 * v)
    first.prefix = "other "
    first.product("A", v, lambda v: 3 * v)
    first.flush()
    second = Journal(path, {}, {})
    assert [second.answer("free", lambda: 9) for _ in range(3)] == [5, 7, 9]
    assert torch.equal(second.product("A", v, lambda v: 2 * v), 2 * v)
    assert torch.equal(second.product("A", v, lambda v: 4 * v), 4 * v)  # asked for a second time: made
    assert torch.equal(second.product("A", 2 * v, lambda v: 5 * v), 10 * v)
    assert torch.equal(second.product("A", v.float(), lambda v: 6 * v), 6 * v.float())
    assert second.found == 2
