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

from lanczos_saddle import Hessian, count_eigenvalues, data_parallel, share

RANKS, TIMEOUT = 3, 3.0


class Slow(torch.nn.Module):
    """A model that takes its time, so that the count lasts, and says that it has begun."""

    def __init__(self, model, sign):
        super().__init__()
        self.model, self.sign, self.slow = model, sign, False

    def forward(self, x):
        if self.slow:
            self.sign.touch()
            time.sleep(0.02)
        return self.model(x)


def one_rank(rank, folder):
    signal.alarm(200)
    rendezvous = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    model, loss, data = small()
    slow = Slow(model, folder / f"going-{rank}")
    matrix = data_parallel(Hessian(slow, loss, share(data), fidelity=False), timeout=TIMEOUT)
    slow.slow = True
    try:
        count_eigenvalues(matrix, threshold=1e-3, method="lanczos", probes=4, steps=57, precision=1e-9)
        said = ["no error", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    (folder / f"said-{rank}").write_text(json.dumps([*said, time.time()]))


def lost(name, victim, folder):
    """(what each survivor said, after how many seconds)."""
    folder.mkdir()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            one_rank(rank, folder)
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
    asked = [(name, victim) for name in ("SIGKILL", "SIGSTOP") for victim in (0, 2)]
    found = [[name, victim, lost(name, victim, Path(sys.argv[1]) / f"{name}-{victim}")] for name, victim in asked]
    print(json.dumps(found))
