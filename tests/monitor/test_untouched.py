"""Runs with and without a monitor, compared bit by bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lanczos_saddle import Hessian, SpectrumMonitor
from lanczos_saddle.monitor.untouched import copied, untouched

LOSS = nn.CrossEntropyLoss()
ASKED = {"threshold": 1e-3, "every": 3, "share": None, "method": "exact"}
DATA = (torch.randn(48, 4, generator=torch.Generator().manual_seed(2)), torch.arange(48) % 3)


def network():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)
    )
    model[4].weight.requires_grad_(False)  # whose gradient stays None
    return model


class Noisy(torch.utils.data.Dataset):
    """Augmentation by all three global generators."""

    def __len__(self):
        return 48

    def __getitem__(self, i):
        noise = torch.randn(4) + np.random.randn() + random.random()  # noqa: NPY002
        return DATA[0][i] + 0.01 * noise.float(), DATA[1][i]


def trained(watch, *, wrap=lambda model: model):
    """Everything that a run leaves behind, as one nest; `watch(model)` is called where the gradients are fresh."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    model = network()
    model[1].eval()  # frozen statistics, in a model that trains
    model[1].train()
    model[5].eval()
    called = wrap(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(Noisy(), batch_size=16, shuffle=True)
    seen, step = [], watch(called)
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            LOSS(called(x), y).backward()
            step()
            optimizer.step()
            seen.append((x, y))
    gradients = {name: p.grad for name, p in model.named_parameters()}
    states = [torch.get_rng_state(), random.getstate(), *np.random.get_state()]  # noqa: NPY002
    modes = {name: module.training for name, module in model.named_modules()}
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    rest = [torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()]
    return [dict(model.state_dict()), gradients, optimizer.state_dict(), seen, states, modes, wanted, rest]


def alike(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def unwatched(model):
    return lambda: None


@pytest.fixture(scope="module")
def alone():
    return trained(unwatched)


def test_the_comparison_sees_a_bit(alone):
    again = trained(unwatched)
    assert alike(alone, again)
    again[0]["0.bias"][0] = torch.nextafter(again[0]["0.bias"][0], torch.tensor(9.0))
    assert not alike(alone, again)


def drawing(copy):
    """Draws from everything global, changes what it can, then fails."""
    torch.randn(5)
    np.random.randn(5)  # noqa: NPY002
    random.random()
    torch.set_default_dtype(torch.float64)
    for p in copy.parameters():
        p.data.zero_()
    raise RuntimeError("no curvature today")


def watching(*args, around=None, **options):
    def watch(model):
        monitor = SpectrumMonitor(model, *args, **{**ASKED, **options})
        watch.monitor = monitor

        def step():
            if around is None:
                monitor.step()
            else:
                with around():
                    monitor.step()

        return step

    return watch


def exploding(numbers, step):
    raise OSError("the dashboard is down")


@pytest.mark.parametrize(
    "around", [None, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)]
)
def test_training_is_the_same_to_the_last_bit(alone, around):
    watch = watching(LOSS, DATA, around=around)
    assert alike(alone, trained(watch))
    assert len(watch.monitor.moments) == 4
    assert not watch.monitor.failures
    assert {m.counts.check.fidelity.arithmetic for m in watch.monitor.moments} <= {"float64", "torch.float64"}


def test_it_is_the_same_when_the_products_are_sampled(alone):
    watch = watching(LOSS, DATA, method="lanczos", probes=2, steps=5, threshold=1e-2)
    assert alike(alone, trained(watch))
    assert len(watch.monitor.moments) == 4


@pytest.mark.parametrize(
    ("args", "options", "reason"),
    [
        ((), {"operator": drawing}, "no curvature today"),
        ((LOSS, DATA), {"log_fn": exploding}, "the dashboard is down"),
        ((lambda z, y: LOSS(z, y) + float("nan"), DATA), {}, "finite"),
    ],
)
def test_it_is_the_same_when_a_count_fails(alone, args, options, reason, caplog):
    watch = watching(*args, **options)
    assert alike(alone, trained(watch))
    assert [failure.step for failure in watch.monitor.failures] == [1, 3, 6, 9]
    assert all(reason in failure.reason for failure in watch.monitor.failures)
    assert sum(reason in message for message in caplog.messages) == 1  # said once
    assert reason in watch.monitor.close()


def test_an_interrupt_passes_and_global_state_is_back():
    def interrupted(copy):
        torch.randn(3)
        raise KeyboardInterrupt

    monitor = SpectrumMonitor(network(), operator=interrupted, **ASKED)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        monitor.step(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_models_are_watched_as_they_were_written():
    model = network()
    twin, _ = copied(torch.compile(model, backend="eager"), LOSS)
    assert type(twin) is nn.Sequential
    assert alike(dict(twin.state_dict()), dict(model.state_dict()))


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_of_ranks_with_equal_weights_the_module_inside_is_counted(alone, one_rank):
    watch = watching(LOSS, DATA)
    found = trained(watch, wrap=nn.parallel.DistributedDataParallel)
    assert alike(alone[:2], found[:2])
    assert len(watch.monitor.moments) == 4
    assert not watch.monitor.failures


@pytest.mark.filterwarnings("ignore")  # torch's own, of a mesh without devices
def test_sharded_parameters_are_refused(one_rank):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fsdp.fully_shard(model, mesh=mesh)
    with pytest.raises(ValueError, match="spread over ranks"):
        SpectrumMonitor(model, LOSS, DATA, **ASKED)


class Keeps(nn.Module):
    """A model that keeps an activation, and refers to what must not be copied."""

    def __init__(self, owner):
        super().__init__()
        self.inner, self.owner, self.last = network(), owner, None

    def forward(self, x):
        self.last = self.inner(x)
        return self.last


class Owner:
    def __deepcopy__(self, memo):
        raise AssertionError("copied")


def test_a_copy_leaves_graphs_gradients_and_shared_objects():
    owner = Owner()
    model = Keeps(owner)
    LOSS(model(DATA[0]), DATA[1]).backward()
    graph, gradient = model.last, model.inner[0].weight.grad
    twin, loss = copied(model, nn.CrossEntropyLoss(), (owner,))
    assert twin.owner is owner
    assert twin.last.grad_fn is None
    assert not any(module.training for module in [*twin.modules(), *loss.modules()])
    assert all(p.grad is None for p in twin.parameters())
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert model.last is graph
    assert model.inner[0].weight.grad is gradient
    assert model.training


def test_a_loss_that_holds_the_model_holds_its_copy():
    class Decay(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, z, y):
            return LOSS(z, y) + 1e-2 * sum(p.square().sum() for p in self.model.parameters())

    model = network().requires_grad_(True)
    twin, loss = copied(model, Decay(model))
    assert loss.model is twin
    H = Hessian(twin, loss, DATA, dtype=torch.float64)
    plain = Hessian(twin, LOSS, DATA, dtype=torch.float64)
    v = torch.ones(H.shape[0], dtype=torch.float64)
    assert torch.allclose(H @ v - plain @ v, 2e-2 * v, atol=1e-9)


def test_global_state_is_put_back():
    before = [torch.get_rng_state(), random.getstate(), np.random.get_state(), torch.get_default_dtype()]  # noqa: NPY002
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with untouched(torch.device("cpu")):
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
            torch.manual_seed(9)
            random.seed(9)
            np.random.seed(9)  # noqa: NPY002
            torch.set_default_dtype(torch.float64)
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    after = [torch.get_rng_state(), random.getstate(), np.random.get_state(), torch.get_default_dtype()]  # noqa: NPY002
    assert alike(before, after)
