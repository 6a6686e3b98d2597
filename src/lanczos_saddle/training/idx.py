"""The IDX format of MNIST: 0, 0, type, dimensions, then each size in 4 bytes (big-endian), then the values.

Only unsigned bytes (type 8) are read. Every departure from the format is refused by name: a damaged file is
never read as other images.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def uncompressed(content: bytes, where: str) -> bytes:
    """The content of a file that may be gzip, known by its first two bytes.

    Raises:
        ValueError: when the gzip stream is damaged or cut short.
    """
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{where} must be a whole gzip file; it is damaged or cut short ({error}): fetch it again"
        ) from error


def parse_idx(content: bytes, where: str) -> NDArray[np.uint8]:
    """The array that the uncompressed bytes of an IDX file hold; `where` names the file in messages.

    Raises:
        ValueError: for a wrong magic number or type, no dimensions, a file too short or too long.
    """
    if len(content) < 4:
        raise ValueError(f"{where} must start with the 4 bytes of an IDX header; it has {len(content)} bytes")
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if zeros != 0:
        raise ValueError(f"{where} must start with the IDX magic number, two zero bytes; got 0x{zeros:04x}")
    if kind != UNSIGNED_BYTE:
        raise ValueError(f"{where} must hold unsigned bytes, IDX type 0x08; got type 0x{kind:02x}")
    if dimensions < 1:
        raise ValueError(f"{where} must have at least one dimension; its header says {dimensions}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(
            f"{where} is truncated: a header of {dimensions} dimensions has {start} bytes; got {len(content)}"
        )
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    expected = start + math.prod(shape)
    if len(content) < expected:
        raise ValueError(
            f"{where} is truncated: shape {shape} needs {expected} bytes; got {len(content)}: fetch it again"
        )
    if len(content) > expected:
        raise ValueError(f"{where} has trailing bytes: shape {shape} needs {expected} bytes; got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
