"""Probes over ranks, where each rank has the whole operator: nothing is said until every recurrence has ended.

Recurrences of different probes know nothing of each other. Rank r runs those of columns r, r + R, ... of one block of
start vectors; at the end coefficients, a few numbers a step, go to all. The numbers are those of one process, to the
rounding of products in blocks of another width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lanczos_saddle.distributed.group import TIMEOUT, Group
from lanczos_saddle.distributed.shares import digest
from lanczos_saddle.krylov.lanczos import Lanczos, Tridiagonalization
from lanczos_saddle.operators.operator import as_operator


def lanczos_over_ranks(
    operator: Any, probes: Tensor, steps: int, *, reorthogonalize: bool = True, timeout: float = TIMEOUT
) -> Tridiagonalization:
    """The recurrences of all columns of `probes` (N, m), m at least 1, after `steps` products each, on every rank.

    Called by all ranks, with the same probes (draw them from generators with one seed) and an operator of their own
    that is the same matrix. Cost: about m / R recurrences on each of R ranks, and their bases where these are kept. A
    rank may take `timeout` seconds longer than the first one.

    Raises ValueError on every rank where there is no process group, where probes differ, and where `Lanczos` does.
    """
    group = Group(timeout=timeout)
    same = group.attempted(lambda: digest([probes], steps, reorthogonalize))
    group.require_same(same, "all ranks run probes of one block, equally deep")

    def own() -> Tridiagonalization | None:
        columns = probes[:, group.rank :: group.size]
        if not columns.shape[1]:
            return None
        matrix = as_operator(operator)
        return Lanczos(matrix, columns, reorthogonalize=reorthogonalize, capacity=steps).extend(steps)

    parts = group.gathered(group.attempted(own))
    order = np.concatenate([np.arange(probes.shape[1])[r :: group.size] for r in range(group.size)])
    place = np.argsort(order)
    held = [part for part in parts if part is not None]
    depth = min(part.steps for part in held)  # fewer where a product was not finite
    held = [part.truncated(depth) for part in held]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in held])[place]

    return Tridiagonalization(joined("diagonal"), joined("offdiagonal"), joined("lengths"), joined("norms"))
