"""The run behind an elimination: block conjugate gradients for all thresholds, looks that cost nothing, certificates.

A look reads the small matrices of the recurrence and tells when a certificate is worth its products; what is reported
is certified by fresh products alone. Where rounding held a solution back, conjugate gradients start again from its
true residual.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lanczos_saddle.certificates.schur import EPS, SchurBounds, schur_bounds
from lanczos_saddle.counting.partition import Partition
from lanczos_saddle.krylov.block_cg import BlockCG, System
from lanczos_saddle.machine.progress import Stage, made, stage


@dataclass
class Target:
    """What is known for one threshold."""

    threshold: float
    upper: int
    lower: int = 0
    residual: float = float("inf")
    margin: float = 0.0
    iterations: int = 0
    settled: str = ""
    solution: Tensor | None = None  # Y (n, r): X = Y W
    image: Tensor | None = None  # A Y (n, r)

    def learn(self, bounds: SchurBounds, cap: int) -> bool:
        """Take the tighter bounds; whether anything became better."""
        better = bounds.lower > self.lower or bounds.upper < self.upper or bounds.residual < self.residual / 2
        self.lower, self.upper = max(self.lower, bounds.lower), min(self.upper, bounds.upper)
        self.residual, self.margin = bounds.residual, bounds.margin
        if self.lower >= self.upper:
            self.settled = "the bounds meet" if self.upper < cap else "the lower bound reaches what structure allows"
        return better


@dataclass
class Run:
    """One sequence of block products for all thresholds, certificates, and refinement where rounding asks for it."""

    parts: Partition  # A, B, D
    cap: int  # a structural bound on the count
    budget: int
    targets: list[Target]
    products: int = 0
    mixing: Tensor = field(init=False)  # W (r, s), orthonormal rows: B is B W'W and noise
    nulls: Tensor = field(init=False)  # (s, s - r), orthonormal: where B is noise
    right: Tensor = field(init=False)  # B W' (n, r), independent columns

    def __post_init__(self) -> None:
        _, sizes, vh = torch.linalg.svd(torch.linalg.qr(self.parts.coupling, mode="r").R)
        # directions in which B is noise are left out; the residual of the certificate holds them
        rank = int((sizes > max(float(sizes[0]) * EPS * len(self.parts.coupling) ** 0.5, self.parts.error)).sum())
        self.mixing, self.nulls = vh[:rank], vh[rank:].mT
        self.right = self.parts.coupling @ self.mixing.mT

    @property
    def rank(self) -> int:
        """Independent columns of B: the width of the blocks."""
        return len(self.mixing)

    def extend(self, progress: bool) -> str:
        """All thresholds together first; then each that is not settled, from its true residual. Why it stopped."""
        with stage("elimination", self.budget, bound="at most", shown=progress) as bar:
            if self.rank == 0:
                for target in self.targets:
                    self._certify(target, self.right)
                return "the block is not coupled to the rest"
            self._iterate(self.targets, self.right, bar)
            for target in self.targets:
                better = True
                while better and not target.settled and self.products + 2 * self.rank <= self.budget:
                    assert target.solution is not None
                    assert target.image is not None
                    better = self._iterate(
                        [target], self.right - target.image - target.threshold * target.solution, bar
                    )
        return "the products are spent" if self.products + 2 * self.rank > self.budget else "rounding: no more progress"

    def _iterate(self, targets: list[Target], right: Tensor, bar: Stage) -> bool:
        """Block conjugate gradients until the bounds seem to meet, then certificates; whether any improved."""
        cg = BlockCG(self.parts.block, right, shifts=[target.threshold for target in targets])
        pairs = list(zip(targets, cg.systems, strict=True))
        offsets = [self._schur(target) for target in targets]
        reserve = len(targets) * self.rank
        while not cg.closed and self.products + cg.products + cg.width + reserve <= self.budget:
            before = cg.products
            cg.advance()
            made(cg.products - before)
            looks = []
            for (target, system), offset in zip(pairs, offsets, strict=True):
                if not (system.frozen or system.failed):
                    target.iterations += 1
                    lower, upper = self._look(target, cg, system, offset)
                    system.frozen = lower >= upper
                    looks.append(f"[{lower}, {upper}]")
            bar.say(f"so far below -tau {' '.join(looks)}, no promise yet")
        self.products += cg.products
        better = False
        for target, system in pairs:
            solution = system.solution if target.solution is None else target.solution + system.solution
            better = self._certify(target, solution) or better
        return better

    def _schur(self, target: Target) -> Tensor:
        """S_X (s, s) of what the target has so far, on the CPU."""
        form = self.parts.corner.cpu() + target.threshold * torch.eye(len(self.parts.corner), dtype=torch.float64)
        if target.solution is None or target.image is None:
            return form
        w, y = self.mixing.cpu(), target.solution
        crossed = (y.mT @ self.parts.coupling).cpu()
        quadratic = (y.mT @ (target.image + target.threshold * y)).cpu()
        return form - w.mT @ crossed - crossed.mT @ w + w.mT @ quadratic @ w

    def _look(self, target: Target, cg: BlockCG, system: System, offset: Tensor) -> tuple[int, int]:
        """Bounds from the recurrence, no product and no long vector: when to certify, not what is certified."""
        w = self.mixing.cpu()
        form = offset - w.mT @ system.energy.cpu() @ w
        gram = w.mT @ cg.residual_gram(system).cpu() @ w
        lower = int((torch.linalg.eigvalsh((form + form.mT) / 2) < 0).sum())
        lifted = form - gram / target.threshold
        upper = int((torch.linalg.eigvalsh((lifted + lifted.mT) / 2) < 0).sum())
        return lower, min(upper, self.cap)

    def _certify(self, target: Target, solution: Tensor) -> bool:
        """Certified bounds for a solution, from a fresh product; whether anything became better."""
        # graded: in this basis columns of very different lengths do not mix
        energy = (solution.mT @ self.right).cpu()
        graded = torch.linalg.eigh((energy + energy.mT) / 2).eigenvectors.to(solution.device)
        turned = solution @ graded
        image = self.parts.block @ turned
        self.products += self.rank
        made(self.rank)
        basis = torch.cat([self.mixing.mT @ graded, self.nulls], dim=1)
        bounds = schur_bounds(
            target.threshold, self.parts.corner, self.parts.coupling, turned, image, basis, self.parts.error
        )
        target.solution, target.image = solution, image @ graded.mT
        return target.learn(bounds, self.cap)
