"""What the networks see: CIFAR-10 images, the standard library's own sources as bytes, all pairs of residues."""

from __future__ import annotations

import hashlib
import io
import sysconfig
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lanczos_saddle.training.data_files import DataNotFoundError, data_root

ARCHIVE = "cifar10-jpeg.tar.xz"
DIGEST = "d9973fa09e6960f18fa7ff58c19b781e204d996c23df3b5e2c86d1e132b3fb54"
CLASSES, SIDE = 10, 32
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of the red, green and blue of CIFAR-10's training images, pixels in [0, 1]."""

IGNORED = -100
"""The label of what is not predicted, as torch's cross-entropy has it."""


class Images(NamedTuple):
    """Images and their classes, to train and to test."""

    x: Tensor  # (n, 3, 32, 32)
    y: Tensor  # (n,)
    x_test: Tensor
    y_test: Tensor


class Windows(NamedTuple):
    """Pieces of files; the last piece of a file is filled up, and what fills it is masked."""

    tokens: Tensor  # (n, length), bytes
    mask: Tensor  # (n, length), 1 where there is text


def cifar(train: int, test: int) -> Images:
    """As many images of each class as the numbers allow, the first of each, in mixed order.

    Raises DataNotFoundError where $LANCZOS_SADDLE_DATA has no such archive, ValueError where it is another one.
    """
    path = data_root() / ARCHIVE
    if not path.is_file():
        raise DataNotFoundError(f"there is no {path}: set LANCZOS_SADDLE_DATA to its folder, or --data noise")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise ValueError(f"{path} must be the archive of sha256 {DIGEST[:12]}...; it is another one: fetch it again")
    wanted = {"train": -(-train // CLASSES), "test": -(-test // CLASSES)}
    found: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            part, *rest = member.name.strip("./").split("/")
            if member.isfile() and int(Path(rest[1]).stem) < wanted[part]:
                file = archive.extractfile(member)
                assert file is not None
                found[part].append((rest[0], file.read()))
    classes = sorted({name for files in found.values() for name, _ in files})
    return Images(*_decoded(found["train"], classes, train), *_decoded(found["test"], classes, test))


def noise(train: int, test: int) -> Images:
    """Gaussian images and random classes: does it work?"""
    generator = torch.Generator().manual_seed(0)
    made = []
    for count in (train, test):
        made += [
            torch.randn(count, 3, SIDE, SIDE, generator=generator),
            torch.randint(CLASSES, (count,), generator=generator),
        ]
    return Images(*made)


def _decoded(files: list[tuple[str, bytes]], classes: list[str], count: int) -> tuple[Tensor, Tensor]:
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for _, content in files])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    y = torch.tensor([classes.index(name) for name, _ in files])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:count]
    return x[order].contiguous(), y[order]


def sources(modules: str, most: int, skip: int = 0) -> list[bytes]:
    """The sources of the standard library that match a pattern, in the order of their names: bytes skip .. skip + most.

    None where there are no more than `skip`. Raises ValueError where none matches.
    """
    kept, position = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob(modules)):
        text = path.read_bytes()
        kept.append(text[max(0, skip - position) : max(0, skip + most - position)])
        position += len(text)
    if not position:
        raise ValueError(f"no source of the standard library matches {modules!r}: try '*.py'")
    return [text for text in kept if text]


def windows(files: list[bytes], length: int) -> Windows:
    """Every file cut into pieces of `length` bytes."""
    count = sum(-(-len(text) // length) for text in files)
    tokens, mask = torch.zeros(count, length, dtype=torch.int64), torch.zeros(count, length, dtype=torch.int64)
    row = 0
    for text in files:
        for start in range(0, len(text), length):
            piece = torch.tensor(list(text[start : start + length]))
            tokens[row, : len(piece)], mask[row, : len(piece)] = piece, 1
            row += 1
    return Windows(tokens, mask)


def spread(items: Windows, count: int) -> Windows:
    """`count` pieces at equal distances, the last one of a file among them where there is one."""
    index = torch.linspace(0, len(items.tokens) - 1, count).round().long()
    if bool((items.mask[index] == 1).all()) and not bool((items.mask == 1).all()):
        index[-1] = (items.mask == 0).any(1).nonzero()[-1, 0]
    return Windows(items.tokens[index], items.mask[index])


def labels(items: Windows) -> Tensor:
    """The text as labels, without what fills it up."""
    return items.tokens.masked_fill(items.mask == 0, IGNORED)


def residues(modulus: int, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs (a, b) as three tokens a, b, "="; (a + b) mod p; and which of them are trained on, (p^2,) bool."""
    a, b = torch.meshgrid(torch.arange(modulus), torch.arange(modulus), indexing="ij")
    tokens = torch.stack([a.flatten(), b.flatten(), torch.full((modulus**2,), modulus)], 1)
    order = torch.randperm(modulus**2, generator=torch.Generator().manual_seed(seed))
    train = torch.zeros(modulus**2, dtype=torch.bool)
    train[order[: round(share * modulus**2)]] = True
    return tokens, (tokens[:, 0] + tokens[:, 1]) % modulus, train
