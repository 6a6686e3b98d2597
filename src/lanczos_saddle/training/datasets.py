"""The images the paper trains on, read from files whose content is checked.

    digits             1,797 x 64     shipped with scikit-learn: the default that needs no file and no network
    mnist             70,000 x 784    four IDX files, plain or gzip, in <data root>/mnist
    cifar10_features  60,000 x 256    <data root>/cifar10-features/features-256.npz

Pixels are scaled to [0, 1] and the mean image over *all* samples is subtracted, as in the paper, so that a
pixel that is never inked is exactly 0 everywhere. The data root is $LANCZOS_SADDLE_DATA, or the user's cache
folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lanczos_saddle import defaults
from lanczos_saddle.machine.extras import require
from lanczos_saddle.training.data_files import (
    MNIST_FILES,
    DataNotFoundError,
    cache_root,
    data_root,
    download_mnist,
    mnist_array,
    read_npz,
)

__all__ = [
    "DATASETS",
    "DataNotFoundError",
    "Dataset",
    "cache_root",
    "cifar10_features",
    "data_root",
    "digits",
    "download_mnist",
    "from_npz",
    "load",
    "mnist",
]

NPZ = "put an .npz with x_train, y_train, x_test, y_test there"

DIGITS_TRAIN = 1500
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Dataset:
    """Flattened images and their labels, on the CPU.

    Raises ValueError when empty, when shapes disagree, or when a pixel is not finite.
    """

    name: str
    x_train: Tensor  # (n, d) float32
    y_train: Tensor  # (n,) int64, classes from 0
    x_test: Tensor  # (m, d) float32
    y_test: Tensor  # (m,) int64
    digest: str  # sha256 of the content before scaling, and of the split

    def __post_init__(self) -> None:
        _check_split(f"{self.name}, training set", self.x_train, self.y_train)
        _check_split(f"{self.name}, test set", self.x_test, self.y_test)
        if self.x_train.shape[1] != self.x_test.shape[1]:
            d, e = self.x_train.shape[1], self.x_test.shape[1]
            raise ValueError(f"{self.name}: training and test images must have one size; got {d} and {e} features")

    @property
    def features(self) -> int:
        """Inputs of a network on this data."""
        return self.x_train.shape[1]

    @property
    def classes(self) -> int:
        """Outputs of a network on this data: the largest label plus one."""
        return int(torch.maximum(self.y_train.max(), self.y_test.max())) + 1


def load(name: str) -> Dataset:
    """The dataset called `name`: digits, mnist, cifar10_features, or the path of an .npz file (`from_npz`).

    Raises:
        ValueError: for an unknown name or unsound content; `DataNotFoundError` when the files are missing.
    """
    if name in DATASETS:
        return DATASETS[name]()
    if name.endswith(".npz"):
        return from_npz(Path(name))
    raise ValueError(f"a dataset is one of {', '.join(DATASETS)}, or the path of an .npz file; got {name!r}")


def digits() -> Dataset:
    """scikit-learn's 8 x 8 digits, pixel / 16 minus the mean image; a fixed split of 1,500 and 297."""
    require("sklearn", "paper")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.data.astype(np.uint8), bunch.target.astype(np.uint8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DIGITS_SPLIT_SEED)).numpy()
    images, labels = images[order], labels[order]
    x, y = _centered(images, 16), torch.from_numpy(labels.astype(np.int64))
    split = DIGITS_TRAIN
    return Dataset("digits", x[:split], y[:split], x[split:], y[split:], _digest(f"first {split}", images, labels))


def mnist() -> Dataset:
    """MNIST, pixel / 255 in float32 minus the mean image over all 70,000; 60,000 to train, 10,000 to test.

    65 of the 784 pixels are exactly 0 in every image. Takes about a second and 220 MB.

    Raises:
        DataNotFoundError: when a file is missing.
        ValueError: when a file is damaged or is not the file the checksum knows.
    """
    images, labels, test_images, test_labels = map(mnist_array, MNIST_FILES)
    x = _centered(np.concatenate([images, test_images]).reshape(-1, 784), 255)
    y, y_test = (torch.from_numpy(classes.astype(np.int64)) for classes in (labels, test_labels))
    digest = hashlib.sha256("".join(MNIST_FILES.values()).encode()).hexdigest()
    return Dataset("mnist", x[: len(y)], y, x[len(y) :], y_test, digest)


def cifar10_features() -> Dataset:
    """256 penultimate features of a small residual network on CIFAR-10, as they are (not centered)."""
    path = data_root() / "cifar10-features" / "features-256.npz"
    if not path.is_file():
        raise DataNotFoundError(f"there is no data file {path}: {NPZ}, or set LANCZOS_SADDLE_DATA to where it is")
    return from_npz(path, name="cifar10_features")


def from_npz(path: Path, *, name: str | None = None) -> Dataset:
    """x_train, y_train, x_test, y_test of an .npz file; inputs are flattened to (n, d), nothing is scaled.

    Raises:
        DataNotFoundError: when there is no such file.
        ValueError: when it cannot be read without pickle, or lacks one of the four arrays.
    """
    if not path.is_file():
        raise DataNotFoundError(f"there is no data file {path}: {NPZ}")
    found = read_npz(path)
    missing = sorted({"x_train", "y_train", "x_test", "y_test"} - found.keys())
    if missing:
        raise ValueError(f"{path} must hold x_train, y_train, x_test, y_test; it lacks {', '.join(missing)}")
    arrays = [found[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    for array, kinds in zip(arrays, ("fiu", "iu", "fiu", "iu"), strict=True):
        if array.dtype.kind not in kinds or array.size == 0 or array.ndim == 0:
            raise ValueError(
                f"{path}: x must be arrays of numbers and y of whole numbers, none empty; "
                f"got {array.dtype} of shape {array.shape}"
            )
    x, y, x_test, y_test = arrays
    flat = [torch.from_numpy(a.reshape(len(a), -1).astype(np.float32)) for a in (x, x_test)]
    classes = [torch.from_numpy(a.astype(np.int64)) for a in (y, y_test)]
    return Dataset(name or path.stem, flat[0], classes[0], flat[1], classes[1], _digest("as given", *arrays))


DATASETS = dict(zip(defaults.DATASETS, (digits, mnist, cifar10_features), strict=True))


def _centered(images: NDArray[np.uint8], scale: int) -> Tensor:
    """Pixels / scale in float32, minus the mean image, which is summed in whole numbers and rounded once."""
    mean = (images.sum(0, dtype=np.int64) / (scale * len(images))).astype(np.float32)
    x = images.astype(np.float32)
    x /= np.float32(scale)
    x -= mean
    return torch.from_numpy(x)


def _digest(split: str, *arrays: NDArray[np.generic]) -> str:
    sha = hashlib.sha256(split.encode())
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _check_split(what: str, x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or x.numel() == 0:
        raise ValueError(
            f"{what}: images must be (n, d), labels (n,), not empty; got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.dtype != torch.float32 or y.dtype != torch.int64:
        raise ValueError(f"{what}: images must be float32 and labels int64; got {x.dtype} and {y.dtype}")
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x).all(1)).sum())
        raise ValueError(f"{what}: pixels must be finite; {bad} of {len(x)} images hold NaN or infinity: drop them")
    if y.min() < 0:
        raise ValueError(f"{what}: labels count classes from 0; got {int(y.min())}")
