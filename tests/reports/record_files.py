"""Records for the tests of pages: of counts of a known spectrum, and with text that would like to run."""

import json

import numpy as np
import torch

from lanczos_saddle import PrescribedSpectrum, count_eigenvalues
from lanczos_saddle.reports.summary import record_of

VALUES = np.concatenate([-np.geomspace(1e-3, 0.5, 12), np.geomspace(1e-7, 2e-5, 30), np.geomspace(1e-3, 1, 38)])

HOSTILE = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'><!--\u2028]]>\"'"
    "onfocus=window.ran=1 autofocus {{7*7}} javascript:window.ran=1"
)


def sampled(seed=0):
    operator = PrescribedSpectrum(torch.tensor(VALUES), generator=torch.Generator().manual_seed(3))
    options = {"probes": 3, "steps": 24, "precision": 1e-9, "method": "lanczos"}
    return count_eigenvalues(operator, threshold=2e-4, generator=torch.Generator().manual_seed(seed), **options)


def exact():
    return count_eigenvalues(torch.diag(torch.tensor(VALUES)), threshold=2e-4, method="exact")


def hostile():
    (record,) = record_of(sampled())
    record = json.loads(json.dumps(record))
    tensor = {"name": HOSTILE, "shape": [HOSTILE], "parameters": 80, "dead": 0, "unused": 0, "columns": 0, "rows": 0}
    record |= {
        "options": {"problem": HOSTILE, "weights": HOSTILE},
        "problem": {"problem": HOSTILE},
        "about": {"name": HOSTILE},
        "method": HOSTILE,
        "stopped": HOSTILE,
        "plan": HOSTILE,
        "spent": {HOSTILE: 80},
        "verdicts": {HOSTILE: {"answer": HOSTILE, "because": HOSTILE}},
        "layers": {"products": 2, "tensors": [{**tensor, "entries": 0}]},
        "provenance": {"commit": HOSTILE, "machine": {"cpu": HOSTILE}, "versions": {HOSTILE: HOSTILE}},
    }
    record["check"]["fidelity"] = {"status": HOSTILE, "error": HOSTILE, "samples": HOSTILE}
    return record
