"""Where data files lie, what they must contain, and how MNIST gets there.

The data root is $LANCZOS_SADDLE_DATA, or the user's cache folder. A file of MNIST is read only when the
sha256 of its uncompressed bytes is the known one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lanczos_saddle.machine.files import replacing
from lanczos_saddle.training.idx import parse_idx, uncompressed

# sha256 of the uncompressed bytes: train images, train labels, test images, test labels
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
DOWNLOAD_LIMIT = 32 * 2**20  # bytes a file; the largest is 10 MB


class DataNotFoundError(ValueError):
    """The files of a dataset are not on this machine; the message says where they were looked for."""


def cache_root() -> Path:
    """The user's cache folder for this package: $XDG_CACHE_HOME/lanczos_saddle or ~/.cache/lanczos_saddle."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lanczos_saddle"


def data_root() -> Path:
    """Where data files are looked for: $LANCZOS_SADDLE_DATA, or the user's cache folder."""
    named = os.environ.get("LANCZOS_SADDLE_DATA")
    return Path(named).expanduser() if named else cache_root()


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file; pickled objects are never loaded.

    Raises:
        ValueError: when the file is not a whole .npz, or holds objects.
    """
    try:
        # opened here: np.load leaves its own file open when the archive is damaged
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a whole .npz file of plain arrays, without pickled objects ({error})"
        ) from error


def mnist_array(name: str) -> NDArray[np.uint8]:
    """The images (n, 28, 28) or labels (n,) of one of `MNIST_FILES`, from <data root>/mnist or <data root>.

    Raises:
        DataNotFoundError: when neither folder has the file, plain or gzip.
        ValueError: when the file is damaged, or is another one.
    """
    folders = (data_root() / "mnist", data_root())
    found = [path for folder in folders for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        raise DataNotFoundError(
            f"MNIST needs the file {name} or {name}.gz; looked in {folders[0]} and {folders[1]}: "
            "set LANCZOS_SADDLE_DATA to the folder that holds mnist/, or fetch the files with "
            "`lanczos-saddle download` (in Python: lanczos_saddle.training.datasets.download_mnist())"
        )
    content = uncompressed(found[0].read_bytes(), str(found[0]))
    array = parse_idx(content, str(found[0]))
    _verify(content, MNIST_FILES[name], str(found[0]))
    return array


def download_mnist(
    folder: str | os.PathLike[str] | None = None, *, mirrors: Sequence[str] = MNIST_MIRRORS, timeout: float = 30.0
) -> Path:
    """Fetch the four MNIST files (11 MB) into `folder` (<data root>/mnist); files that are there stay.

    A file takes its name only after its checksum was verified.

    Raises:
        ConnectionError: when no mirror gave a file; says which were asked, what they answered, the way out.
    """
    target = Path(folder) if folder is not None else data_root() / "mnist"
    for name, sha in MNIST_FILES.items():
        if not any((target / f"{name}{suffix}").is_file() for suffix in ("", ".gz")):
            content = _fetch(f"{name}.gz", sha, mirrors, timeout)
            with replacing(target / f"{name}.gz") as temporary:
                temporary.write_bytes(content)
    return target


def _fetch(file: str, sha: str, mirrors: Sequence[str], timeout: float) -> bytes:
    """The compressed bytes from the first mirror whose file has the right content."""
    answers = []
    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + file
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                content: bytes = response.read(DOWNLOAD_LIMIT)
            _verify(uncompressed(content, url), sha, url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            answers.append(f"{url} ({error})")
        else:
            return content
    raise ConnectionError(
        f"no mirror gave {file}: {'; '.join(answers) or 'none was named'}. "
        "Without a network, put the four MNIST files in $LANCZOS_SADDLE_DATA/mnist"
    )


def _verify(content: bytes, sha: str, where: str) -> None:
    got = hashlib.sha256(content).hexdigest()
    if got != sha:
        raise ValueError(f"{where} is not the MNIST file of that name: sha256 must be {sha}; got {got}: fetch it again")
