"""Counts in several threads: each is that of a thread alone, and what they change for a while is as it was."""

import contextvars
import linecache
import os
import threading
import warnings

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn
from torch.nn import functional as F

from lanczos_saddle import Hessian, count_eigenvalues
from lanczos_saddle.machine.threads import one_thread
from lanczos_saddle.machine.turns import turn
from lanczos_saddle.networks.columns.trace import forgotten_sources

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(1))


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def counted(matrix):
    generator = torch.Generator().manual_seed(2)
    return count_eigenvalues(matrix, threshold=1e-2, method="lanczos", probes=2, steps=10, generator=generator)


def together(*calls):
    """What each call returns or raises, all begun at once, each in a thread of its own."""
    found, barrier = [None] * len(calls), threading.Barrier(len(calls))

    def run(place):
        barrier.wait()
        try:
            found[place] = calls[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def shared_settings():
    return (
        torch.get_rng_state().tolist(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.get_num_threads(),
        [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"],
        list(warnings.filters),
    )


@pytest.mark.parametrize("shared", ["matrix", "model", "nothing"])
def test_counts_in_two_threads_are_those_of_one(shared):
    model, others = mlp(), [mlp(), mlp()]  # made here: threads share the generator that networks are drawn from
    alone = str(counted(Hessian(model, F.cross_entropy, (X, Y))).negative)
    kept = Hessian(model, F.cross_entropy, (X, Y))
    makers = {
        "matrix": lambda: kept,
        "model": lambda: Hessian(model, F.cross_entropy, (X, Y)),
        "nothing": lambda: Hessian(others.pop(), F.cross_entropy, (X, Y)),
    }
    before = shared_settings()
    found = together(*[lambda: str(counted(makers[shared]()).negative)] * 2)
    assert found == [alone] * 2
    assert shared_settings() == before


def test_a_turn_is_taken_by_one_thread_at_a_time():
    inside, most = [], []

    def enter():
        for _ in range(50):
            with turn(), turn():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    assert together(enter, enter, enter) == [None] * 3
    assert max(most) == 1


def test_the_state_of_a_network_is_placed_by_one_thread_at_a_time():
    """Another thread waits until the user's own tensors are their own again."""
    problem = Hessian(mlp(), F.cross_entropy, (X, Y)).problem
    placed, seen = threading.Event(), []

    def places():
        with problem.placed_at(torch.zeros_like(problem.theta)):
            placed.set()
            seen.append("first")
            threading.Event().wait(0.05)
            seen.append("first ends")

    def waits():
        placed.wait()
        with problem.placed_at(torch.ones_like(problem.theta)):
            seen.append("second")

    assert together(places, waits) == [None] * 2
    assert seen == ["first", "first ends", "second"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_counts_has_its_turn():
    started, done = threading.Event(), threading.Event()

    def hold():
        with turn():
            started.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait()
    child = os.fork()
    if child == 0:
        with turn():
            os._exit(7)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_threads_that_leave_in_another_order_get_all_back():
    threads, blas = torch.get_num_threads(), [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
    torch.set_num_threads(2)
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"} <= {1}
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"] == blas


def made_sources():
    """Texts in linecache that no file has."""
    return sum(name.startswith("<") for name in linecache.cache)


def test_recordings_leave_no_source_behind():
    """Torch keeps the text of every graph that it compiles: some kilobytes more for each Hessian."""
    v = torch.ones(57, 2, dtype=torch.float64)
    Hessian(mlp(), F.cross_entropy, (X, Y)) @ v
    before = made_sources(), len(torch.fx.graph_module._loader.eval_cache)
    for _ in range(3):
        h = Hessian(mlp(), F.cross_entropy, (X, Y))
        expected, again = h @ v, h @ v
        assert torch.equal(expected, again)
        assert h.folding.folded
    assert (made_sources(), len(torch.fx.graph_module._loader.eval_cache)) == before
    with forgotten_sources():
        torch.fx.symbolic_trace(nn.Tanh())
    assert (made_sources(), len(torch.fx.graph_module._loader.eval_cache)) == before
    kept = torch.fx.symbolic_trace(nn.Tanh())  # one of the user's own
    assert len(torch.fx.graph_module._loader.eval_cache) == before[1] + 1
    assert kept(v).shape == v.shape


def test_recordings_leave_no_context_variable():
    """Torch 2.13.0 makes one at every make_fx, in the context of who calls it."""
    v = torch.ones(57, dtype=torch.float64)
    Hessian(mlp(), F.cross_entropy, (X, Y)) @ v
    before = len(contextvars.copy_context())
    for _ in range(4):
        h = Hessian(mlp(), F.cross_entropy, (X, Y))
        h @ torch.stack([v, 2 * v], 1)
        assert h.folding.folded
    assert len(contextvars.copy_context()) == before
