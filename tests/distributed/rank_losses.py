"""Three ranks of which one is killed or stopped in the middle of a count: what the others say, and how soon."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from rank_networks import small

from lanczos_saddle import Hessian, count_eigenvalues, data_parallel, inertia, share
from lanczos_saddle.distributed.panel_ldl import Elimination

RANKS, TIMEOUT = 3, 3.0


class Slow(torch.nn.Module):
    """A model that takes its time, so that the count lasts, and says that it has begun."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sign = model, None

    def forward(self, x):
        if self.sign is not None:
            self.sign.touch()
            time.sleep(0.02)
        return self.model(x)


def matrix_of(rank):
    """The share of a rank, made before the ranks are forked: its product is recorded once."""
    model, loss, data = small()
    return Hessian(Slow(model), loss, share(data, rank=rank, ranks=RANKS), fidelity=False)


def sampled(matrix, _):
    """A count that lasts."""
    matrix.share.mode = "autograd"  # the model is called at every product
    matrix.share.problem.model.sign = matrix.sign
    count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=4, steps=57, precision=1e-9)


def by_columns(matrix, step):
    """Inertia whose LDL' lasts."""

    def slow(elimination, index):
        matrix.sign.touch()
        time.sleep(0.3)
        step(elimination, index)

    Elimination.step = slow
    inertia(matrix, 1e-3)


QUESTIONS = {"sampled": sampled, "by columns": by_columns}


def one_rank(rank, folder, own, question):
    signal.alarm(200)
    rendezvous = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    try:
        matrix = data_parallel(own, timeout=TIMEOUT, dense="columns")
        matrix.sign = folder / f"going-{rank}"
        QUESTIONS[question](matrix, Elimination.step)
        said = ["no error", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    (folder / f"said-{rank}").write_text(json.dumps([*said, time.time()]))


def lost(name, victim, question, folder, shares):
    """(what each survivor said, after how many seconds)."""
    folder.mkdir()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            one_rank(rank, folder, shares[rank], question)
            os._exit(0)
        children.append(child)
    while not all((folder / f"going-{rank}").exists() for rank in range(RANKS)):
        time.sleep(0.02)
    os.kill(children[victim], getattr(signal, name))
    began = time.time()
    for rank in set(range(RANKS)) - {victim}:
        os.waitpid(children[rank], 0)
    if name == "SIGSTOP":
        os.kill(children[victim], signal.SIGKILL)
    os.waitpid(children[victim], 0)
    read = {rank: json.loads((folder / f"said-{rank}").read_text()) for rank in set(range(RANKS)) - {victim}}
    return {rank: (kind, text, when - began) for rank, (kind, text, when) in read.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = [(name, victim, question) for question in QUESTIONS for name in ("SIGKILL", "SIGSTOP") for victim in (0, 2)]
    shares, folder = [matrix_of(rank) for rank in range(RANKS)], Path(sys.argv[1])
    print(json.dumps([[*one, lost(*one, folder / "-".join(map(str, one)), shares)] for one in asked]))
