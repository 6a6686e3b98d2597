"""What counts of 1e9 to 1e11 parameters would take on 8 to 1,024 cards: arithmetic from assumptions, no measurement.

    python bench/rank_costs.py

"vectors on rank 0" (`data_parallel`): samples and basis are shared, weights are whole, rank 0 holds the recurrences.
"vectors over ranks" (`vector_parallel`): recurrences by coordinates too; weights, and a vector while it is multiplied,
are whole on every rank. "all over ranks" (`vector_parallel(weight_parallel(...))`): weights by coordinates too, layers
collected in every pass. The largest layer, whole on a card while it is evaluated, and activations are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GB = 1e9


@dataclass(frozen=True)
class Assumed:
    """A machine and a count; every number is an assumption that may be changed here."""

    rate: float = 1e14  # operations a second that a card sustains in products
    memory: float = 80 * GB  # bytes of a card
    reads: float = 2e12  # bytes a second between a card and its memory
    inside: float = 3e11  # bytes a second between two cards of a machine
    across: float = 5e10  # bytes a second between two cards of two machines
    cards: int = 8  # of a machine
    number: int = 4  # bytes of a number of products and basis (float32); recurrences are float64
    operations: float = 12.0  # for each weight, sample and column of a product
    samples: float = 1e6  # or tokens: whatever uses every weight once
    batch: float = 1e4  # of them a card takes at once
    probes: int = 4
    steps: int = 200

    def link(self, ranks: int) -> float:
        """Bytes a second of the slowest link."""
        return self.inside if ranks <= self.cards else self.across


@dataclass(frozen=True)
class Cost:
    """Seconds of a step of all probes, and bytes of the fullest card."""

    computing: float
    talking: float
    memory: float

    def hours(self, assumed: Assumed) -> float:
        """Of the whole run."""
        return assumed.steps * (self.computing + self.talking) / 3600


def products(size: float, ranks: int, a: Assumed) -> float:
    """Seconds of the products of a step: each rank has a share of the samples."""
    return a.operations * size * a.samples * a.probes / (a.rate * ranks)


def orthogonalization(size: float, ranks: int, a: Assumed) -> float:
    """Seconds in which a rank reads its part of the basis twice, half as deep as it becomes on average."""
    return 2 * (a.steps / 2) * a.probes * size * a.number / ranks / a.reads


WHOLE = 3
"""Vectors of one column that a rank has whole while it multiplies."""


def over_ranks(size: float, ranks: int, a: Assumed) -> Cost:
    """Slices are gathered before a product and summed into slices after it (b each); all else is local."""
    vectors = a.probes * size
    recurrence = 10 * 8 * vectors / ranks / a.reads
    talking = 2 * vectors * a.number / a.link(ranks)
    held = (1 + WHOLE) * size * a.number
    held += ((5 * a.probes + 7) * size * 8 + a.probes * a.steps * size * a.number) / ranks
    return Cost(products(size, ranks, a) + orthogonalization(size, ranks, a) + recurrence, talking, held)


def on_rank_0(size: float, ranks: int, a: Assumed) -> Cost:
    """Vectors go from rank 0 and back: multiplied and summed (b each), kept (b), orthogonalized and back (8 each)."""
    vectors = a.probes * size
    recurrence = 10 * 8 * vectors / a.reads  # about ten passes over a block, on rank 0 alone
    talking = vectors * (3 * a.number + 2 * 8) / a.link(ranks)
    whole = size * a.number + 2 * vectors * a.number  # weights, the block and its product
    held = whole + (5 * a.probes + 7) * size * 8 + a.probes * a.steps * size * a.number / ranks
    return Cost(products(size, ranks, a) + orthogonalization(size, ranks, a) + recurrence, talking, held)


AGAIN = 4.0
"""Operations for each weight and sample of a block, whatever its columns: layers are evaluated twice more."""


def all_over_ranks(size: float, ranks: int, a: Assumed) -> Cost:
    """For every batch weights are collected four times, directions once; slopes are summed once, theirs twice."""
    vectors = a.probes * size
    batches = max(1.0, a.samples / (ranks * a.batch))
    talking = batches * (4 * size + vectors + size + 2 * vectors) * a.number / a.link(ranks)
    multiplying = products(size, ranks, a) * (1 + AGAIN / (a.operations * a.probes))
    computing = multiplying + orthogonalization(size, ranks, a) + 10 * 8 * vectors / ranks / a.reads
    kept = size * a.number + 2 * vectors * a.number + (5 * a.probes + 7) * size * 8
    return Cost(computing, talking, (kept + a.probes * a.steps * size * a.number) / ranks)


def table(a: Assumed) -> list[str]:
    """Rows of Markdown."""
    rows = [
        "| N | cards | products, s a step | vectors over ranks: talking, s | a card, GB | hours "
        "| all over ranks: talking, s | a card, GB | hours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in (1e9, 1e10, 1e11):
        for ranks in (8, 64, 256, 1024):
            vectors, everything = over_ranks(size, ranks, a), all_over_ranks(size, ranks, a)
            cells = [f"{size:.0e}".replace("e+", "e"), f"{ranks:,}", short(products(size, ranks, a))]
            for cost in (vectors, everything):
                fits = cost.memory <= a.memory
                hours = short(cost.hours(a)) if fits else "does not fit"
                cells += [short(cost.talking), short(cost.memory / GB), hours]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def largest(a: Assumed) -> list[str]:
    """Rows of Markdown: memory goes with N."""
    rows = [
        "| cards | largest N, vectors on rank 0 | over ranks | over ranks, without a basis | all over ranks "
        "| all over ranks, without a basis |",
        "|---|---|---|---|---|---|",
    ]
    for ranks in (8, 64, 256, 1024):
        bare = replace(a, steps=0)
        ways = ((on_rank_0, a), (over_ranks, a), (over_ranks, bare), (all_over_ranks, a), (all_over_ranks, bare))
        least = (way(1.0, ranks, assumed) for way, assumed in ways)
        cells = [f"{a.memory / cost.memory:.1e}".replace("e+", "e") for cost in least]
        rows.append(f"| {ranks:,} | " + " | ".join(cells) + " |")
    return rows


def short(x: float) -> str:
    """Two digits."""
    return f"{float(f'{x:.1e}'):,.10g}"


if __name__ == "__main__":
    print(Assumed())
    print("\n".join([*table(Assumed()), "", *largest(Assumed())]))
