"""Where this rank's parts of the parameters come from, without more than one whole parameter in memory.

a model with its weights        its own tensors
FSDP2 and DTensor parameters    collected one after the other, by all ranks
a file, for a model on "meta"   .safetensors, or what torch.save wrote, mapped into memory: only what is kept is read
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lanczos_saddle.distributed.sharded_weights import Layout
from lanczos_saddle.networks.parameters import TENSORS

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

SHARDING = "torch.distributed.fsdp"


class Weights:
    """Parameters and buffers by name; `read` is called by all ranks, for one name after the other."""

    def __init__(self, model: torch.nn.Module, file: str | Path | None) -> None:
        self.aliases: dict[int, list[str]] = {}
        for name, p in model.named_parameters(remove_duplicate=False):
            self.aliases.setdefault(id(p), []).append(name)
        self.own = dict(model.named_parameters())
        self.path = None if file is None else Path(file)
        self.held: Mapping[str, Any] = {} if self.path is None else _opened(self.path)
        self.buffers = {} if self.path is None else self._buffers(model)
        for name, p in self.own.items():
            self._check(name, p)

    def read(self, name: str) -> Tensor:
        """A parameter, flat (n,); one of a file is read where it is used."""
        p = self.own[name]
        if self.path is not None:
            return self._found(name, p).reshape(-1)
        whole = p.full_tensor() if _is_sharded(p) else p
        return whole.detach().reshape(-1)

    def kept(self, layout: Layout, rank: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """This rank's parts of the parameters of a layout, copied."""
        found = {}
        for name, part in layout.parts(rank).items():
            found[name] = self.read(name)[part].to(device, dtype, copy=True)
            if not bool(found[name].isfinite().all()):
                raise ValueError(
                    f"the model's weights must be finite; got NaN or infinity in {name!r}: the training diverged, or "
                    "the file is damaged"
                )
        return found

    @property
    def whole(self) -> bool:
        """Whether every rank has the user's own model with its weights."""
        return self.path is None and not any(_is_sharded(p) for p in self.own.values())

    def _found(self, name: str, p: Tensor) -> Tensor:
        for alias in self.aliases[id(p)]:
            if alias in self.held:
                tensor: Tensor = self.held[alias]
                if tensor.shape != p.shape:
                    raise ValueError(
                        f"weight {name} must have shape {tuple(p.shape)}; got {tuple(tensor.shape)} in {self.path}"
                    )
                return tensor
        raise ValueError(
            f"the file of weights has every parameter of the model under its name; {name!r} is not in {self.path}: "
            "save model.state_dict()"
        )

    def _buffers(self, model: torch.nn.Module) -> dict[str, Tensor]:
        found = {}
        for name, t in model.named_buffers():
            if name in self.held:
                found[name] = self.held[name]
            elif t.is_meta:
                raise ValueError(
                    f"buffers of a model on the meta device come from the file; {name!r} is not in {self.path}: make "
                    'it persistent, or make the buffers where they have values (with torch.device("cpu"))'
                )
        return found

    def _check(self, name: str, p: Tensor) -> None:
        """Raises ValueError for what is not a parameter with numbers that can be cut."""
        if not p.is_floating_point():
            raise ValueError(
                f"parameters that are cut over ranks are real floating-point numbers; {name!r} is {p.dtype}: make it a "
                "buffer, which every rank has whole"
            )
        if self.path is not None:
            self._found(name, p)
            return
        if p.is_meta:
            raise ValueError(
                f"parameters must have values; {name!r} is on the meta device: pass weights=FILE (.safetensors or .pt)"
            )
        if _is_sharded(p):
            mesh, kinds = p.device_mesh, p.placements
            if mesh.ndim != 1 or not all(kind.is_shard() or kind.is_replicate() for kind in kinds):
                raise ValueError(
                    f"weights that are sharded already lie on a mesh of one dimension, as Shard or Replicate; {name!r} "
                    f"has {kinds} on {mesh.ndim} dimensions: save the whole state and pass weights=FILE"
                )
            if mesh.size() != torch.distributed.get_world_size():
                raise ValueError(
                    f"weights that are sharded already lie on all ranks; {name!r} is on {mesh.size()}: save the whole "
                    "state and pass weights=FILE"
                )


def _is_sharded(p: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor; where there is one, its module is loaded, which takes a second."""
    defined = sys.modules.get(TENSORS)
    return defined is not None and isinstance(p, defined.DTensor)


@contextmanager
def plain(model: torch.nn.Module) -> Iterator[None]:
    """FSDP2 is taken off for the block: classes and hooks are those of the user's modules."""
    changed = []
    try:
        for module in model.modules():
            kinds = type(module).__mro__
            if any(kind.__module__.startswith(SHARDING) for kind in kinds):
                hooks = {name: vars(module)[name] for name in HOOKS if name in vars(module)}
                states = {name: vars(module).pop(name) for name in [*vars(module)] if STATE in name}
                changed.append((module, type(module), {**hooks, **states}))
                module.__class__ = next(
                    k for k in kinds if not k.__module__.startswith(SHARDING) and not _made_by_fsdp(k)
                )
                for name, registered in hooks.items():
                    kept = {key: hook for key, hook in registered.items() if not _of_fsdp(hook)}
                    vars(module)[name] = type(registered)(kept)
        yield
    finally:
        for module, kind, held in changed:
            module.__class__ = kind
            vars(module).update(held)


STATE = "composable_api_state_key"
"""Within the names under which a module holds what torch's composable functions know of it."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")


def _made_by_fsdp(kind: type) -> bool:
    return any(base.__module__.startswith(SHARDING) for base in kind.__mro__)


def _of_fsdp(hook: Any) -> bool:
    owner = getattr(hook, "__self__", None)
    made = getattr(hook, "__module__", "") or ""
    return made.startswith(SHARDING) or (owner is not None and type(owner).__module__.startswith(SHARDING))


class _Lazy(Mapping[str, Tensor]):
    """The tensors of a safetensors file, mapped into memory one at a time."""

    def __init__(self, path: Path) -> None:
        self.file = cast(Any, safe_open(path, framework="pt", device="cpu"))
        self.names = set(self.file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def _opened(path: Path) -> Mapping[str, Any]:
    """Raises ValueError for a file of another kind, or none."""
    if not path.is_file():
        raise ValueError(f"weights={str(path)!r} must be a file that every rank can read; there is none")
    try:
        if path.suffix == ".safetensors":
            return _Lazy(path)
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ValueError(
            f"weights must be a .safetensors file or a state that torch.save wrote; {path} is not "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{path} must hold tensors by name: save model.state_dict()")
    return found
