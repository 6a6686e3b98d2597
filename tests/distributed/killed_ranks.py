"""Ends commands on several ranks at random moments, by SIGKILL or a signal, and lets other numbers of ranks go on.

    python killed_ranks.py FOLDER MOMENTS SEED

One JSON object a line. Products are slowed down, so that moments fall everywhere, and states are written at once. The
oracle is the command on one process, which was not ended and kept nothing. What a budget is spent on may turn on the
last digit of a sum over ranks, and is kept from then on: there the command on two or four ranks will do as well. Over
weights nothing is proved of the network, and an interval may be wider: there the command on two ranks will do, too.
"""

import json
import math
import mmap
import os
import random
import signal
import socket
import struct
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE))

import lanczos_saddle.cli.commands  # noqa: E402
import lanczos_saddle.distributed.leading  # noqa: E402, F401
from lanczos_saddle.cli.entry import main as command  # noqa: E402
from lanczos_saddle.counting import deepening  # noqa: E402
from lanczos_saddle.distributed.sharded_hessian import ShardedHessian  # noqa: E402
from lanczos_saddle.machine import journal  # noqa: E402
from lanczos_saddle.networks.curvature import Curvature  # noqa: E402

PAUSE, TIMEOUT = 0.004, 60
COUNT = ["count", "rank_networks:relu", "--threshold", "1e-3", "--method", "lanczos", "--quiet"]
COUNT += ["--rank-timeout", str(TIMEOUT), "--precision", "1e-9", "--preconditioner", "none"]
DEEP = ["--probes", "4", "--steps", "24"]
WAYS = {
    "data": DEEP,
    "enumerated": [*DEEP, "--enumerate-negative"],
    "probes": [*DEEP, "--over-ranks", "probes"],
    "vectors": [*DEEP, "--over-ranks", "vectors"],
    "weights": [*DEEP, "--over-ranks", "weights"],
    "all": [*DEEP, "--over-ranks", "all"],
    "budget": ["--max-products", "150"],
}
ENDS = ("SIGKILL 0", "SIGKILL 1", "SIGKILL all", "SIGTERM all", "SIGINT 0")


def slowed(shared):
    """Every product takes a while, on every rank; those of rank 0 are added to the shared number."""
    for kind, name in ((Curvature, "product"), (ShardedHessian, "product_own")):
        setattr(kind, name, _slower(getattr(kind, name), shared))
    journal.INTERVAL = deepening.INTERVAL = 0.02


def _slower(real, shared):
    def times(self, v):
        time.sleep(PAUSE)
        if os.environ.get("RANK", "0") == "0":
            shared[:8] = struct.pack("q", struct.unpack("q", shared[:8])[0] + 1)
        return real(self, v)

    return times


def in_one_process(words):
    """The same command without a way to share."""
    at = words.index("--over-ranks") if "--over-ranks" in words else len(words)
    return words[:at] + words[at + 2 :]


def started(ranks, words, said):
    """Processes of one command; what they print goes to a file."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            if ranks > 1:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            status = command(words)
            sys.stdout.flush()
            os._exit(status)
        processes.append(pid)
    return processes


def ended(processes):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in processes]


def told(path):
    """What a JSON object says."""
    return json.loads(path.read_text())


def alike(found, expected):
    """Whether two counts are one, but for the rounding of sums over another number of ranks."""
    names = ("negative", "near_zero", "positive")
    same = all(found[name] == expected[name] for name in ("products", "probes", "steps", "method", "parameters"))
    ends = all(found[name][end] == expected[name][end] for name in names for end in ("lower", "upper"))
    near = (math.isclose(found[name]["estimate"], expected[name]["estimate"], rel_tol=1e-6) for name in names)
    return same and ends and all(near)


def wait(shared, products, processes):
    """Until so many products are made, or a process has ended."""
    while struct.unpack("q", shared[:8])[0] < products:
        if any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in processes):
            return
        time.sleep(PAUSE / 4)


def one(folder, way, how, number, shared, products, wholes):
    """A command on two ranks that is ended after so many products, and one on `number` ranks that goes on."""
    asked = [*COUNT, *WAYS[way], "--state", str(folder / "run"), "--json", str(folder / "c.json")]
    said = folder / "said"
    shared[:8] = bytes(8)
    processes = started(2, asked, said)
    wait(shared, products, processes)
    kind, victim = how.split()
    began = time.monotonic()
    for pid in processes if victim == "all" else [processes[int(victim)]]:
        os.kill(pid, signal.Signals[kind])
    first = ended(processes)
    lost = time.monotonic() - began
    known = told(folder / "c.json") if (folder / "c.json").exists() else None
    state = "none" if not (folder / "run").exists() else "journal" if journal.is_journal(folder / "run") else "run"
    second = ended(started(number, in_one_process(asked) if number == 1 else asked, folder / "said2"))
    same = not any(second) and any(alike(told(folder / "c.json"), whole) for whole in wholes)
    return {
        "way": way,
        "how": how,
        "statuses": first,
        "said": said.read_text(),
        "lost": lost,
        "known": known and {n: known[n] for n in ("stopped", "negative", "near_zero", "positive")},
        "state": state,
        "ranks": number,
        "same": same,
        "afterwards": (folder / "said2").read_text()[-500:],
    }


def main(folder, moments, seed, *ways):
    rng, folder = random.Random(seed), Path(folder)
    shared = mmap.mmap(-1, 8)
    slowed(shared)
    for way in ways or WAYS:
        wholes = []
        for ranks in (1, 4, 2) if "--max-products" in WAYS[way] else (1, 2):
            asked = WAYS[way] if ranks > 1 else in_one_process(WAYS[way])
            base = folder / f"{way}-{ranks}.json"
            shared[:8] = bytes(8)
            assert not any(ended(started(ranks, [*COUNT, *asked, "--json", str(base)], folder / f"said-{ranks}")))
            wholes.append(told(base))
        products = struct.unpack("q", shared[:8])[0]
        wholes = wholes if "--max-products" in WAYS[way] or way in ("weights", "all") else wholes[:1]
        for i in range(moments):
            own = folder / f"{way}{i}"
            own.mkdir()
            how, number = ENDS[i % len(ENDS)], (1, 2, 4)[i % 3]
            found = one(own, way, how, number, shared, rng.uniform(1, products), wholes)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
