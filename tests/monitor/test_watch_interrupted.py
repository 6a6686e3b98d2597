"""A watched training that is interrupted in a count, and one that goes on from weights on disk.

The oracle is the training that was not interrupted, to the last bit.
"""

import copy

import pytest
import torch
from torch import nn

from lanczos_saddle import SpectrumMonitor
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.reports.records import read

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * X[:, 1] > 0).long()
LOSS = nn.CrossEntropyLoss()
EVERY, LAST = 3, 6
ASKED = {"relative_threshold": 1e-3, "every": EVERY, "share": None, "probes": 2, "steps": 8}


class Training:
    """All that a training is: weights, momentum, dropout's random numbers; `saved` as a user's checkpoint."""

    def __init__(self, saved=None, **options):
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5, momentum=0.9)
        self.step = 0
        if saved is not None:
            weights, momentum, random, self.step = saved
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(momentum)
            torch.set_rng_state(random)
        self.monitor = SpectrumMonitor(self.model, LOSS, (X, Y), **{**ASKED, **options})

    def saved(self):
        parts = self.model.state_dict(), self.optimizer.state_dict(), torch.get_rng_state(), self.step
        return copy.deepcopy(parts)

    def run(self, until):
        while self.step <= until:
            self.monitor.step(self.step)
            self.optimizer.zero_grad()
            LOSS(self.model(X), Y).backward()
            self.optimizer.step()
            self.step += 1
        return self

    def weights(self):
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])


def seen(lines):
    """What the records say, but for times."""
    timed = ("seconds", "training", "share", "spent")
    return [{k: v for k, v in line["result"].items() if not any(name in k for name in timed)} for line in lines]


@pytest.fixture
def interrupted(monkeypatch):
    """interrupted(k): product k from now on is interrupted, once."""
    real, left = Curvature.__matmul__, []

    def times(self, v):
        if left:
            left[0] -= 1
            if left[0] == 0:
                left.clear()
                raise KeyboardInterrupt
        return real(self, v)

    monkeypatch.setattr(Curvature, "__matmul__", times)
    return left.append


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(the weights at the end, the records) of a training that was not interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return Training(record=path).run(LAST).weights(), seen(read(path))


@pytest.mark.parametrize("product", [1, 12])
def test_an_interrupt_in_a_count_leaves_training_and_monitor_as_they_were(tmp_path, whole, interrupted, product):
    training = Training(record=tmp_path / "run").run(EVERY - 1)
    before = training.saved()
    interrupted(product)
    with pytest.raises(KeyboardInterrupt):
        training.run(LAST)
    after = training.saved()
    assert after[3] == EVERY
    assert torch.equal(after[2], before[2])  # no random number was taken
    assert all(torch.equal(one, other) for one, other in zip(after[0].values(), before[0].values(), strict=True))
    assert torch.is_grad_enabled()
    assert training.monitor.count(EVERY) is not None  # the one that was cut short
    training.run(LAST)
    assert torch.equal(training.weights(), whole[0])
    assert seen(read(tmp_path / "run")) == whole[1]
    assert training.monitor.used > 0


def test_a_training_goes_on_with_its_record(tmp_path, whole):
    """Each count is a function of weights, samples and seed: two halves say what the whole does, on one record."""
    first = Training(record=tmp_path / "run").run(EVERY - 1)
    second = Training(first.saved(), record=tmp_path / "run").run(LAST)
    assert torch.equal(second.weights(), whole[0])
    lines = read(tmp_path / "run")
    assert [line["result"]["step"] for line in lines] == list(range(0, LAST + 1, EVERY))
    assert seen(lines) == whole[1]
