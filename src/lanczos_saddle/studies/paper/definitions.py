"""The two tables of the paper that hold definitions, no numbers: 4, the methods; 6, the initializations."""

from __future__ import annotations

import torch

from lanczos_saddle.reports import markdown
from lanczos_saddle.training.methods import STEPS
from lanczos_saddle.training.networks import INITIALIZATIONS, mlp

SIZES = (784, 25, 10)

METHODS = {
    "sgd": "v <- mu v + g, theta <- theta - eta (g + mu v): Nesterov's momentum",
    "adam": "eps 1e-8, betas 0.9 and 0.999",
    "adagrad": "eps 1e-10",
    "noisy-sgd": "uniform noise in (-0.001, 0.001) added to the gradient (Ge et al. 2015; the paper's code)",
    "perturbed-gd": "noise from a ball added to the parameters where the gradient has stayed small (Jin et al. 2017)",
    "saddle-free-newton": "|lambda_i|^-1 in a Krylov subspace, with a damping search (Dauphin et al. 2014)",
}


def text(table: str) -> str:
    """Table 4 or 6 as it is implemented here. Raises ValueError for another name."""
    if table == "table4":
        return markdown.table("method||step", [[name, rule, f"{STEPS[name]:g}"] for name, rule in METHODS.items()])
    if table == "table6":
        head = f"initialization|law|standard deviation of the first layer of {'-'.join(map(str, SIZES))}"
        return markdown.table(head, [_initialization(name) for name in INITIALIZATIONS])
    raise ValueError(f"the tables of definitions are table4 and table6; got {table!r}")


def _initialization(name: str) -> list[str]:
    model = mlp(SIZES, generator=torch.Generator().manual_seed(0), initialization=name)
    law = " ".join((INITIALIZATIONS[name].__doc__ or "").split()).rstrip(".")
    weight = next(model.parameters())
    return [name, law, f"{float(weight.detach().std()):.4f}"]
