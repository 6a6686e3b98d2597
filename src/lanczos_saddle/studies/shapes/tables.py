"""The tables of the study of shapes, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from lanczos_saddle.reports.markdown import over_trials, table
from lanczos_saddle.studies.shapes.results import CLASSES, Anatomy, Counted, Findings, Taken, interval, label, verdict

RELATIVE = "1e-03"
"""The threshold at which counts are printed in full."""


def blocks(findings: Findings) -> dict[str, tuple[str, str]]:
    """Name -> (title, table) of every table; the text is empty where nothing has been computed."""
    names = findings.names
    networks_of_mnist = [*findings.depth, *findings.width[1:], *findings.large]
    return {
        "networks": ("Networks", networks(networks_of_mnist)),
        "counts": (f"Counts at {said(RELATIVE)}", counts(networks_of_mnist, RELATIVE)),
        "depth": ("Near zero against depth, % of N", fractions(findings.depth, names)),
        "depth-proved": ("What the intervals prove, from each depth to the next", trend(findings.depth, names)),
        "width": ("Near zero against width, % of N", fractions([*findings.width, *findings.large], names)),
        "width-proved": ("What the intervals prove, from each width to the next", trend(findings.width, names)),
        "depth-exact": (
            "Near zero against depth, exactly, % of N, mean and standard deviation",
            exact(findings.exact, names),
        ),
        "width-exact": ("Near zero against width, exactly, % of N", exact(findings.widths, names)),
        "level": (
            f"Against depth where the training loss first was at most {findings.loss:g}",
            leveled(findings.level, names),
        ),
        "bounds": (
            f"Negative at {said(RELATIVE)} and what bounds it, one hidden layer",
            bounds(findings.width, RELATIVE),
        ),
        "parts": ("Parts, certified", apart(findings.apart, names)),
        "parts-exact": ("Parts, exactly", whole(findings.whole, names)),
        "layers": ("Layers, certified: near zero, % of the layer", layers_certified(findings.apart, names)),
        "layers-exact": ("Layers, exactly", layers_exact(findings.whole)),
    }


def page(findings: Findings) -> str:
    """All tables, each under its heading."""
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in blocks(findings).values() if text) + "\n"


def said(name: str) -> str:
    """A threshold in words."""
    return name if name.startswith("tau") else f"tau = {name} of the largest"


def networks(found: Sequence[Counted]) -> str:
    """Size, training, and the parameters whose row of H is zero."""
    rows = []
    for c in found:
        size, dead, blank = (c.result[key] for key in ("size", "dead", "blank"))
        training = c.training
        rows.append(
            [
                label(c.experiment.sizes),
                f"{size:,}",
                training["epochs"],
                f"{training['loss']:.2g}",
                f"{100 * training['train_accuracy']:.2f}",
                f"{100 * training['test_accuracy']:.2f}",
                f"{c.result['scale']:.3g}",
                f"{blank:,}",
                f"{dead - blank:,}",
                f"{100 * dead / size:.2f}",
                c.result["products"],
            ]
        )
    head = "network|N|epochs|loss|train %|test %|largest eigenvalue|blank|silent|dead, % of N|products"
    return table(head, rows)


def counts(found: Sequence[Counted], name: str) -> str:
    """The three counts at one threshold, and the exact ones where the store has them."""
    rows = []
    for c in found:
        certified = (spread(c.certified(name, which)) for which in CLASSES)
        exact = triple(c.exact[name]) if c.exact is not None and name in c.exact else ""
        rows.append([label(c.experiment.sizes), f"{c.result['size']:,}", *certified, exact])
    return table("network|N|" + "|".join(CLASSES) + "|exact", rows)


def fractions(found: Sequence[Counted], names: Sequence[str]) -> str:
    """The near-zero fraction at every threshold, of all parameters; and of the living ones at one."""
    rows = [
        [
            label(c.experiment.sizes),
            *(percent(c.fraction(name)) for name in names),
            percent(c.fraction(RELATIVE, living=True)),
        ]
        for c in found
    ]
    return table("network|" + "|".join(names) + f"|of the living, {RELATIVE}", rows)


def trend(found: Sequence[Counted], names: Sequence[str]) -> str:
    """Rises and falls that disjoint intervals prove, of neighbors and of all pairs; nothing for one network."""
    if len(found) < 2:
        return ""
    rows = []
    for name in names:
        steps = [c.fraction(name) for c in found]
        living = [c.fraction(name, living=True) for c in found]
        for what, values in (("of N", steps), ("of the living", living)):
            pairs = [verdict(a, b) for a, b in combinations(values, 2)]
            ends = verdict(values[0], values[-1])
            tally = " / ".join(str(pairs.count(proved)) for proved in ("rises", "falls", "open"))
            rows.append([f"{name}, {what}", *(verdict(a, b) for a, b in pairwise(values)), ends, tally])
    heads = [f"to {label(c.experiment.sizes)}" for c in found[1:]]
    return table("|".join(["threshold", *heads, "first to last", "all pairs: rise / fall / open"]), rows)


def exact(found: Sequence[Sequence[Anatomy]], names: Sequence[str]) -> str:
    """Means over the seeds whose training led somewhere."""
    rows = []
    for trials in found:
        kept = [t for t in trials if t.learned]
        if kept:
            rows.append(
                [
                    f"{label(kept[0].experiment.sizes)}, {len(kept)} of {len(trials)} seeds",
                    over_trials([100 * t.training["test_accuracy"] for t in kept], 1),
                    *_means(kept, names),
                ]
            )
    return table("network|test %|" + _MEANS.format("|".join(names)), rows)


def leveled(found: Sequence[Sequence[Anatomy]], names: Sequence[str]) -> str:
    """Means over the seeds that reached the loss."""
    rows = [[label(kept[0].experiment.sizes), len(kept), *_means(kept, names)] for kept in found if kept]
    return table("network|seeds|" + _MEANS.format("|".join(names)), rows)


_MEANS = "loss|largest eigenvalue|dead %|{}|negative at " + RELATIVE


def _means(kept: Sequence[Anatomy], names: Sequence[str]) -> list[str]:
    return [
        over_trials([t.training["loss"] for t in kept], 3),
        over_trials([t.result["scale"] for t in kept], 2),
        over_trials([100 * t.result["dead"] / t.result["size"] for t in kept], 1),
        *(over_trials([t.fraction(name) for t in kept], 1) for name in names),
        over_trials([float(t.result["hessian"][RELATIVE][0]) for t in kept], 0),
    ]


def bounds(found: Sequence[Counted], name: str) -> str:
    """Negative counts of H, those of R exactly, and what the architecture allows."""
    rows = []
    for c in found:
        assert c.residual is not None
        inputs, units, classes = c.experiment.sizes
        allowed = units * min(inputs + 1, classes - 1)
        rows.append([label(c.experiment.sizes), spread(c.interval(name, "negative")), c.residual["counts"][name][0]])
        rows[-1] += [f"{c.residual['largest']:.2e}", allowed]
    return table("network|negative(H)|negative(R), exact|largest eigenvalue of R|h (C - 1)", rows)


def apart(found: Sequence[Taken], names: Sequence[str]) -> str:
    """H, G and R by intervals."""
    rows = []
    for taken in found:
        matrices = {"H": taken.whole.result, "G": taken.parts["gauss-newton"]}
        if "residual" in taken.parts:
            matrices["R"] = taken.parts["residual"]
        for matrix, result in matrices.items():
            for name in names:
                if name.startswith("1e"):
                    found_counts = (spread(interval(result, name, k)) for k in CLASSES)
                    rows.append([label(taken.whole.experiment.sizes), matrix, name, *found_counts])
    return table("network|matrix|threshold|" + "|".join(CLASSES), rows)


def whole(found: Sequence[Anatomy], names: Sequence[str]) -> str:
    """H, G and R exactly: negative, near zero, positive; and the bound on the negatives of H and of R."""
    rows = []
    for anatomy in found:
        result = anatomy.result
        bound = result["size"] - max(layer["size"] for layer in result["layers"].values())
        sizes = anatomy.experiment.sizes
        if len(sizes) == 3:
            bound = sizes[1] * min(sizes[0] + 1, sizes[2] - 1)
        for name in names:
            if name.startswith("1e"):
                triples = (triple(result[part][name]) for part in ("hessian", "gauss-newton", "residual"))
                rows.append([label(sizes), name, *triples, bound])
    return table("network|threshold|H|G|R|negative at most", rows)


def layers_certified(found: Sequence[Taken], names: Sequence[str]) -> str:
    """Each layer's diagonal block."""
    rows = []
    for taken in found:
        for i, result in enumerate(taken.layers.values(), start=1):
            shares = [_share(result, name) for name in names]
            rows.append([label(taken.whole.experiment.sizes), i, f"{result['size']:,}", result["dead"], *shares])
    return table("network|layer|parameters|dead|" + "|".join(names), rows)


def layers_exact(found: Sequence[Anatomy]) -> str:
    """Each layer's block, and its share of the eigenvectors below -tau."""
    rows = []
    for anatomy in found:
        result = anatomy.result
        for i, (name, layer) in enumerate(result["layers"].items(), start=1):
            size = layer["size"]
            rows.append(
                [
                    label(anatomy.experiment.sizes),
                    i,
                    f"{size:,}",
                    f"{100 * size / result['size']:.1f}",
                    triple(layer["counts"][RELATIVE]),
                    f"{100 * layer['counts'][RELATIVE][1] / size:.1f}",
                    f"{layer['largest']:.3g}",
                    *(f"{100 * result['mass'][t][name]:.1f}" for t in ("1e-03", "1e-04")),
                ]
            )
    head = f"network|layer|parameters|% of N|counts at {RELATIVE}|near zero, % of layer|largest eigenvalue"
    return table(head + "|% of negative eigenvectors, 1e-03|1e-04", rows)


def _share(result: dict[str, Any], name: str) -> str:
    found = interval(result, name)
    return percent(None if found is None else tuple(100 * count / result["size"] for count in found))


def spread(found: tuple[float, ...] | None) -> str:
    """17656 in [17520, 17796], or the number alone where the interval is a point."""
    if found is None:
        return "below the noise"
    lower, middle, upper = (round(count) for count in found)
    return f"{lower:,}" if lower == upper else f"{middle:,} in [{lower:,}, {upper:,}]"


def percent(found: tuple[float, ...] | None) -> str:
    """88.8 [88.1, 89.5]; ends rounded outward; the number alone where the interval is a point."""
    if found is None:
        return ""
    lower, middle, upper = found
    if lower == upper:
        return f"{middle:.2f}"
    return f"{middle:.1f} [{_down(lower):.1f}, {-_down(-upper):.1f}]"


def _down(x: float) -> float:
    return math.floor(10 * x) / 10


def triple(found: Sequence[int]) -> str:
    """Negative, near zero, positive."""
    return " / ".join(map(str, found))
