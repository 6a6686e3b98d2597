from itertools import pairwise

import pytest

from lanczos_saddle.monitor.account import Account


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run(account, clock, costs, *, steps, length):
    """(spent, training) after each measurement of a training of equal steps, by a ledger of its own."""
    spent, trained, ledger, left = 0.0, 0.0, [], iter(costs)
    account.begin()
    for _ in range(steps):
        if account.affords:
            cost = next(left)
            with account.spending():
                clock.now += cost
            spent += cost
            ledger.append((spent, trained, cost))
        clock.now += length
        trained += length
    assert account.spent == pytest.approx(spent)
    assert account.training == pytest.approx(trained)
    return ledger


def test_the_share_holds_when_costs_stay():
    clock = Clock()
    ledger = run(Account(0.05, clock), clock, [2.0] * 99, steps=1000, length=1.0)
    assert ledger[0][1] == 0  # on credit
    assert all(spent <= 0.05 * trained for spent, trained, _ in ledger[1:])
    assert len(ledger) == 24  # one in 40 s, the first of them after 80: the last at 960


def test_a_dear_count_is_paid_back_before_the_next():
    clock = Clock()
    costs = [1.0, 1.0, 10.0, *[1.0] * 99]
    ledger = run(Account(0.1, clock), clock, costs, steps=1000, length=1.0)
    for (_, _, last), (spent, trained, cost) in pairwise(ledger):
        assert spent <= 0.1 * trained + max(0.0, cost - last)  # but for what was not foretold
    assert ledger[-1][0] <= 0.1 * 1000


def test_the_share_holds_at_any_time_where_costs_vary_by_a_quarter():
    """After every count as before it, calls between counts included; by the test's own ledger."""
    clock = Clock()
    account, costs = Account(0.05, clock), iter([2.0, 2.5, 2.0, 2.5, 2.5, 2.0] * 9)
    account.book(0.5)  # before the training: the data were read
    account.begin()
    used, trained, counts = 0.5, 0.0, 0
    for _ in range(2000):
        clock.now += 0.004
        account.book(0.004)
        used += 0.004
        if account.affords:
            with account.spending():
                cost = next(costs)
                clock.now += cost
            used, counts = used + cost, counts + 1
            assert counts == 1 or used <= 0.05 * trained
        clock.now += 1.0
        trained += 1.0
    assert counts > 30
    assert account.spent == pytest.approx(used)
    assert account.training == pytest.approx(trained)
    assert account.used <= 0.05


def test_the_dearer_of_the_last_two_and_a_quarter_is_foretold():
    clock = Clock()
    account = Account(0.5, clock)
    for cost in (9.0, 2.0, 1.0):
        with account.spending():
            clock.now += cost
    assert account.foretold == 2.5


def test_time_is_booked_when_a_measurement_raises():
    clock = Clock()
    account = Account(0.5, clock)

    def fail():
        with account.spending():
            clock.now += 3.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (account.spent, account.training) == (3.0, 0.0)
    assert account.used == float("inf")


def test_what_comes_after_the_end_is_no_training():
    clock = Clock()
    account = Account(0.5, clock)
    account.begin()
    for second in (4.0, 100.0, 7.0):
        clock.now += second
        account.begin() if second == 100.0 else account.end()
    assert account.training == 11.0


def test_without_a_share_everything_is_afforded():
    clock = Clock()
    account = Account(None, clock)
    with account.spending():
        clock.now += 100
    assert account.affords


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan"), "a"])
def test_a_share_is_a_fraction(share):
    with pytest.raises(ValueError, match="share"):
        Account(share)
