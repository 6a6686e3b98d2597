"""An interrupt at any moment of a command: what is known is written whole, and the exit status says which it was.

The oracles are the command that was not interrupted, and the eigenvalues of a matrix that NumPy finds.
"""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lanczos_saddle.cli import commands
from lanczos_saddle.cli.entry import main
from lanczos_saddle.krylov.lanczos import Lanczos
from lanczos_saddle.machine.interrupts import interrupts_wait
from lanczos_saddle.reports.records import read

TAUS = (0.1, 0.4)
COUNT = ["count", "a.npy", "--method", "lanczos", "--probes", "3", "--steps", "30", "--precision", "1e-9", "--quiet"]
SEVERAL = [*COUNT, "--threshold", ",".join(map(str, TAUS)), "--json", "c.json", "--record", "r.jsonl"]
ONE = [*COUNT, "--threshold", "0.1", "--json", "c.json", "--record", "r.jsonl"]
CLASSES = ("negative", "near_zero", "positive")


@pytest.fixture
def values(tmp_path, monkeypatch):
    """The eigenvalues of a matrix in the working folder."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(120, 120)))[0]
    a = (q * np.concatenate([np.linspace(-1, 2, 80), np.zeros(40)])) @ q.T
    np.save(tmp_path / "a.npy", (a + a.T) / 2)
    monkeypatch.chdir(tmp_path)
    return np.linalg.eigvalsh((a + a.T) / 2)


def interrupted(monkeypatch, name, number):
    """The signal comes when that function of the commands is called, for the first time."""
    real, seen = getattr(commands, name), []

    def called(*arguments, **options):
        if not seen:
            seen.append(number)
            os.kill(os.getpid(), number)
        return real(*arguments, **options)

    monkeypatch.setattr(commands, name, called)


def told():
    """What both files say of the three classes, without what an interrupt leaves out."""
    (line,) = read("r.jsonl")
    both = json.loads(Path("c.json").read_text()), line["result"]
    rows = [one.get("rows", [one]) for one in both]
    return [[{name: row[name] for name in (*CLASSES, "threshold", "stopped")} for row in part] for part in rows]


def expected(words):
    assert main(words) == 0
    found = told()
    os.unlink("c.json")
    os.unlink("r.jsonl")
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("words", "made"), [(SEVERAL, "record_of"), (ONE, "details")])
def test_an_interrupt_of_the_details_keeps_the_counts(values, monkeypatch, capsys, words, made, number):
    whole = expected(words)
    interrupted(monkeypatch, made, number)
    assert main(words) == 128 + number
    out, err = capsys.readouterr()
    assert told() == whole
    assert "near zero" in out
    assert err == f"lanczos-saddle: interrupted by {number.name}\n"


@pytest.mark.parametrize("words", [SEVERAL, ONE])
@pytest.mark.parametrize("place", ["show", "provenance", "write_json", "append"])
def test_an_interrupt_while_results_are_told_waits_for_them(values, monkeypatch, words, place):
    whole = expected(words)
    interrupted(monkeypatch, place, signal.SIGTERM)
    assert main(words) == 143
    assert told() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_drops_comes_again(values, monkeypatch, capsys, number):
    """In the callback of a weak reference or in __del__ nothing that a handler raises gets out."""

    class Last:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(0)  # the handler is called here

    real, seen = Lanczos.advance, []

    def advance(run, steps):
        real(run, steps)
        if (run.probes, run.steps) == (3, 20) and not seen:
            seen.append(Last())
            seen[0] = "gone"
            time.sleep(0.1)

    monkeypatch.setattr(Lanczos, "advance", advance)
    assert main([*ONE, "--state", "run"]) == 128 + number
    out, err = capsys.readouterr()
    assert "stopped: interrupted" in out
    assert err == f"lanczos-saddle: interrupted by {number.name}\n"
    assert {row["stopped"] for rows in told() for row in rows} == {"interrupted"}


def test_several_thresholds_say_what_they_know(values, monkeypatch, capsys):
    """Each of them, not the smallest alone; and the state goes on to the whole."""
    whole = expected(SEVERAL)
    real = Lanczos.advance

    def advance(run, steps):
        real(run, steps)
        if (run.probes, run.steps) == (3, 20):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Lanczos, "advance", advance)
    assert main([*SEVERAL, "--state", "run"]) == 130
    assert capsys.readouterr().out.count("near zero") == 2 * len(TAUS)
    for rows in told():
        assert [row["threshold"] for row in rows] == list(TAUS)
        for row, tau in zip(rows, TAUS, strict=True):
            true = (values < -tau).sum(), (abs(values) <= tau).sum(), (values > tau).sum()
            assert row["stopped"] == "interrupted"
            assert all(row[name]["lower"] <= n <= row[name]["upper"] for name, n in zip(CLASSES, true, strict=True))
    os.unlink("r.jsonl")
    monkeypatch.setattr(Lanczos, "advance", real)
    assert main([*SEVERAL, "--state", "run"]) == 0
    assert told() == whole


def test_a_second_interrupt_ends_what_waits():
    seen = []

    def work():
        with interrupts_wait(patience=1):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                seen.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["went on"]


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts_wait(patience=0):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
