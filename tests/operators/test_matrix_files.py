"""Matrix files: read as they were written, by whoever wrote them; refused with the reason where they are no matrix."""

import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

from lanczos_saddle import as_operator, count_eigenvalues, load_matrix
from lanczos_saddle.cli.entry import main
from lanczos_saddle.operators import matrix_files
from lanczos_saddle.operators.hermitian import Hermitian

RNG = np.random.default_rng(0)
DENSE = (lambda a: (a + a.T) / 2)(RNG.standard_normal((30, 30)))
SPARSE = (lambda a: sp.csr_array(a + a.T))(sp.random_array((40, 40), density=0.2, rng=np.random.default_rng(1)))
VALUES = np.linalg.eigvalsh(DENSE)


def test_what_numpy_and_scipy_wrote_is_read_back(tmp_path):
    np.save(tmp_path / "a.npy", DENSE)
    np.savez_compressed(tmp_path / "a.npz", DENSE)
    np.save(tmp_path / "f.npy", np.asfortranarray(DENSE))
    scipy.io.mmwrite(tmp_path / "a.mtx", DENSE, symmetry="symmetric", precision=17)
    for name in ("a.npy", "a.npz", "f.npy", "a.mtx"):
        np.testing.assert_array_equal(load_matrix(tmp_path / name), DENSE)
    sp.save_npz(tmp_path / "s.npz", SPARSE)
    for stored in ("general", "symmetric"):
        scipy.io.mmwrite(tmp_path / f"{stored}.mtx", SPARSE, symmetry=stored, precision=17)
    for name in ("s.npz", "general.mtx", "symmetric.mtx"):
        assert abs(load_matrix(str(tmp_path / name)) - SPARSE).max() == 0


def test_one_triangle_that_is_stored_is_both(tmp_path):
    # written by hand: three entries, of which one stands for two
    (tmp_path / "a.mtx").write_text("%%MatrixMarket matrix coordinate real symmetric\n2 2 3\n1 1 1\n2 1 2\n2 2 -1\n")
    np.testing.assert_array_equal(load_matrix(tmp_path / "a.mtx").toarray(), [[1, 2], [2, -1]])
    (tmp_path / "h.mtx").write_text(
        "%%MatrixMarket matrix coordinate complex hermitian\n2 2 3\n1 1 1 0\n2 1 0 2\n2 2 1 0\n"
    )
    np.testing.assert_array_equal(load_matrix(tmp_path / "h.mtx").toarray(), [[1, -2j], [2j, 1]])
    assert isinstance(as_operator(tmp_path / "h.mtx"), Hermitian)


def test_float32_is_multiplied_in_float64_unless_asked_otherwise(tmp_path):
    single = DENSE.astype(np.float32)
    np.save(tmp_path / "a.npy", single)
    sp.save_npz(tmp_path / "s.npz", SPARSE.astype(np.float32))
    assert load_matrix(tmp_path / "a.npy").dtype == np.float32
    assert torch.equal(as_operator(tmp_path / "a.npy"), torch.from_numpy(single).double())
    v = torch.randn(40, 2, dtype=torch.float64)
    image = as_operator(tmp_path / "s.npz") @ v
    np.testing.assert_allclose(image.numpy(), SPARSE.astype(np.float32).astype(float) @ v.numpy(), rtol=0, atol=1e-13)
    assert as_operator(tmp_path / "s.npz", dtype=torch.float32).dtype == torch.float32


REFUSED = {
    "b.npy": (
        DENSE + np.triu(np.ones((30, 30)), 1),
        r"must be symmetric.*b.npy is off by 1\.0e\+00 .* at \(\d+, \d+\)",
    ),
    "t.npy": (np.tril(RNG.standard_normal((9, 9))), "must be symmetric"),
    "r.npy": (np.ones((2, 3)), r"is square.*\(2, 3\)"),
    "v.npy": (np.ones(4), r"is square.*\(4,\)"),
    "e.npy": (np.ones((0, 0)), "is square"),
    "n.npy": (np.array([[1.0, np.nan], [np.nan, 1.0]]), r"must be finite; n.npy has 2 that are not.*row 0, column 1"),
    "c.npy": (np.array([[1, 2j], [2j, 1]]), "must be Hermitian"),
    "s.npy": (np.array([["a", "b"], ["c", "d"]]), "must be made of numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_real_eigenvalues_is_refused(name, tmp_path):
    matrix, said = REFUSED[name]
    np.save(tmp_path / name, matrix)
    with pytest.raises(ValueError, match=said):
        as_operator(tmp_path / name)


def test_objects_are_never_unpickled(tmp_path):
    class Runs:
        def __reduce__(self):
            return (pytest.fail, ("a file ran code",))

    bad = np.array([[Runs(), 1], [1, 2]], dtype=object)
    np.save(tmp_path / "o.npy", bad, allow_pickle=True)
    np.savez(tmp_path / "o.npz", bad, allow_pickle=True)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match="arrays of objects run code"):
            load_matrix(tmp_path / name)


DAMAGED = {
    "x.mtx": b"hello\n",
    "y.mtx": b"%%MatrixMarket matrix coordinate real symmetric\n3 3 2\n1 1 1.0\n",
    "x.npz": b"PK\x03\x04 and no more",
    "x.npy": b"\x93NUMPY and no more",
    "y.npy": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_in_one_line(name, tmp_path):
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=f"{name} must hold one matrix of numbers") as caught:
        load_matrix(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_archives_and_names_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=DENSE, b=DENSE)
    with pytest.raises(ValueError, match=r"has one array; two\.npz has a, b"):
        load_matrix(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="there is no file"):
        load_matrix(tmp_path / "none.npy")
    with pytest.raises(ValueError, match=r"ends in \.mtx"):
        as_operator("matrix.csv")
    (tmp_path / "k.mtx").write_text("%%MatrixMarket matrix coordinate real skew-symmetric\n2 2 1\n2 1 1\n")
    with pytest.raises(ValueError, match="skew-symmetric"):
        load_matrix(tmp_path / "k.mtx")


def test_a_triangle_that_says_it_is_all_is_told_so(tmp_path):
    scipy.io.mmwrite(tmp_path / "t.mtx", sp.tril(SPARSE).tocoo(), symmetry="general")
    with pytest.raises(ValueError, match="one triangle alone is stored"):
        load_matrix(tmp_path / "t.mtx")


def test_sizes_in_the_header_are_held_against_memory(tmp_path, monkeypatch):
    huge = 10**12
    (tmp_path / "big.mtx").write_text(f"%%MatrixMarket matrix coordinate real symmetric\n{huge} {huge} 1\n1 1 1.0\n")
    with pytest.raises(ValueError, match=r"reading big.mtx takes .* GiB"):
        load_matrix(tmp_path / "big.mtx")
    np.save(tmp_path / "a.npy", DENSE)
    np.savez_compressed(tmp_path / "a.npz", DENSE)
    monkeypatch.setattr(matrix_files, "COPIES", 10**12)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=r"takes .* GiB"):
            load_matrix(tmp_path / name)


def test_indices_beyond_a_sparse_matrix_are_refused(tmp_path):
    whole = SPARSE.copy()
    indices = whole.indices.copy()
    indices[3] = 4000
    np.savez(
        tmp_path / "s.npz", format=b"csr", shape=whole.shape, data=whole.data, indices=indices, indptr=whole.indptr
    )
    with pytest.raises(ValueError, match=r"s.npz must hold one matrix"):
        load_matrix(tmp_path / "s.npz")


def test_the_commands_take_matrix_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", DENSE)
    wanted = [int((VALUES < -1).sum()), int((abs(VALUES) <= 1).sum()), int((VALUES > 1).sum())]
    assert main(["count", "a.npy", "--threshold", "1", "--json", "c.json"]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert [found[name]["lower"] for name in ("negative", "near_zero", "positive")] == wanted
    assert found["problem"] == {"problem": "a.npy"}
    assert main(["count", "a.npy", "--interval", "-1", "1", "--json", "i.json"]) == 0
    found = json.loads((tmp_path / "i.json").read_text())
    assert [found[name]["lower"] for name in ("below", "inside", "above")] == wanted
    assert found["ends"] == [-1.0, 1.0]
    assert main(["exact", "a.npy", "--output", "v.npz"]) == 0
    np.testing.assert_allclose(np.load("v.npz")["eigenvalues"], VALUES, atol=1e-12)
    assert main(["inertia", "a.npy", "--at", "0"]) == 0
    assert main(["check", "a.npy"]) == 0
    assert str(int((VALUES < 0).sum())) in capsys.readouterr().out
    for wrong in (["--weights", "w.npz"], ["--parameters", "0.*"]):
        assert main(["count", "a.npy", "--threshold", "1", *wrong]) == 2
    assert "is a matrix" in capsys.readouterr().err
    assert main(["count", "a.npy", "--interval", "1", "-1"]) == 2
    assert main(["count", "a.npy", "--interval", "0", "1", "--enumerate-negative"]) == 2
    assert "interval" in capsys.readouterr().err


def test_counts_of_a_file_are_those_of_its_matrix(tmp_path):
    sp.save_npz(tmp_path / "s.npz", SPARSE)
    plan = {"threshold": 0.1, "method": "lanczos", "probes": 2, "steps": 20}
    assert (
        str(count_eigenvalues(tmp_path / "s.npz", **plan)).splitlines()[:3]
        == str(count_eigenvalues(SPARSE, **plan)).splitlines()[:3]
    )
