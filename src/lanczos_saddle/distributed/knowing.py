"""What is proved of the matrix of all ranks' samples, from what each rank proves of its own.

Of the network and its loss every rank knows the same. What depends on samples is put together: units fire on the sum of
the samples on which they fire anywhere; a condition on targets holds where it holds on all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from lanczos_saddle.distributed.over_ranks import OverRanks
from lanczos_saddle.operators.knowledge import NOTHING, Knowledge
from lanczos_saddle.structure.facts import Recognized, look, nonnegative_loss
from lanczos_saddle.structure.know import known_of


def shared_knowledge(matrix: OverRanks, point: Callable[[], tuple[float, float]] | None) -> Knowledge:
    """As `structure.know`, of all samples; called by all ranks. `point` is what gives gradient and loss, on rank 0.

    Cost: at most one pass over the data through the first layer. A convex block is known, its cheaper products are not.
    """
    known_whole: Any = getattr(matrix, "known", None)
    if known_whole is not None:
        found_whole: Knowledge = known_whole(point)
        return found_whole
    group, share = matrix.group, matrix.share
    if matrix.kind not in ("Hessian", "GaussNewton"):
        return NOTHING
    seen, nonnegative = group.attempted(lambda: (None, True) if share is None else _seen(share))
    fired = None if seen is None or seen.fired is None else seen.fired.cpu()
    said = group.gathered((share is not None, seen is not None, nonnegative, fired))
    known = [facts for facts in said if facts[0]]
    first = next(r for r, facts in enumerate(said) if facts[0])

    def found() -> Knowledge | None:
        if group.rank != first or share is None:
            return None
        together = seen if all(facts[1] for facts in known) else None
        if together is not None and together.fired is not None:
            total = torch.stack([facts[3] for facts in known]).sum(0)
            together = replace(together, fired=total.to(together.fired.device))
        lowest = 0.0 if all(facts[2] for facts in known) else -math.inf
        proved = replace(known_of(share, together, lowest=lowest), multiply_block=None, point=None)
        return replace(proved, block=None) if hasattr(matrix, "product_own") else proved  # which has indices of N

    knowledge: Knowledge = group.gathered(group.attempted(found))[first]
    block = knowledge.block
    if block is not None:
        block = replace(block, index=block.index.to(matrix.device), rest=block.rest.to(matrix.device))
    return replace(knowledge, block=block, point=point)


def _seen(share: Any) -> tuple[Recognized | None, bool]:
    seen = look(share.problem)
    return seen, nonnegative_loss(share.problem, convex=seen is not None)
