import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from lanczos_saddle.training.checkpoints import (
    apply_weights,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    sequential_names,
)
from lanczos_saddle.training.networks import mlp


def model(seed=0, sizes=(4, 3, 2)):
    return mlp(sizes, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, model(), {"seed": 0, "loss": 0.25, "gradient_norm": float("inf"), "sizes": (4, 3, 2)})
    return path


def test_weights_and_provenance_come_back(path):
    tensors, provenance = load_checkpoint(path)
    assert same(tensors, model().state_dict())
    assert provenance == {"seed": 0, "loss": 0.25, "gradient_norm": "inf", "sizes": [4, 3, 2]}
    assert same(load_weights(path), tensors)
    other = model(seed=1)
    apply_weights(other, tensors)
    assert same(other.state_dict(), model().state_dict())


def test_tied_parameters_and_float64_are_saved(tmp_path):
    first, second = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    second.weight = first.weight
    tied = nn.Sequential(first, second)
    save_checkpoint(tmp_path / "tied.safetensors", tied, {})
    tensors, _ = load_checkpoint(tmp_path / "tied.safetensors")
    assert same(tensors, tied.state_dict())


def test_a_failed_save_leaves_what_was_there(path):
    before = path.read_bytes()
    spoiled = model()
    nn.init.constant_(spoiled[2].weight, float("nan"))
    with pytest.raises(ValueError, match=r"to be saved: 6 of 6 entries of 2\.weight"):
        save_checkpoint(path, spoiled, {})
    with pytest.raises(ValueError, match="records hold"):
        save_checkpoint(path, model(1), {"what": object()})
    assert path.read_bytes() == before
    assert files(path.parent) == ["net.safetensors"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def half(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("lanczos_saddle.training.checkpoints.save_file", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "net.safetensors", model(), {})
    assert files(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_checkpoint_is_named(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    for load in (load_checkpoint, load_weights):
        with pytest.raises(ValueError, match=r"net\.safetensors must be a whole safetensors file; it is truncated"):
            load(path)


def test_foreign_files_are_named(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(os.urandom(1000))
    with pytest.raises(ValueError, match="must be a whole safetensors file"):
        load_checkpoint(path)
    save_file(model().state_dict(), path)
    with pytest.raises(ValueError, match=r"must be a checkpoint of this package.*use load_weights"):
        load_checkpoint(path)
    save_file(model().state_dict(), path, metadata={"lanczos_saddle": "{"})
    with pytest.raises(ValueError, match="must be a checkpoint of this package"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pt", "a.pth"])
def test_a_missing_file_and_a_folder_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"there is no weights file .*{name}"):
        load_weights(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"there is no weights file .*{name}"):
        load_weights(tmp_path / name)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    spoiled = model().state_dict()
    spoiled["0.bias"][1] = float("inf")
    save_file(spoiled, tmp_path / "a.safetensors", metadata={"lanczos_saddle": "{}"})
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in spoiled.items()})
    torch.save(spoiled, tmp_path / "a.pt")
    message = r"weights must be finite; .*: 1 of 3 entries of 0\.bias"
    for name in ("a.safetensors", "a.npz", "a.pt"):
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        apply_weights(model(), spoiled)


def test_weights_in_each_form(tmp_path):
    state = model().state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(dict(state), tmp_path / "a.pth")
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    assert all(same(load_weights(tmp_path / name), state) for name in ("a.pt", "a.pth", "a.npz"))


class Dangerous:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_code_never_runs(tmp_path):
    bomb = Dangerous(tmp_path / "exploded")
    torch.save({"w": bomb}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", w=np.array([bomb], dtype=object))
    with pytest.raises(ValueError, match=r"a\.pt must be a torch file of plain tensors"):
        load_weights(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.npz must be a whole \.npz file of plain arrays, without pickled"):
        load_weights(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", ["npz", "pt"])
@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 not a zip"])
def test_unreadable_weights_are_named(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.{suffix} must be a"):
        load_weights(path)


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_truncated_weights_are_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save(model().state_dict(), path)
    else:
        np.savez(path, w=np.ones(100))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=rf"a\.{suffix} must be a"):
        load_weights(path)


def test_other_things_than_named_tensors(tmp_path):
    with pytest.raises(ValueError, match=r"weights are read from \.safetensors, \.npz, \.pt, \.pth; got .*a\.bin"):
        load_weights(tmp_path / "a.bin")
    torch.save({"epoch": 3, "state_dict": model().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"must hold a state dict, names to tensors"):
        load_weights(tmp_path / "a.pt")
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"got list"):
        load_weights(tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", names=np.array(["x"]))
    with pytest.raises(ValueError, match="arrays of real numbers; these are not: names"):
        load_weights(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"missing: 0\.bias, 0\.weight, 2\.bias, 2\.weight; unexpected: none"),
        (model(sizes=(4, 3, 2, 2)).state_dict(), r"missing: none; unexpected: 4\.bias, 4\.weight"),
        (model(sizes=(4, 5, 2)).state_dict(), r"0\.weight must have shape \(3, 4\); got \(5, 4\)"),
    ],
)
def test_weights_of_another_model_are_refused_before_anything_is_copied(tensors, message):
    target = model()
    with pytest.raises(ValueError, match=message):
        apply_weights(target, tensors)
    assert same(target.state_dict(), model().state_dict())


def test_layers_take_the_names_of_a_sequential():
    state = model().state_dict()
    layers = dict(zip(("W1", "b1", "W2", "b2"), state.values(), strict=True))
    assert same(sequential_names(layers | {"pixel_mean": torch.zeros(4)}), state)


@pytest.mark.parametrize("names", [["pixel_mean"], ["W1", "b1", "W2"], ["W1", "b1", "W3", "b3"]])
def test_layers_with_a_gap_are_refused(names):
    with pytest.raises(ValueError, match=r"layers must be named W1, b1, W2, b2, \.\.\. without a gap"):
        sequential_names(dict.fromkeys(names, torch.zeros(1)))
