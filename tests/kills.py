"""Counts by every method, on small problems that are made anew each time, and products that are counted and killed."""

import hashlib
import json
from contextlib import contextmanager

import torch
from torch import nn

from lanczos_saddle import Hessian, count_eigenvalues, count_in
from lanczos_saddle.networks.curvature import Curvature
from lanczos_saddle.networks.tails import Tail
from lanczos_saddle.reports.records import to_json
from lanczos_saddle.reports.summary import details, summary
from lanczos_saddle.structure.null_vectors import softmax_shift


class Killed(BaseException):
    """What nobody catches; where everything is written at once, nothing is left to be written for it."""


class Seen:
    """Products as they are made, in this process."""

    def __init__(self, stop, kill):
        self.calls, self.columns, self.widest, self.stop, self.kill = 0, 0, 0, stop, kill

    def __call__(self, columns):
        self.calls += 1
        if self.calls == self.stop:
            self.kill()
        self.columns, self.widest = self.columns + columns, max(self.widest, columns)


def _raised():
    raise Killed


_SEEN = []


@contextmanager
def counting(stop=None, kill=_raised):
    """Counts products in the block, and calls `kill` before number `stop`."""
    seen = Seen(stop, kill)
    _SEEN.append(seen)
    real = Curvature.__matmul__, Tail.product

    def times(self, v):
        for one in _SEEN[-1:]:
            one(1 if v.ndim == 1 else v.shape[1])
        return real[0](self, v)

    def columns(self, rows):
        for one in _SEEN[-1:]:
            one(len(rows))
        return real[1](self, rows)

    Curvature.__matmul__, Tail.product = times, columns
    try:
        yield seen
    finally:
        Curvature.__matmul__, Tail.product = real
        _SEEN.pop()


class Matrix:
    """A dense matrix that is known by its products."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype, self.device = matrix, matrix.shape, matrix.dtype, matrix.device

    def __matmul__(self, v):
        for one in _SEEN[-1:]:
            one(1 if v.ndim == 1 else v.shape[1])
        return self.matrix @ v


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Unknown(nn.Module):
    """A network whose Hessian has no closed form that is known."""

    def __init__(self, hidden):
        super().__init__()
        self.first, self.last = nn.Linear(8, hidden), nn.Linear(hidden, 4)

    def forward(self, x):
        z = torch.tanh(self.first(x))
        return self.last(z * z.mean(dim=1, keepdim=True) + z)


def network(hidden=12, dtype=torch.float64, samples=96, *, known=True):
    """A Hessian of 8-h-4, with a dead input, at its first parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        relu = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        model = (relu if known else Unknown(hidden)).to(dtype)
        x = torch.randn(samples, 8, dtype=dtype)
        x[:, 3] = 0
        data = x, torch.randint(0, 4, (samples,))
    return Hessian(model, nn.CrossEntropyLoss(), data, dtype=dtype)


def spread():
    """Few eigenvalues beyond tau at either end, and many within."""
    ends = torch.cat([50 * torch.logspace(0, -2, 20), -8 * torch.logspace(0, -1, 8)]).double()
    values = torch.cat([ends, 1e-5 * torch.randn(272, generator=seeded(1), dtype=torch.float64)])
    q = torch.linalg.qr(torch.randn(300, 300, generator=seeded(0), dtype=torch.float64)).Q
    h = (q * values) @ q.mT
    return Matrix((h + h.mT) / 2)


def own(h):
    scale = torch.linspace(1, 2, h.shape[0], dtype=torch.float64)
    return torch.diag(scale)


DEEP = {"method": "lanczos", "precision": 1e-6, "preconditioner": None}
SHORT = {**DEEP, "probes": 3, "steps": 24}


def _counted(h, **options):
    return count_eigenvalues(h, **options)


METHODS = {
    "plain": lambda o: _counted(network(), **SHORT, threshold=1e-3, reorthogonalize=False, **o),
    "basis": lambda o: _counted(network(), **SHORT, threshold=1e-3, reorthogonalize=True, **o),
    "budget": lambda o: _counted(network(), **DEEP, relative_threshold=1e-2, max_products=200, **o),
    "pilot": lambda o: _counted(
        network(), **{**DEEP, "enumerate_negative": True}, threshold=1e-3, max_products=300, **o
    ),
    "deflated": lambda o: _counted(spread(), **DEEP, threshold=1e-2, max_products=240, **o),
    "enumerated": lambda o: _counted(network(), **SHORT, threshold=1e-2, enumerate_negative=True, **o),
    "null vectors": lambda o: _counted(
        network(), **SHORT, threshold=1e-3, null_vectors=softmax_shift(network().problem), **o
    ),
    "elimination": lambda o: _counted(network(), **{**SHORT, "method": "elimination"}, relative_threshold=1e-2, **o),
    "ekfac": lambda o: _counted(network(), **{**SHORT, "preconditioner": "ekfac"}, threshold=1e-3, **o),
    "subset": lambda o: _counted(
        network(samples=600), **{**DEEP, "preconditioner": "subset"}, threshold=1e-3, max_products=400, **o
    ),
    "own S": lambda o: _counted(network(), **{**SHORT, "preconditioner": own(network())}, threshold=1e-3, **o),
    "exact": lambda o: _counted(network(known=False), threshold=1e-3, method="exact", **o),
    "exact by layers": lambda o: _counted(network(90, known=False), threshold=1e-3, method="exact", **o),
    "interval": lambda o: count_in(network(), 1e-2, 1.0, probes=3, steps=24, **o),
    "exact interval": lambda o: count_in(network(known=False), 1e-2, 1.0, method="exact", **o),
    "several": lambda o: _counted(network(), **SHORT, threshold=[1e-3, 1e-2], **o),
    "float32": lambda o: _counted(network(dtype=torch.float32), **SHORT, relative_threshold=1e-2, **o),
    "tiny": lambda o: _counted(_times(network(), 1e-170), **SHORT, threshold=1e-172, **o),
}
"""A count by every method; `o`: what is passed beside."""


def _times(h, factor):
    class Tiny:
        shape, dtype, device = h.shape, h.dtype, h.device

        def __matmul__(self, v):
            return factor * (h @ v)

    return Tiny()


def begun(method, **options):
    """The count, which a state may interrupt or complete."""
    return METHODS[method](options)


def answer(counts):
    """All that a result says as JSON, but for seconds; and the coefficients of its run, to the last bit."""
    several = counts if isinstance(counts, tuple) else (counts,)
    said = []
    for one in several:
        if hasattr(one, "ends"):
            fields = dict(vars(one))
            runs = []
        else:
            fields = {**summary(one), **details(one)}
            known = getattr(one.evidence, "sampled", one.evidence)
            runs = [known] if hasattr(known, "run") else [s for s in vars(known).values() if hasattr(s, "run")]
        fields.pop("seconds")
        text = json.dumps(to_json(fields), sort_keys=True)
        said.append((text, [hashlib.sha256(side.run.diagonal.tobytes()).hexdigest() for side in runs]))
    return json.loads(json.dumps(said))
