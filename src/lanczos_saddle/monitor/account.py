"""Who used the time: seconds of training and of watching it, by one clock.

    a measurement may start     when     spent + foretold <= share * training

`training` is the wall clock since the first step without what was spent from then on. `spent` is all that the monitor
took, what it took before and between measurements included. What the next measurement takes is foretold as the dearer
of the last two and a quarter more: the first has imports and compilation in it, and no two take the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lanczos_saddle.operators.scalars import real

MORE = 1.25
"""Times the dearer of the last two: so much dearer may the next one be before the share is passed for a while."""


OUTSIDE = 2.0
"""Times what two looks at the clock show of a call that counts nothing: what comes before the first look and after the
last takes about as long as what is between them, a microsecond or two where a training step has emptied the caches."""


class Account:
    """The seconds of one run.

    Args:
        share: spent seconds, as a fraction of those of training, that measurements may reach; None for no limit.
        clock: seconds, of any origin.

    Raises ValueError for a share that is not between 0 and 1.
    """

    def __init__(self, share: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share = None if share is None else real("share", share)
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(
                f"share is a fraction of the training time, between 0 and 1; got {self.share}: pass 0.05 for 5 %, or "
                "None to count at every step that is due"
            )
        self.now = clock
        self._began: float | None = None
        self._ended: float | None = None
        self._last: deque[float] = deque(maxlen=2)
        self.spent = 0.0
        self._before = 0.0  # of it, before the clock was started

    def begin(self) -> None:
        """Start the clock, once; go on where it was ended, the pause left out."""
        if self._began is None:
            self._began = self.now()
        elif self._ended is not None:
            self._began += self.now() - self._ended
        self._ended = None

    def end(self) -> None:
        """Training is over, or pauses: what comes now is not its time."""
        self._ended = self.now() if self._ended is None else self._ended

    @property
    def training(self) -> float:
        """Seconds since the beginning, without those spent."""
        until = self.now() if self._ended is None else self._ended
        return 0.0 if self._began is None else until - self._began - (self.spent - self._before)

    @property
    def used(self) -> float:
        """Spent seconds as a fraction of those of training; infinite before any training."""
        training = self.training
        return self.spent / training if training > 0 else (float("inf") if self.spent else 0.0)

    @property
    def foretold(self) -> float:
        """Seconds that the next measurement is expected to take; 0 before the first, whose cost is not known."""
        return MORE * max(self._last, default=0.0)

    @property
    def affords(self) -> bool:
        """Whether the next measurement is foretold to stay within the share; of the first one always."""
        return self.share is None or not self._last or self.spent + self.foretold <= self.share * self.training

    def book(self, seconds: float) -> None:
        """Add what the monitor took without a measurement; before the beginning it is taken from no training."""
        self.spent += seconds
        if self._began is None:
            self._before += seconds

    def enter(self) -> float:
        """A call begins, and with the first one the training: the time now."""
        now = self.now()
        if self._began is None or self._ended is not None:
            self.begin()
        return now

    def leave(self, entered: float) -> None:
        """A call that counts nothing ends."""
        self.spent += OUTSIDE * (self.now() - entered)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Book the time of the block as a measurement, whether or not it ends well."""
        self.begin()
        began = self.now()
        try:
            yield
        finally:
            self._last.append(self.now() - began)
            self.spent += self._last[-1]
