"""`SpectrumMonitor` as a callback of the Trainer of transformers; needs lanczos-saddle[transformers]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lanczos_saddle.machine.extras import require
from lanczos_saddle.monitor.watch import SpectrumMonitor

require("transformers", "transformers")
require("accelerate", "transformers")
from transformers import TrainerCallback  # noqa: E402


class TrainerSpectrum(TrainerCallback):  # type: ignore[misc]  # of a library that is not always there
    """Counts while Hugging Face's Trainer trains: ``trainer.add_callback(TrainerSpectrum(batch, threshold=1e-3))``.

    Args:
        data: what the model is called with, labels included, or a list or loader of such batches. A loss of your own
            takes (inputs, targets), as of `SpectrumMonitor`.
        loss: loss(outputs, targets); None: the model's own.
        options: the keywords of `SpectrumMonitor`, `log_fn` and `record` among them.

    `monitor` is there from the start of training on. Steps are the trainer's `global_step`. Whatever its precision, a
    float64 copy of the model is counted. On several ranks the first one counts; sharded parameters (FSDP, ZeRO-3) are
    refused.

    Raises ModuleNotFoundError without transformers and accelerate; when training starts what `SpectrumMonitor` raises.
    """

    monitor: SpectrumMonitor | None = None

    def __init__(self, data: Any = None, *, loss: Callable[..., Any] | None = None, **options: Any) -> None:
        self._given, self._options = (loss, data), options

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Begin to watch, with a first count."""
        self.monitor = SpectrumMonitor(model, *self._given, **self._options)
        self.monitor.step(state.global_step, epoch=float(state.epoch or 0.0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Count if it is due."""
        if self.monitor is not None:
            self.monitor.step(state.global_step, epoch=state.epoch)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Log what it cost."""
        if self.monitor is not None:
            self.monitor.close()
