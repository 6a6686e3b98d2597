import sys
from pathlib import Path

import pytest
import torch
from needs import needs_data
from torch import nn

from lanczos_saddle.training import problems
from lanczos_saddle.training.checkpoints import apply_weights, load_weights, sequential_names
from lanczos_saddle.training.datasets import DataNotFoundError, load
from lanczos_saddle.training.evaluation import evaluate, loss_and_gradient_norm
from lanczos_saddle.training.networks import mlp
from lanczos_saddle.training.problems import built_in, from_spec, problem
from lanczos_saddle.training.training import TrainingSettings

REFERENCE = Path(__file__).parents[2] / "validate" / "reference" / "mnist-784-25-10.npz"


@pytest.fixture
def quick(monkeypatch):
    """Digits with one epoch, so that what is tested is the cache."""
    recipe = problems.Recipe("digits", (64, 4, 10), "normal", TrainingSettings(epochs_min=1, epochs_max=1))
    monkeypatch.setitem(problems.BUILT_IN, "digits", recipe)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A working folder with a module of problem functions, named for this test alone."""
    monkeypatch.chdir(tmp_path)
    name = "problem_functions_of_a_user"
    (tmp_path / f"{name}.py").write_text(
        "import torch\n"
        "def good(): return torch.nn.Linear(2, 1), torch.nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 1))\n"
        "def pair(): return torch.nn.Linear(2, 1), torch.nn.MSELoss()\n"
        "def nothing(): return None\n"
        "def no_model(): return 1, torch.nn.MSELoss(), []\n"
        "def no_loss(): return torch.nn.Linear(2, 1), 1, []\n"
        "def no_data(): return torch.nn.Linear(2, 1), torch.nn.MSELoss(), 1\n"
        "def fails(): raise KeyError('of the user')\n"
        "number = 3\n"
    )
    (tmp_path / "imports_what_is_absent.py").write_text("import absent_dependency\n")
    yield name
    for module in (name, "imports_what_is_absent"):
        sys.modules.pop(module, None)


def test_digits_is_trained_once_and_cached(tmp_path):
    first = built_in("digits", cache=tmp_path)
    (checkpoint,) = tmp_path.iterdir()
    written = checkpoint.stat().st_mtime_ns
    second = problem("digits", cache=tmp_path)
    assert checkpoint.stat().st_mtime_ns == written
    assert first.provenance == second.provenance
    x, y = second.data
    assert (x.shape, y.shape) == ((1500, 64), (1500,))
    assert isinstance(second.loss, nn.CrossEntropyLoss)
    assert sum(p.numel() for p in second.model.parameters()) == 64 * 25 + 25 + 25 * 10 + 10
    loss, norm = loss_and_gradient_norm(second.model, x, y)
    assert (loss, norm) == pytest.approx((first.provenance["loss"], first.provenance["gradient_norm"]))
    assert first.provenance["test_accuracy"] > 0.93
    assert {"sizes", "seed", "data_digest", "settings", "epochs", "trained"} <= first.provenance.keys()


@pytest.mark.usefixtures("quick")
def test_seed_and_settings_have_their_own_checkpoint(tmp_path, monkeypatch):
    zero, one = (built_in("digits", seed=seed, cache=tmp_path) for seed in (0, 1))
    assert not torch.equal(zero.model[0].weight, one.model[0].weight)
    monkeypatch.setattr(problems, "RECIPE_VERSION", 0)
    again = built_in("digits", seed=0, cache=tmp_path)
    assert torch.equal(zero.model[0].weight, again.model[0].weight)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("quick")
def test_the_cache_is_in_the_cache_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built_in("digits")
    assert len(list((tmp_path / "lanczos_saddle" / "checkpoints").glob("digits-seed0-*.safetensors"))) == 1


@pytest.mark.usefixtures("quick")
def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path):
    built_in("digits", cache=tmp_path)
    (checkpoint,) = tmp_path.iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"digits-seed0-\w+\.safetensors must be .*delete this cached checkpoint"):
        built_in("digits", cache=tmp_path)


@pytest.mark.usefixtures("quick")
def test_a_cache_that_is_a_file_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "train", None)
    (tmp_path / "cache").write_text("")
    with pytest.raises(ValueError, match=r"cache folder must be writable.*XDG_CACHE_HOME"):
        built_in("digits", cache=tmp_path / "cache")


@pytest.mark.parametrize(("name", "seed"), [("imagenet", 0), ("digits", -1), ("digits", 1.5)])
def test_names_and_seeds_that_are_none(name, seed):
    with pytest.raises(ValueError, match=r"a problem is one of digits, mnist, package|seed must be a whole number"):
        built_in(name, seed=seed)


def test_mnist_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCZOS_SADDLE_DATA", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="MNIST needs the file"):
        problem("mnist", cache=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


@needs_data("mnist")
def test_the_reference_weights_have_their_stated_loss_and_accuracy():
    data = load("mnist")
    model = mlp([784, 25, 10], generator=torch.Generator())
    arrays = load_weights(REFERENCE)
    apply_weights(model, sequential_names(arrays))
    loss, _ = loss_and_gradient_norm(model, data.x_train, data.y_train)
    assert round(loss, 4) == 0.0248
    assert round(100 * evaluate(model, data.x_test, data.y_test).accuracy, 1) == 96.5
    mean = torch.as_tensor(arrays["pixel_mean"])
    raw = data.x_train[0] + mean  # pixels / 255, up to the rounding of float32 values below 1
    assert (raw * 255 - (raw * 255).round()).abs().max() < 255 * 3e-7


def test_a_function_of_the_user(modules):
    path = list(sys.path)
    found = problem(f"{modules}:good")
    assert (found.name, found.provenance) == (f"{modules}:good", {"problem": f"{modules}:good"})
    assert isinstance(found.model, nn.Linear)
    assert isinstance(found.loss, nn.MSELoss)
    assert found.data[0].shape == (3, 2)
    assert sys.path == path


@pytest.mark.parametrize("spec", ["", "module", "module:", ":function", "a b:f", "a..b:f", "a:f()", "a:b:c", "a.py:f"])
def test_malformed_names(spec, modules):
    message = r"file\.py:function; got" if spec != "a.py:f" else "there is no file a.py"
    with pytest.raises(ValueError, match=message):
        from_spec(spec)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "must have a function absent"),
        ("number", "must have a function number"),
        ("pair", r"must return the three \(model, loss, data\), or a Hessian; got 2 things"),
        ("nothing", "got NoneType"),
        ("no_model", r"a torch\.nn\.Module first; got int"),
        ("no_loss", r"loss\(outputs, targets\) second, or None; got int"),
        ("no_data", "or batches third; got int"),
    ],
)
def test_functions_that_return_something_else(modules, function, message):
    with pytest.raises(ValueError, match=message):
        from_spec(f"{modules}:{function}")


def test_modules_that_are_absent_and_errors_of_the_user(modules):
    with pytest.raises(ValueError, match=r"there is no module no_such_package to import no_such_package.module:f"):
        from_spec("no_such_package.module:f")
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        from_spec("imports_what_is_absent:f")
    with pytest.raises(ValueError, match=r"it raised KeyError: 'of the user' \(.*\.py, line \d+\)") as failed:
        from_spec(f"{modules}:fails")
    assert isinstance(failed.value.__cause__, KeyError)
