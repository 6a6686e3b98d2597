"""Trained weights on disk: safetensors, provenance as JSON in the header. No pickle is ever loaded.

A file is written to a temporary name and renamed, so it is whole or not there. Weights that are not finite
are refused on both ways: a NaN would make every count after it meaningless.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lanczos_saddle.machine.files import replacing
from lanczos_saddle.reports.records import to_json
from lanczos_saddle.training.data_files import read_npz

METADATA_KEY = "lanczos_saddle"
StrPath = str | os.PathLike[str]


def save_checkpoint(path: StrPath, model: nn.Module, provenance: Mapping[str, Any]) -> None:
    """Write the state of `model` and where it came from: architecture, data digest, seed, versions, loss.

    Raises:
        ValueError: for weights that are not finite or a provenance without a JSON form; nothing is written.
        OSError: where the file cannot be written; it is as it was.
    """
    # clones: safetensors refuses tensors that share memory, as tied parameters do
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    _check_finite(tensors, "the model to be saved")
    metadata = {METADATA_KEY: json.dumps(to_json(provenance), allow_nan=False, sort_keys=True)}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"{path} could not be written: {error}") from error


def load_checkpoint(path: StrPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, on the CPU, and the provenance they were saved with.

    Raises:
        ValueError: for a file that is missing, truncated, not written by `save_checkpoint`, or holds NaN.
    """
    tensors, metadata = _read_safetensors(path)
    try:
        provenance = json.loads(metadata[METADATA_KEY])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} must be a checkpoint of this package, with its provenance in the header; "
            "it has none that can be read: use load_weights for the tensors of other files"
        ) from error
    _check_finite(tensors, str(path))
    return tensors, provenance


def load_weights(path: StrPath) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from .safetensors, .npz (no pickle) or .pt / .pth (``weights_only=True``).

    Raises:
        ValueError: for another suffix, a file missing or unreadable, something else than named tensors, or
            NaN.
    """
    readers = {
        ".safetensors": lambda p: _read_safetensors(p)[0],
        ".npz": _read_npz,
        ".pt": _read_torch,
        ".pth": _read_torch,
    }
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"weights are read from {', '.join(readers)}; got {path}: save them as one of these")
    if not os.path.isfile(path):  # not pathlib's: it raises for a name that is too long; a FIFO would be waited for
        raise _absent(path)
    tensors = readers[suffix](path)
    _check_finite(tensors, str(path))
    return tensors


def apply_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the model, which keeps dtype and device; all names and shapes must match.

    Raises:
        ValueError: before anything is copied: what is missing, unexpected, of another shape, or not finite.
    """
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"weights must have the model's names; missing: {_some(missing)}; unexpected: {_some(unexpected)}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"weight {name} must have shape {tuple(own[name].shape)}; got {tuple(tensor.shape)}")
    _check_finite(tensors, "the weights to be applied")
    model.load_state_dict(dict(tensors))


def sequential_names(layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W1, b1, W2, b2, ... of Linear-ReLU-...-Linear as 0.weight, 0.bias, 2.weight, ...; the rest is dropped.

    Raises:
        ValueError: when the layers are not W1, b1 to WL, bL without a gap.
    """
    found = [match for match in map(re.compile(r"([Wb])([1-9]\d*)").fullmatch, layers) if match]
    depth = max((int(match[2]) for match in found), default=0)
    if depth == 0 or len(found) != 2 * depth:
        raise ValueError(f"layers must be named W1, b1, W2, b2, ... without a gap; got {_some(sorted(layers))}")
    kinds = {"W": "weight", "b": "bias"}
    return {f"{2 * i - 2}.{kinds[kind]}": layers[f"{kind}{i}"] for i in range(1, depth + 1) for kind in "Wb"}


def _read_safetensors(path: StrPath) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, "a whole safetensors file", error) from error


def _read_npz(path: StrPath) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise _absent(path)
    arrays = read_npz(Path(path))
    words = [name for name, array in arrays.items() if array.dtype.kind not in "fiub"]
    if words:
        raise ValueError(f"{path} must hold arrays of real numbers; these are not: {_some(words)}")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _read_torch(path: StrPath) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises what the bytes happen to mean
        raise _unreadable(path, "a torch file of plain tensors (weights_only)", error) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(
            f"{path} must hold a state dict, names to tensors; got {type(loaded).__name__} of other things: "
            "save model.state_dict()"
        )
    return {str(name): tensor.detach() for name, tensor in loaded.items()}


def _unreadable(path: StrPath, rule: str, error: Exception) -> ValueError:
    """One line that names the file, what it must be and what is wrong with it."""
    if not os.path.isfile(path):
        return _absent(path)
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ValueError(f"{path} must be {rule}; it is truncated, damaged or of another kind ({reason})")


def _absent(path: StrPath) -> ValueError:
    return ValueError(f"there is no weights file {path}")


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ValueError(f"weights must be finite; {where}: {bad} of {tensor.numel()} entries of {name} are not")


def _some(names: list[str]) -> str:
    """A list that stays on one line."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "none"
