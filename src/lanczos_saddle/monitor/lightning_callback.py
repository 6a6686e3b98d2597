"""`SpectrumMonitor` as a callback of Lightning's trainer; needs lanczos-saddle[lightning]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lanczos_saddle.machine.extras import require
from lanczos_saddle.monitor.watch import SpectrumMonitor

require("lightning", "lightning")
from lightning.pytorch.callbacks import Callback  # noqa: E402


class LightningSpectrum(Callback):  # type: ignore[misc]  # of a library that is not always there
    """Counts while Lightning trains: ``Trainer(callbacks=[LightningSpectrum(loss, (x, y), relative_threshold=1e-3)])``.

    Args:
        loss, data: as of `SpectrumMonitor`; both None where `operator` is among the options.
        network: network(lightning_module) -> the module that is called as module(inputs); the Lightning module if not
            given, whose `forward` is called then.
        options: the keywords of `SpectrumMonitor`. Without `log_fn` the trainer's loggers get the numbers.

    `monitor` is there from the start of training on. Steps are the trainer's `global_step`, optimizer steps; epochs are
    counted from 0. Whatever the precision of the trainer, a float64 copy of the network is counted.

    Raises ModuleNotFoundError without Lightning, and what `SpectrumMonitor` raises when training starts.
    """

    monitor: SpectrumMonitor | None = None

    def __init__(
        self,
        loss: Callable[..., Any] | None = None,
        data: Any = None,
        *,
        network: Callable[[Any], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self._given, self._network, self._options = (loss, data), network, options

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch, with a first count."""
        model = pl_module if self._network is None else self._network(pl_module)
        options = {"log_fn": _to_loggers(trainer), "shared": (trainer,), **self._options}
        self.monitor = SpectrumMonitor(model, *self._given, **options)
        self.monitor.step(trainer.global_step, epoch=float(trainer.current_epoch))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Count if it is due; a batch without an optimizer step changes nothing."""
        if self.monitor is not None:
            epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self.monitor.step(trainer.global_step, epoch=epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Log what it cost."""
        if self.monitor is not None:
            self.monitor.close()


def _to_loggers(trainer: Any) -> Callable[[dict[str, float], int], None]:
    def log(numbers: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)

    return log
