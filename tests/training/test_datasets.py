import gzip
import hashlib
import re
import struct

import numpy as np
import pytest
import torch
from needs import needs_data

from lanczos_saddle.training import data_files, datasets
from lanczos_saddle.training.idx import parse_idx, uncompressed


def idx(array, kind=8, zeros=0):
    return struct.pack(f">HBB{array.ndim}I", zeros, kind, array.ndim, *array.shape) + array.tobytes()


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


# digits


def test_digits_are_the_same_each_time_and_split_without_overlap():
    data, again = datasets.load("digits"), datasets.load("digits")
    assert (data.x_train.shape, data.x_test.shape) == ((1500, 64), (297, 64))
    assert torch.equal(data.x_train, again.x_train)
    assert data.digest == again.digest
    assert (data.features, data.classes) == (64, 10)
    images = torch.cat([data.x_train, data.x_test])
    assert len(images.unique(dim=0)) == 1797


def test_digits_are_centered_and_empty_pixels_are_exactly_zero():
    from sklearn.datasets import load_digits

    data = datasets.digits()
    images = torch.cat([data.x_train, data.x_test])
    assert images.double().mean(0).abs().max() < 1e-7  # rounding of float32 pixels below 1
    empty = torch.from_numpy(load_digits().data.max(0) == 0)
    assert empty.any()
    assert (images[:, empty] == 0).all()


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of digits, mnist, cifar10_features, or .*\.npz.*got 'cifar'"):
        datasets.load("cifar")


# the invariants of a dataset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": torch.zeros(0, 3), "y_train": torch.zeros(0, dtype=torch.int64)}, "not empty"),
        ({"x_train": torch.zeros(5, 3)}, r"images must be \(n, d\), labels \(n,\)"),
        ({"x_train": torch.full((4, 3), torch.nan)}, "4 of 4 images hold NaN"),
        ({"x_train": torch.zeros(4, 3, dtype=torch.float64)}, "must be float32"),
        ({"y_test": torch.tensor([0, -1])}, "test set: labels count classes from 0; got -1"),
        ({"x_test": torch.zeros(2, 5)}, "must have one size; got 3 and 5"),
    ],
)
def test_unsound_data_is_refused(change, message):
    y = torch.zeros(4, dtype=torch.int64)
    sound = {"x_train": torch.zeros(4, 3), "y_train": y, "x_test": torch.zeros(2, 3), "y_test": y[:2]}
    datasets.Dataset("toy", **sound, digest="")
    with pytest.raises(ValueError, match=message):
        datasets.Dataset("toy", **(sound | change), digest="")


# IDX


def test_idx_is_read_plain_and_compressed():
    content = idx(IMAGES)
    for bytes_of_file in (content, gzip.compress(content)):
        assert np.array_equal(parse_idx(uncompressed(bytes_of_file, "f"), "f"), IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must start with the 4 bytes of an IDX header; it has 0"),
        (idx(IMAGES, zeros=0x0102), "two zero bytes; got 0x0102"),
        (idx(IMAGES, kind=0x0D), "unsigned bytes, IDX type 0x08; got type 0x0d"),
        (struct.pack(">HBB", 0, 8, 0), "at least one dimension"),
        (idx(IMAGES)[:10], "truncated: a header of 3 dimensions has 16 bytes; got 10"),
        (idx(IMAGES)[:-1], r"truncated: shape \(2, 3, 4\) needs 40 bytes; got 39"),
        (idx(IMAGES) + b"x", "trailing bytes.*needs 40 bytes; got 41"),
    ],
)
def test_a_departure_from_idx_is_named(content, message):
    with pytest.raises(ValueError, match=f"^some-file.*{message}"):
        parse_idx(content, "some-file")


@pytest.mark.parametrize("damage", [lambda c: c[:-9], lambda c: c[:20], lambda c: c[:12] + b"\xff\xff" + c[14:]])
def test_a_damaged_gzip_is_named(damage):
    with pytest.raises(ValueError, match=r"^some-file must be a whole gzip file"):
        uncompressed(damage(gzip.compress(idx(IMAGES))), "some-file")


# MNIST


@needs_data("mnist")
def test_mnist_is_the_data_of_the_reference():
    data = datasets.load("mnist")
    assert (data.x_train.shape, data.x_test.shape) == ((60000, 784), (10000, 784))
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert int((data.x_train == data.x_train[0]).all(0).sum()) == 67
    assert int(((data.x_train == 0).all(0) & (data.x_test == 0).all(0)).sum()) == 65


def test_missing_mnist_says_where_it_looked_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    looked = re.escape(f"looked in {tmp_path / 'mnist'} and {tmp_path}")
    with pytest.raises(
        datasets.DataNotFoundError, match=f"{looked}.*LANCZOS_SADDLE_DATA.*lanczos-saddle download.*download_mnist"
    ):
        datasets.load("mnist")


@pytest.mark.parametrize("folder", ["mnist", "."])
def test_another_file_under_the_name_is_refused(tmp_path, monkeypatch, folder):
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    with pytest.raises(ValueError, match=r"not the MNIST file of that name: sha256 must be ba891046"):
        datasets.load("mnist")


def test_the_data_root_is_the_variable_or_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    assert datasets.data_root() == tmp_path
    monkeypatch.delenv("LANCZOS_SADDLE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert datasets.data_root() == tmp_path / "cache" / "lanczos_saddle"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets.data_root() == tmp_path / ".cache" / "lanczos_saddle"


# download


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with one file of known content in place of MNIST, and the address of it."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "toy.gz").write_bytes(gzip.compress(idx(IMAGES)))
    monkeypatch.setattr(data_files, "MNIST_FILES", {"toy": hashlib.sha256(idx(IMAGES)).hexdigest()})
    return folder


def test_download_takes_the_first_mirror_with_the_right_content(mirror, tmp_path):
    target = tmp_path / "target"
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "toy.gz").write_bytes(b"<html>not here</html>")
    urls = [folder.as_uri() for folder in (tmp_path / "absent", wrong, mirror)]
    assert datasets.download_mnist(target, mirrors=urls) == target
    assert [path.name for path in target.iterdir()] == ["toy.gz"]
    assert uncompressed((target / "toy.gz").read_bytes(), "toy") == idx(IMAGES)


def test_download_leaves_what_is_there(mirror, tmp_path):
    (tmp_path / "toy").write_bytes(b"mine")
    datasets.download_mnist(tmp_path, mirrors=[])
    assert not (tmp_path / "toy.gz").exists()


def test_download_without_a_network_says_the_way_out_and_leaves_nothing(mirror, tmp_path):
    (mirror / "toy.gz").write_bytes(gzip.compress(b"something else"))
    target = tmp_path / "target"
    urls = [(tmp_path / "absent").as_uri(), mirror.as_uri()]
    message = r"absent/toy\.gz.*mirror/toy\.gz.*sha256.*put the four MNIST files in \$LANCZOS_SADDLE_DATA/mnist"
    with pytest.raises(ConnectionError, match=message):
        datasets.download_mnist(target, mirrors=urls)
    assert not target.exists()


# .npz


def arrays():
    x = np.ones((3, 2, 2), np.float16)
    return {"x_train": x, "y_train": np.array([0, 1, 2]), "x_test": x[:1], "y_test": np.array([1])}


def test_any_npz_is_a_dataset(tmp_path):
    np.savez(tmp_path / "toy.npz", **arrays())
    data = datasets.load(str(tmp_path / "toy.npz"))
    assert (data.name, data.x_train.shape, data.x_train.dtype, data.classes) == ("toy", (3, 4), torch.float32, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.array([object()] * 3)}, "without pickled objects"),
        ({"y_train": np.array(["a", "b", "c"])}, "y of whole numbers"),
        ({"x_train": np.ones((0, 4))}, "none empty"),
    ],
)
def test_an_unsound_npz_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "toy.npz", **(arrays() | change))
    with pytest.raises(ValueError, match=rf"toy\.npz.*{message}"):
        datasets.load(str(tmp_path / "toy.npz"))


def test_a_damaged_incomplete_or_missing_npz_is_refused(tmp_path):
    path = tmp_path / "toy.npz"
    with pytest.raises(datasets.DataNotFoundError, match=r"there is no data file .*toy\.npz"):
        datasets.load(str(path))
    np.savez(path, x_train=np.ones(3))
    with pytest.raises(ValueError, match=r"must hold x_train, .*; it lacks x_test, y_test, y_train"):
        datasets.load(str(path))
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"toy\.npz must be a whole \.npz"):
        datasets.load(str(path))
    path.write_bytes(b"plain text")
    with pytest.raises(ValueError, match=r"toy\.npz must be a whole \.npz"):
        datasets.load(str(path))


@needs_data("cifar10-features")
def test_cifar10_features():
    data = datasets.load("cifar10_features")
    assert (data.x_train.shape, data.x_test.shape) == ((50000, 256), (10000, 256))
    assert (data.name, data.classes) == ("cifar10_features", 10)
