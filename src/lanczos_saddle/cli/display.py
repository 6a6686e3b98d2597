"""The stages of a command on stderr: one bar on a terminal, a line now and then elsewhere.

Stages say how far they are (`machine.progress`); what they say is drawn here, twice a second and from a thread of its
own, so that a long call is seen to go on, too. Nothing is drawn of a stage that ends within half a second.

Elsewhere than on a terminal a stage gets its first line when it has taken `NEW` seconds, and one more every `EVERY`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from lanczos_saddle.cli.console import covered, say
from lanczos_saddle.machine.progress import PRODUCT, Stage, watching

NEW, EVERY = 2.0, 30.0
"""Seconds before the first line of a stage, and between two lines of it."""

TICK = 0.5
"""Seconds between two drawings, and before the first."""

COLUMNS, WIDEST, NARROWEST = 80, 20, 4
"""Of a terminal that does not say how wide it is, and of a bar."""

THINNED = 64
"""Samples of a stage's pace are apart by its age divided by this."""


class Pace:
    """How fast a stage advances, from when it was seen to: over the later half of its time."""

    def __init__(self, now: float, done: float = 0) -> None:
        self.began = now
        self._samples = deque([(now, done)])
        self._last = (now, done)
        self._step = 0.0

    def see(self, now: float, done: float) -> None:
        """Where it is now."""
        if done == self._last[1]:
            return
        self._step, self._last = done - self._last[1], (now, done)
        if now - self._samples[-1][0] >= (now - self.began) / THINNED:
            self._samples.append(self._last)
        while len(self._samples) > 2 and self._samples[1][0] <= (self.began + now) / 2:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Units a second; None where it has not advanced yet."""
        (first, before), (last, after) = self._samples[0], self._last
        return (after - before) / (last - first) if last > first and after > before else None

    def left(self, now: float, total: float) -> float | None:
        """Seconds to the total, which fall between two advances, by one of them at most."""
        rate = self.rate()
        if rate is None:
            return None
        last, done = self._last
        return max((total - done) / rate - (now - last), (total - done - self._step) / rate, 0.0)


class Track:
    """An open stage, and how it went."""

    def __init__(self, stage: Stage, now: float) -> None:
        self.stage, self.pace, self.told = stage, Pace(now), False

    def age(self, now: float) -> float:
        """Seconds since it began."""
        return now - self.pace.began

    def left(self, now: float) -> float | None:
        """Seconds to its end; None where that is not foretold."""
        stage = self.stage
        if stage.seconds is not None:
            rest = stage.seconds - self.age(now)
            return rest if rest > 0 else None
        return None if stage.total is None else self.pace.left(now, stage.total)


class Display:
    """Draws the stages of a command on `stream`, a terminal or not; an `Observer`."""

    def __init__(
        self,
        stream: TextIO,
        *,
        terminal: bool,
        clock: Callable[[], float] = time.monotonic,
        line: Callable[[str], None] = say,
    ) -> None:
        self._stream, self._terminal, self._clock, self._line = stream, terminal, clock, line
        self._lock = threading.RLock()
        self._tracks: list[Track] = []
        self._bar: Any = None
        self._last_line = -EVERY
        self._made = 0  # products so far
        self._spent = (0.0, 0.0)  # seconds and products of stages that have ended
        self._ahead: int | None = None  # products to come when `_made` was `_since`
        self._since = 0
        self._after = 0.0  # seconds of work beside them

    def opened(self, stage: Stage) -> None:
        """A stage begins."""
        with self._lock:
            stage.clock = self._clock
            self._tracks.append(Track(stage, self._clock()))
            self._after = max(0.0, self._after - (stage.seconds or 0.0))

    def closed(self, stage: Stage, *, failed: bool) -> None:
        """A stage ends, and those within it that an iterator left open; one that took long leaves a line behind."""
        with self._lock:
            now, places = self._clock(), [i for i, track in enumerate(self._tracks) if track.stage is stage]
            if not places:
                return
            track = self._tracks[places[0]]
            del self._tracks[places[0] :]
            if stage.unit == PRODUCT and stage.done > 0:
                seconds, products = self._spent
                self._spent = seconds + track.age(now), products + stage.done
            if self._bar is not None:
                self._end_bar("" if failed or track.age(now) < NEW else self._summary(track, now))

    def made(self, products: int) -> None:
        """So many products more."""
        self._made += products

    def expect(self, products: int | None, seconds: float) -> None:
        """What is to come from here on."""
        with self._lock:
            self._ahead, self._since, self._after = products, self._made, seconds

    def tick(self) -> None:
        """Draw what there is to draw now."""
        with self._lock, suppress(OSError, ValueError):  # of a stream whose reader has gone
            now = self._clock()
            for track in self._tracks:
                track.pace.see(track.stage.at, track.stage.done)
            if self._terminal:
                self._draw(now)
            else:
                self._write(now)

    @contextmanager
    def covered(self) -> Iterator[None]:
        """The bar is away for the block, in which somebody else writes."""
        with self._lock:
            if self._bar is not None:
                self._bar.clear()
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Listen and draw for the block; leaves a clean terminal, whatever ends it."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(TICK):
                self.tick()

        thread = threading.Thread(target=work, name="progress", daemon=True)
        with watching(self), covered(self.covered):
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join(timeout=2 * TICK)
                self.close()

    def close(self) -> None:
        """No bar is left."""
        with self._lock, suppress(OSError, ValueError):
            self._tracks.clear()
            if self._bar is not None:
                self._end_bar("")

    def text(self, track: Track, now: float) -> str:
        """How far a stage is, how fast, what is left and what is known."""
        said = ", ".join([*self._amounts(track, now), *self._times(track, now)])
        return f"{said}; {track.stage.note}" if track.stage.note else said

    def short(self, track: Track, now: float, room: int) -> str:
        """The same in so many characters: what is left, what is known, and the rest as far as there is room."""
        times, note = self._times(track, now), track.stage.note.removeprefix("so far ")
        said = times[0] if times else self._amounts(track, now)[0]
        if note:
            parts = note.split("], ")  # an interval is shown whole or not at all
            ends = [*(f"{'], '.join(parts[:count])}] ..." for count in range(1, len(parts))), note]
            said = next((f"{said}; {end}" for end in reversed(ends) if len(said) + len(end) + 2 <= room), said)
        rest = [*times[1:], *(self._amounts(track, now) if times else self._amounts(track, now)[1:])]
        for part in rest:
            said = f"{said}, {part}" if len(said) + len(part) + 2 <= room else said
        return said[:room]

    def whole(self, track: Track, now: float) -> float | None:
        """Seconds to the end of the count, what follows the stage included; None where that is not foretold."""
        if self._ahead is None and self._after == 0:
            return None
        stage, left = track.stage, track.left(now)
        if left is None and (stage.total is not None or stage.seconds is not None):
            return None
        rest, rate = max(0, (self._ahead or 0) - (self._made - self._since)), None
        if stage.unit == PRODUCT:
            rest, rate = max(0, rest - max(0, round((stage.total or 0) - stage.done))), track.pace.rate()
        if rest and rate is None:
            seconds, products = self._spent
            rate = products / seconds if seconds > 0 else None
        if rest and rate is None:
            return None
        return (left or 0.0) + self._after + (rest / rate if rate else 0.0)

    def _amounts(self, track: Track, now: float) -> list[str]:
        """How much is done, and how fast."""
        stage, rate = track.stage, track.pace.rate()
        if rate is None or stage.unit in ("", "%"):
            return [self._amount(track, now)]
        pace = f"{rate:,.3g} {stage.unit}s/s" if rate >= 1 else f"{span(1 / rate)} a {stage.unit}"
        return [self._amount(track, now), pace]

    def _amount(self, track: Track, now: float) -> str:
        stage = track.stage
        if stage.unit == "%":
            return f"{min(stage.done, 100):.0f} %"
        if not stage.unit or (stage.total is None and not stage.done):
            return span(track.age(now)) + (f" of about {span(stage.seconds)}" if stage.seconds else "")
        units = stage.unit + ("" if stage.total == 1 else "s")
        if stage.total is None:
            return f"{stage.done:,.0f} {units}"
        bound = f"{stage.bound} " if stage.bound else ""
        return f"{stage.done:,.0f} of {bound}{max(stage.total, stage.done):,.0f} {units}"

    def _times(self, track: Track, now: float) -> list[str]:
        stage, left, whole, said = track.stage, track.left(now), self.whole(track, now), []
        if left is not None:
            said.append(f"{'up to' if stage.bound == 'at most' else 'about'} {span(left)} left")
        if whole is not None and whole > 1.05 * (left or 0.0) + 1:
            said.append(f"up to {span(whole)} left for the count")
        return said

    def _name(self, track: Track) -> str:
        """With what it is a part of."""
        names, outer = [track.stage.name], track.stage.outer
        while outer is not None:
            if outer.total is not None and outer.unit not in (PRODUCT, "%", ""):
                names.append(f"{outer.unit} {min(outer.done + 1, outer.total):.0f} of {outer.total:.0f}")
            elif outer.note and outer.unit != PRODUCT:
                names.append(outer.note)
            outer = outer.outer
        return ", ".join(reversed(names))

    def _summary(self, track: Track, now: float) -> str:
        done, units = track.stage.done, track.stage.unit
        amount = f"{done:,.0f} {units}s in " if done and units not in ("", "%") else ""
        note = f"; {track.stage.note}" if track.stage.note else ""
        return f"{self._name(track)}: {amount}{span(track.age(now))}{note}"

    def _write(self, now: float) -> None:
        """A line of the innermost stage that is old enough, if it is time for one."""
        track = next((track for track in reversed(self._tracks) if track.age(now) >= NEW), None)
        if track is None or (track.told and now - self._last_line < EVERY):
            return
        track.told, self._last_line = True, now
        self._line(f"{self._name(track)}: {self.text(track, now)}")

    def _draw(self, now: float) -> None:
        track = next((track for track in reversed(self._tracks) if track.age(now) >= TICK), None)
        if track is None:
            return
        stage, columns = track.stage, self._columns() - 1
        total = stage.seconds or stage.total
        done = track.age(now) if stage.seconds else stage.done
        head = self._name(track) + (f" {100 * min(1.0, done / total):3.0f}% " if total else ": ")
        text = self.short(track, now, max(0, columns - len(head)))
        width = min(WIDEST, columns - len(head) - len(text) - 3)
        layout = _escaped(head) + (f"|{{bar:{width}}}| " if total and width >= NARROWEST else "") + _escaped(text)
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, file=self._stream, bar_format=layout, leave=False, ncols=columns)
        self._bar.bar_format, self._bar.ncols = layout, columns
        self._bar.total, self._bar.n = total, min(done, total) if total else done
        self._bar.refresh()

    def _end_bar(self, last: str) -> None:
        """The bar goes; a text may stay in its place."""
        bar, self._bar = self._bar, None
        with suppress(OSError, ValueError):
            bar.close()
            if last:
                print(last, file=self._stream, flush=True)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or COLUMNS
        except (OSError, ValueError, AttributeError):
            return COLUMNS


@contextmanager
def displayed(*, silent: bool) -> Iterator[None]:
    """Show the stages of the block on stderr, unless `silent`."""
    if silent:
        yield
        return
    with Display(sys.stderr, terminal=sys.stderr.isatty()).running():
        yield


def span(seconds: float) -> str:
    """A time in words, as exact as such a guess may be: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 days."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours / 24:.0f} days"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
