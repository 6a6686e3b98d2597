"""The bar and the lines of a command on stderr, by a clock of their own, and what a terminal shows in the end."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from lanczos_saddle import count_eigenvalues
from lanczos_saddle.cli import display
from lanczos_saddle.cli.display import COLUMNS, EVERY, NEW, Display, Pace, span
from lanczos_saddle.cli.entry import main
from lanczos_saddle.machine.progress import expect, made, stage, watching


@pytest.fixture(autouse=True)
def _lines(monkeypatch):
    monkeypatch.setattr(display, "NEW", NEW)


class Clock:
    """Time that passes when it is told to; every passing is seen by the display."""

    def __init__(self):
        self.now, self.screen = 0.0, None

    def __call__(self):
        return self.now

    def passes(self, seconds):
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + display.TICK)
            self.screen.tick()


class Lines(list):
    """Lines with the time at which each was written."""

    def __init__(self, clock):
        self.clock = clock

    def __call__(self, text):
        self.append((self.clock.now, text))


@pytest.fixture
def plain():
    clock = Clock()
    lines = Lines(clock)
    clock.screen = Display(io.StringIO(), terminal=False, clock=clock, line=lines)
    return clock, lines


def seconds_in(text):
    """The first time that is left, in seconds."""
    words = re.search(r"(?:about|up to) ([^,;]*) left", text).group(1).split()
    units = {"s": 1, "min": 60, "h": 3600, "days": 86400}
    return sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


# --- how fast, how long ---------------------------------------------------------------------------------------


def test_time_left_is_exact_at_a_steady_pace_and_falls_with_every_second():
    pace, lefts = Pace(0.0), []
    assert pace.left(0.0, 100) is None
    for half in range(1, 201):
        now = half / 2
        pace.see(now, now // 5 * 5)  # five units at once, every five seconds
        left = pace.left(now, 100)
        if left is not None:
            lefts.append(left)
            assert left == pytest.approx(100 - now, abs=1e-9)
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == 0.0


def test_a_pace_that_slows_is_that_of_the_later_half():
    pace = Pace(0.0)
    for t in range(1, 101):
        pace.see(float(t), 10.0 * t)
    for t in range(101, 301):
        pace.see(float(t), 1000.0 + (t - 100))
    assert pace.rate() == pytest.approx(1.0, rel=1e-9)
    assert pace.left(300.0, 1300) == pytest.approx(100.0)
    assert len(pace._samples) <= 2 * display.THINNED


def test_a_unit_that_takes_longer_than_the_others_is_not_said_to_be_over():
    pace = Pace(0.0)
    for t in range(1, 11):
        pace.see(float(t), float(t))
    assert pace.left(100.0, 20) == pytest.approx(9.0)  # nine units after the one that takes so long


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.44, "0.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
        (200, "3 min 20 s"), (599.7, "10 min"), (3569, "59 min"), (3571, "1 h"), (7500, "2 h 5 min"),
        (260000, "3 days"),
    ],
)  # fmt: skip
def test_times_in_words(seconds, text):
    assert span(seconds) == text


# --- lines ----------------------------------------------------------------------------------------------------


def test_lines_come_when_a_stage_has_taken_two_seconds_and_every_thirty(plain):
    clock, lines = plain
    with watching(clock.screen):
        for name, steps in (("short", 3), ("long", 200), ("longer", 100)):
            with stage(name, steps) as told:
                for _ in range(steps):
                    clock.passes(0.5)
                    made(1)
                assert told.done == told.total
    times = [t for t, _ in lines]
    assert [text.partition(":")[0] for _, text in lines] == ["long"] * 4 + ["longer"] * 2
    assert times == [1.5 + NEW, 1.5 + NEW + EVERY, 1.5 + NEW + 2 * EVERY, 1.5 + NEW + 3 * EVERY, 103.5, 103.5 + EVERY]
    assert lines[0][1] == "long: 3 of 200 products, 2 products/s, about 1 min 38 s left"


def test_time_left_falls_from_line_to_line_and_totals_are_not_exceeded(plain):
    clock, lines = plain
    with watching(clock.screen), stage("lanczos", 744, bound="at most") as told:
        told.say("so far neg [1, 2]")
        for _ in range(93):
            clock.passes(3.3)
            made(8)
    assert lines.pop(0) == (NEW, "lanczos: 0 of at most 744 products; so far neg [1, 2]")
    lefts = [seconds_in(text) for _, text in lines]
    assert len(lefts) == 10
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[0] == pytest.approx(93 * 3.3 - lines[0][0], abs=4)
    for at, text in lines:
        assert text.endswith("; so far neg [1, 2]")
        found = re.search(r"(\d+) of at most 744 products", text)
        assert int(found.group(1)) == int((at - 1e-6) // 3.3) * 8 <= 744
        assert "up to" in text


def test_what_is_left_of_the_count_is_said_where_it_is_more_than_of_the_stage(plain):
    clock, lines = plain
    with watching(clock.screen):
        expect(400)
        with stage("pilot", 40) as told:
            for _ in range(40):
                clock.passes(1)
                made(1)
        with stage("lanczos", 360):
            for _ in range(36):
                clock.passes(10)
                made(10)
    first, second = (next(text for _, text in lines if text.startswith(name)) for name in ("pilot", "lanczos"))
    assert first == "pilot: 1 of 40 products, 1 products/s, about 38 s left, up to 6 min 38 s left for the count"
    assert second.startswith("lanczos: 0 of 360 products")
    assert "for the count" not in "".join(text for _, text in lines if text.startswith("lanczos"))
    assert told.done == 40


def test_work_beside_products_is_in_the_time_of_the_count(plain):
    clock, lines = plain
    with watching(clock.screen):
        expect(None, 100.0)
        with stage("assembly", 10, unit="column") as told:
            for _ in range(10):
                clock.passes(1)
                told.advance()
        with stage("LDL' at 0.1", unit="", seconds=60.0):
            clock.passes(61)
        with stage("LDL' at 0.2", unit="", seconds=40.0):
            clock.passes(4)
    assert [text for _, text in lines] == [
        "assembly: 1 of 10 columns, 1 columns/s, about 8.0 s left, up to 1 min 48 s left for the count",
        "LDL' at 0.1: 2.0 s of about 1 min, about 58 s left, up to 1 min 38 s left for the count",
        "LDL' at 0.1: 32 s of about 1 min, about 28 s left, up to 1 min 8 s left for the count",
        "LDL' at 0.2: 2.0 s of about 40 s, about 38 s left",
    ]


def test_a_stage_within_another_says_of_what_it_is_a_part(plain):
    clock, lines = plain
    with watching(clock.screen), stage("cells", 3, unit="cell") as cells:
        for _ in range(3):
            with stage("lanczos", 10):
                clock.passes(2.5)
            cells.advance()
        clock.passes(1)
    inner = [(t, text.partition(":")[0]) for t, text in lines if "lanczos" in text]
    assert inner == [(2.0, "cell 1 of 3, lanczos"), (4.5, "cell 2 of 3, lanczos"), (7.0, "cell 3 of 3, lanczos")]
    (outer,) = (text for _, text in lines if "lanczos" not in text)
    assert outer == "cells: 1 of 3 cells, 2.5 s a cell, about 4.5 s left"


def test_the_lines_of_a_real_count_by_a_clock_that_its_products_turn(plain):
    clock, lines = plain
    matrix = torch.diag(torch.linspace(-1, 1, 500, dtype=torch.float64))

    class Slow:
        shape, dtype, device, columns = matrix.shape, matrix.dtype, matrix.device, 0

        def __matmul__(self, v):
            self.columns += v.shape[1]
            clock.passes(0.25 * v.shape[1])
            return matrix @ v

    operator = Slow()
    with watching(clock.screen):
        counts = count_eigenvalues(operator, threshold=0.05, max_products=400, precision=1e-9)
    assert counts.plan
    assert 300 < operator.columns <= 400
    named = [text.partition(":")[0] for _, text in lines]
    assert list(dict.fromkeys(named)) == ["preflight", "pilot", "lanczos"]
    times = [t for t, _ in lines]
    gaps = [b - a for a, b, one, other in zip(times, times[1:], named, named[1:], strict=False) if one == other]
    assert min(gaps) >= EVERY
    assert max(gaps) <= EVERY + 5
    for _, text in lines:
        done, total = (int(n.replace(",", "")) for n in re.search(r"([\d,]+) of (?:at most )?([\d,]+)", text).groups())
        assert done <= total
    pilot = next(text for text in (line for _, line in lines) if text.startswith("pilot"))
    foretold = re.search(r"up to (.*) left for the count", pilot)
    assert foretold, pilot
    whole = seconds_in(f"up to {foretold.group(1)} left")
    at = next(t for t, text in lines if text == pilot)
    assert clock.now - at == pytest.approx(whole, rel=0.1)
    assert "; so far neg [" in lines[-1][1]


# --- a terminal -----------------------------------------------------------------------------------------------


def screen_of(written):
    """What a terminal shows: lines, each as overwritten by what follows a carriage return."""
    shown = []
    for line in written.replace("\r\n", "\n").split("\n"):
        row = []
        for part in line.split("\r"):
            row[: len(part)] = part
        shown.append("".join(row).rstrip())
    return shown


@pytest.fixture
def terminal():
    clock, stream = Clock(), io.StringIO()
    clock.screen = Display(stream, terminal=True, clock=clock, line=lambda text: stream.write(f"{text}\n"))
    return clock, stream


def test_one_bar_for_all_stages_and_a_line_stays_of_those_that_took_long(terminal):
    clock, stream = terminal
    with watching(clock.screen):
        with stage("short", 2):
            clock.passes(1)
            assert "short   0% |" in screen_of(stream.getvalue())[-1]
        assert screen_of(stream.getvalue()) == [""]
        with stage("long", 8) as told:
            for _ in range(8):
                clock.passes(0.5)
                made(1)
            told.say("so far {so} good")
            clock.passes(0.5)
            (bar,) = screen_of(stream.getvalue())
            assert bar.startswith("long 100% |")
            assert "8 of 8 products" in bar
            assert "; so far {so} good" not in bar
            assert "; {so} good" in bar
            assert len(bar) < COLUMNS
    assert screen_of(stream.getvalue()) == ["long: 8 products in 4.5 s; so far {so} good", ""]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_leaves_a_clean_terminal(terminal, error):
    clock, stream = terminal

    def work():
        with watching(clock.screen), stage("long", 100):
            clock.passes(50)
            raise error

    with pytest.raises(error):
        work()
    assert screen_of(stream.getvalue()) == [""]
    clock.screen.close()
    assert screen_of(stream.getvalue()) == [""]


def test_what_others_write_stands_on_lines_of_its_own(terminal):
    clock, stream = terminal
    with watching(clock.screen), stage("long", 100):
        clock.passes(3)
        with clock.screen.covered():
            stream.write("plan: as it is\n")
        clock.passes(1)
        assert screen_of(stream.getvalue())[0] == "plan: as it is"
        assert screen_of(stream.getvalue())[1].startswith("long   0% |")


def test_a_stream_whose_reader_has_gone_ends_nothing():
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    clock = Clock()
    clock.screen = Display(Gone(), terminal=True, clock=clock)
    with watching(clock.screen), stage("long", 10):
        clock.passes(3)
    clock.screen.close()


# --- commands -------------------------------------------------------------------------------------------------

PROBLEM = """
import torch
def net():
    torch.manual_seed(0)
    x, y = torch.randn(60, 6).double(), torch.randint(0, 3, (60,))
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return model, torch.nn.CrossEntropyLoss(), (x, y)
def large():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(200, 30), torch.nn.Tanh(), torch.nn.Linear(30, 10))
    return model, torch.nn.CrossEntropyLoss(), (torch.randn(3000, 200), torch.randint(0, 10, (3000,)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shown.py").write_text(PROBLEM)
    return tmp_path


def test_results_are_the_same_with_and_without_progress(here, capsys, monkeypatch):
    """Every stage gets a line, many times a second."""
    monkeypatch.setattr(display, "NEW", 0.0)
    monkeypatch.setattr(display, "EVERY", 0.0)
    monkeypatch.setattr(display, "TICK", 1e-4)
    words = ["count", "shown.py:net", "--threshold", "1e-3", "--probes", "4", "--steps", "30"]
    assert main([*words, "--json", "quiet.json", "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert main([*words, "--json", "shown.json"]) == 0
    shown = capsys.readouterr()
    assert quiet.err == ""
    assert "lanczos-saddle: lanczos: " in shown.err
    assert all(line.startswith("lanczos-saddle: ") for line in shown.err.splitlines())
    one, other = (re.sub(r"[\d.]+ s$", "", text, flags=re.MULTILINE) for text in (quiet.out, shown.out))
    assert one == other
    first, second = (json.loads((here / name).read_text()) for name in ("quiet.json", "shown.json"))
    for found in (first, second):
        for changing in ("seconds", "provenance"):
            found.pop(changing)
    assert first == second


@pytest.mark.slow  # seconds of a process that waits
def test_an_interrupted_command_on_a_terminal_leaves_its_last_line_to_the_shell(here):
    lead, follow = pty.openpty()
    words = [
        "count",
        "shown.py:large",
        "--threshold",
        "1e-4",
        "--probes",
        "4",
        "--steps",
        "4000",
        "--precision",
        "1e-9",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lanczos_saddle", *words], cwd=here, stdout=subprocess.PIPE, stderr=follow
    )
    os.close(follow)
    received = []

    def read():
        while True:
            try:
                part = os.read(lead, 65536)
            except OSError:
                return
            if not part:
                return
            received.append(part.decode())

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + 200
    while "lanczos   0% " not in "".join(received) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    reader.join(timeout=10)
    os.close(lead)
    *_, last, rest = screen_of("".join(received))
    assert process.returncode == 130
    assert (last, rest) == ("lanczos-saddle: interrupted by SIGINT", "")


def test_a_narrow_terminal_shows_whole_intervals_or_none(terminal, monkeypatch):
    clock, stream = terminal
    intervals = [f"{name} [{10**place}, {10**place + 7}]" for name, place in (("neg", 4), ("zero", 5), ("pos", 6))]
    for columns, shown in ((200, 3), (90, 2), (60, 1), (40, 0), (12, 0)):
        monkeypatch.setattr(clock.screen, "_columns", lambda columns=columns: columns)
        with watching(clock.screen), stage("lanczos", 100, bound="at most") as told:
            told.say(f"so far {', '.join(intervals)}")
            for _ in range(9):
                clock.passes(1)
                made(1)
            clock.passes(1)
            bar = screen_of(stream.getvalue())[-1]
        assert len(bar) < columns
        assert [interval in bar for interval in intervals] == [place < shown for place in range(3)], bar
        assert ("up to 1 min 30 s left" in bar) == (columns > 12)
        assert all(interval in intervals for interval in re.findall(r"[a-z]+ \[[^\]]*\]", bar))
