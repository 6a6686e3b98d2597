"""What a count runs on and in: versions, extras, devices, threads, memory, and the switches that change its numbers."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from lanczos_saddle.machine.memory import available_bytes
from lanczos_saddle.machine.threads import libraries

CORE = ("torch", "numpy", "scipy", "safetensors", "threadpoolctl", "tqdm")

EXTRAS = {
    "matplotlib": ("plots", "figures: density, demo, landscapes"),
    "sklearn": ("paper", "the digits images: demo, and PROBLEM digits"),
    "cupy": ("cuda", "dense eigenvalues on a GPU beyond 32-bit sizes"),
    "pylops": ("connect", "H.to_pylops()"),
    "curvlinops": ("connect", "H.to_curvlinops()"),
    "shtab": ("completion", "completion in bash, zsh and fish"),
}
"""Module: (the extra that brings it, what it is for)."""


@dataclass(frozen=True)
class Extra:
    """A library that only a part of the package needs."""

    library: str
    extra: str
    purpose: str
    installed: bool


@dataclass(frozen=True)
class Switch:
    """A setting of the process that changes what products are, and what follows from it as it stands."""

    name: str
    value: str
    usual: bool  # as torch starts
    meaning: str


@dataclass(frozen=True)
class Device:
    """Where products can be computed."""

    name: str  # as --device takes it
    model: str
    free: int  # bytes


@dataclass(frozen=True)
class Surroundings:
    """What was found; nothing of it names a user, a host or a path."""

    python: str
    system: str
    versions: dict[str, str]
    extras: tuple[Extra, ...]
    devices: tuple[Device, ...]
    cores: int  # that this process may use
    threads: int  # of torch
    blas: tuple[str, ...]
    switches: tuple[Switch, ...]


def surroundings() -> Surroundings:
    """Look; nothing is changed and nothing is measured."""
    return Surroundings(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: _version(name) for name in ("lanczos-saddle", *CORE)},
        extras=tuple(Extra(name, *facts, find_spec(name) is not None) for name, facts in EXTRAS.items()),
        devices=devices(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        blas=blas(),
        switches=switches(),
    )


def devices() -> tuple[Device, ...]:
    """The processor, then the CUDA devices, with the memory that is free now."""
    cpu = torch.device("cpu")
    found = [Device("cpu", torch.backends.cpu.get_cpu_capability(), available_bytes(cpu))]
    for index in range(torch.cuda.device_count()):
        place = torch.device("cuda", index)
        found.append(Device(f"cuda:{index}", torch.cuda.get_device_name(place), available_bytes(place)))
    return tuple(found)


def blas() -> tuple[str, ...]:
    """The linear algebra of torch, and that of NumPy and SciPy, with their threads."""
    mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    of_torch = "MKL" if mkl else "no MKL: eigenvalues of large matrices may be slow"
    loaded = [info for info in libraries().info() if info["user_api"] == "blas"]
    said = [f"{info['internal_api']} {info['version']}, {info['num_threads']} threads" for info in loaded]
    return f"torch: {of_torch}", *dict.fromkeys(said)


def switches() -> tuple[Switch, ...]:
    """Each says what it does to a count. Products in float64, the default, are touched by the last two alone."""
    precision, cudnn, types = torch.get_float32_matmul_precision(), torch.backends.cudnn, torch.get_default_dtype()
    autocast = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    override = os.environ.get("NVIDIA_TF32_OVERRIDE", "not set")
    reduced = "float32 products are rounded to about 3 digits: use --dtype float64, or leave it"
    return (
        Switch("float32_matmul_precision", precision, precision == "highest", reduced),
        Switch("cudnn.allow_tf32", str(cudnn.allow_tf32), True, "on a GPU, convolutions in float32 have 3 digits"),
        Switch("cudnn.benchmark", str(cudnn.benchmark), not cudnn.benchmark, "products may differ from run to run"),
        Switch("NVIDIA_TF32_OVERRIDE", override, override in ("not set", "0"), reduced),
        Switch(
            "deterministic algorithms",
            str(torch.are_deterministic_algorithms_enabled()),
            True,
            "on a GPU, sums may differ in their last digits unless it is True",
        ),
        Switch(
            "autocast", ", ".join(autocast) or "off", not autocast, "does nothing to float64: counts another function"
        ),
        Switch(
            "default dtype", str(types).removeprefix("torch."), types == torch.float32, "of models that are made now"
        ),
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
