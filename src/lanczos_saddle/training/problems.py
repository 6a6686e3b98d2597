"""Problems by name: (model, loss, data), as the command line takes them.

    digits                     MLP 64-25-10, trained in seconds on the images that scikit-learn ships
    mnist                      MLP 784-25-10, the paper's; needs the MNIST files
    package.module:function    a function of the user's that returns (model, loss, data), or a Hessian
    path/to/file.py:function   the same in a file, wherever it lies

A built-in network is trained once for each seed and cached as a checkpoint. Its file name holds a digest of
all that decides the weights, so a change of data, sizes or settings trains anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lanczos_saddle.networks.hessian import Hessian
from lanczos_saddle.reports import records
from lanczos_saddle.training import datasets
from lanczos_saddle.training.checkpoints import apply_weights, load_checkpoint, save_checkpoint
from lanczos_saddle.training.networks import mlp
from lanczos_saddle.training.training import TrainingSettings, train

RECIPE_VERSION = 1  # raise it when a change in this package changes the weights a recipe leads to


@dataclass(frozen=True)
class Recipe:
    """What decides the weights of a built-in problem, beside its seed and its data."""

    dataset: str
    sizes: tuple[int, ...]
    initialization: str
    settings: TrainingSettings


BUILT_IN = {
    "digits": Recipe("digits", (64, 25, 10), "normal", TrainingSettings(epochs_max=200)),
    "mnist": Recipe("mnist", (784, 25, 10), "normal", TrainingSettings()),
}


@dataclass(frozen=True)
class NamedProblem:
    """What `Hessian` needs, and where it came from."""

    name: str
    model: nn.Module
    loss: Callable[[Any, Any], Any] | None  # (outputs, targets) -> scalar, mean over samples; None: the model's own
    data: Any  # (inputs, targets) or a re-iterable of batches
    provenance: Mapping[str, Any]
    hessian: Hessian | None = None  # what the function returned instead of the three


class MissingModuleError(ModuleNotFoundError, ValueError):
    """A module of the user's imports another one that is not there."""


class FileNotAModuleError(FileNotFoundError, ValueError):
    """A file that a problem is to be taken from is not there."""


class ProblemRaisedError(ValueError):
    """The user's function raised; its own error is the cause."""


def problem(
    name: str, *, seed: int = 0, cache: str | os.PathLike[str] | None = None, progress: bool = False
) -> NamedProblem:
    """The problem that the command line calls `name`: a built-in, or a function of the user's (no seed).

    Raises:
        ValueError: as `built_in` and `from_spec` do.
    """
    return from_spec(name) if ":" in name else built_in(name, seed=seed, cache=cache, progress=progress)


def built_in(
    name: str, *, seed: int = 0, cache: str | os.PathLike[str] | None = None, progress: bool = False
) -> NamedProblem:
    """The trained network, nn.CrossEntropyLoss() and the training set (x, y), all on the CPU in float32.

    The checkpoint lies in `cache`, by default the folder checkpoints in the user's cache folder. Training
    takes about a second for digits and ten for mnist.

    Raises:
        ValueError: for an unknown name, a negative seed, missing data (`DataNotFoundError`), a damaged
            checkpoint, or a cache folder that cannot be written (before training).
    """
    if name not in BUILT_IN and name.endswith(".py"):
        raise ValueError(f"a problem in a file is named file.py:function; got {name!r}: add the function's name to it")
    if name not in BUILT_IN:
        raise ValueError(
            f"a problem is one of {', '.join(BUILT_IN)}, package.module:function, file.py:function, or a matrix file "
            f"(.mtx, .npz, .npy); got {name!r}"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2^63 - 1; got {seed!r}")
    recipe = BUILT_IN[name]
    dataset = datasets.load(recipe.dataset)
    path = _checkpoint_path(
        name, recipe, dataset, seed, Path(cache) if cache else datasets.cache_root() / "checkpoints"
    )
    if not path.is_file():
        _train_and_save(path, name, recipe, dataset, seed, progress)
    model = mlp(recipe.sizes, generator=torch.Generator(), initialization=recipe.initialization)
    return NamedProblem(name, model, nn.CrossEntropyLoss(), (dataset.x_train, dataset.y_train), _restore(model, path))


def from_spec(spec: str) -> NamedProblem:
    """Import a module or a file, call its function without arguments, and take (model, loss, data) from it.

    `spec`: package.module:function, or path/to/file.py:function, whose file is imported under a name of its own and
    shadows no module. The only foreign code that the package runs, and only when named. Modules in the working folder
    are found, and those beside the file.

    Raises:
        ValueError: for a malformed name, a missing module or function, or another return value, or a module
            that cannot be imported. What the user's function raises, or an exit, is the cause of a
            `ProblemRaisedError` that says where.
    """
    place, _, function_name = spec.rpartition(":")
    of_file = place.endswith(".py")
    if not all(part.isidentifier() for part in [*([] if of_file else place.split(".")), function_name]):
        raise ValueError(
            f"a problem function is named package.module:function or path/to/file.py:function; got {spec!r}"
        )
    with _importable(*([Path(place).resolve().parent] if of_file else []), Path.cwd()):
        returned = _called(_function(place, function_name), spec)
    if isinstance(returned, Hessian):
        return NamedProblem(spec, nn.Identity(), None, (), {"problem": spec}, returned)
    if not isinstance(returned, tuple | list) or len(returned) != 3:
        raise ValueError(f"{spec} must return the three (model, loss, data), or a Hessian; got {_shape_of(returned)}")
    model, loss, data = returned
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must return a torch.nn.Module first; got {type(model).__name__}")
    if loss is not None and not callable(loss):
        raise ValueError(f"{spec} must return a loss(outputs, targets) second, or None; got {type(loss).__name__}")
    if not hasattr(data, "__iter__"):
        raise ValueError(f"{spec} must return (inputs, targets) or batches third; got {type(data).__name__}")
    return NamedProblem(spec, model, loss, data, {"problem": spec})


def _called(function: Callable[[], Any], spec: str) -> Any:
    """What the user's function returns; of a coroutine that nobody awaits no more is heard."""
    try:
        returned = function()
    except (Exception, SystemExit) as error:
        raised = (
            f"ended the program, exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {_told(error)}"
        )
        raise ProblemRaisedError(
            f"{spec} must return (model, loss, data); it {raised}{_place(error)}: mend it, --traceback shows where"
        ) from error
    if inspect.iscoroutine(returned):
        returned.close()
    return returned


def _train_and_save(
    path: Path, name: str, recipe: Recipe, dataset: datasets.Dataset, seed: int, progress: bool
) -> None:
    """Train from the seed and write the checkpoint; whether the folder takes files is tried first."""
    _check_writable(path.parent)
    generator = torch.Generator().manual_seed(seed)
    model = mlp(recipe.sizes, generator=generator, initialization=recipe.initialization)
    result = train(model, dataset, generator=generator, settings=recipe.settings, progress=progress)
    facts = {field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "history"}
    save_checkpoint(
        path,
        model,
        {
            "problem": name,
            "sizes": recipe.sizes,
            "initialization": recipe.initialization,
            "seed": seed,
            "data_digest": dataset.digest,
            **facts,
            "trained": records.provenance(),
        },
    )


def _restore(model: nn.Module, path: Path) -> dict[str, Any]:
    """Put the checkpoint into the model; returns its provenance."""
    try:
        tensors, provenance = load_checkpoint(path)
        apply_weights(model, tensors)
    except ValueError as error:
        raise ValueError(f"{error}: delete this cached checkpoint to train it anew") from error
    return provenance


def _checkpoint_path(name: str, recipe: Recipe, dataset: datasets.Dataset, seed: int, folder: Path) -> Path:
    decides = [RECIPE_VERSION, records.to_json(recipe), dataset.digest, seed]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{name}-seed{seed}-{key}.safetensors"


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"the cache folder must be writable; {folder} is not: set XDG_CACHE_HOME, or pass another cache"
        )


def _function(module_name: str, function_name: str) -> Callable[[], Any]:
    module = _module(module_name, function_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"module {module_name} must have a function {function_name} that returns (model, loss, data)")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{module_name}:{function_name} must be callable without arguments; {error}") from error
    except ValueError:  # a builtin, whose arguments nobody knows
        pass
    checked: Callable[[], Any] = function
    return checked


def _module(module_name: str, function_name: str) -> ModuleType:
    try:
        return _from_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise MissingModuleError(_unimportable(module_name, error)) from error
        raise ValueError(f"there is no module {error.name} to import {module_name}:{function_name} from") from error
    except FileNotAModuleError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(_unimportable(module_name, error)) from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, anew at every call, known to pickle and dataclasses as long as the process runs."""
    if path.is_dir():
        raise FileNotAModuleError(f"a problem is taken from a file; {path} is a folder: name a file in it")
    if not path.is_file():
        raise FileNotAModuleError(
            f"there is no file {path} to take a problem from: `lanczos-saddle new {path}` writes one"
        )
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"problem_{digest}_{path.stem}", path)
    assert spec is not None  # .py files have a loader
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


@contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """The folders at the end of sys.path for the block, where they shadow nothing."""
    added = [str(folder) for folder in folders]
    sys.path += added
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _unimportable(module_name: str, error: BaseException) -> str:
    """What the user's module raised, and at which line of which file."""
    return f"module {module_name} cannot be imported: {_told(error)}{_place(error)}: mend it first"


def _told(error: BaseException) -> str:
    """The type of an error, and what it says, if anything."""
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _place(error: BaseException) -> str:
    """The last line of the user's that an error passed, of other files than this one and the importing machinery."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _shape_of(value: Any) -> str:
    return f"{len(value)} things" if isinstance(value, tuple | list) else type(value).__name__
