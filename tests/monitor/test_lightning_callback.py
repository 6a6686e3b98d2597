"""With Lightning itself: what its trainer trains is the same with and without the callback."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="lightning is not installed: make test-watch")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from lanczos_saddle import LightningSpectrum

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers.*:UserWarning"),  # where there are many cores
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),  # its own call of torch
]

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 3


def broken_loss(outputs, targets):
    return outputs.nothing


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        value = self.loss(self(batch[0]), batch[1])
        self.log("train_loss", value)
        return value

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def trained(folder, *callbacks, precision="32-true"):
    torch.manual_seed(0)
    module = Plain()
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", devices=1, callbacks=list(callbacks), logger=CSVLogger(folder),
        precision=precision,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True))
    return module, trainer


def same(first, second):
    modules = zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in modules)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_and_the_loggers_get_the_numbers(tmp_path, precision):
    alone = trained(tmp_path / "alone", precision=precision)
    state = torch.get_rng_state()
    callback = LightningSpectrum(nn.CrossEntropyLoss(), (X, Y), threshold=1e-3, every=4, share=None, method="exact")
    watched = trained(tmp_path / "watched", callback, precision=precision)
    assert same(alone, watched)
    assert torch.equal(torch.get_rng_state(), state)
    assert watched[0].training == alone[0].training
    monitor = callback.monitor
    assert not monitor.failures
    assert [(m.step, m.epoch) for m in monitor.moments] == [(0, 0.0), (4, 1.0), (8, 2.0)]
    with Path(watched[1].logger.log_dir, "metrics.csv").open() as file:
        logged = [row["hessian/negative"] for row in csv.DictReader(file) if row["hessian/negative"]]
    assert [float(value) for value in logged] == [m.counts.negative.estimate for m in monitor.moments]


def test_a_network_within_is_counted_alone_and_failures_end_nothing(tmp_path):
    module = LightningSpectrum(
        nn.CrossEntropyLoss(), (X, Y), network=lambda module: module.net, threshold=1e-3, share=None, method="exact"
    )
    broken = LightningSpectrum(broken_loss, (X, Y), threshold=1e-3, share=None, method="exact")
    assert same(trained(tmp_path / "alone"), trained(tmp_path / "both", module, broken))
    assert module.monitor.moments
    assert "nothing" in broken.monitor.failures[0].reason
