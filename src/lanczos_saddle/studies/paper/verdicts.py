"""Definitions 1 to 4 of the paper, answered of trained networks by `definitions.judge`, from what a store has of them.

The gradient is that where training ended, the ends of the spectrum are exact, the counts certified at TAU of the
largest |eigenvalue|. Each network is called critical, that is epsilon is its own gradient norm: at a smaller epsilon it
is none, and no definition but the strict saddle's gradient clause applies.
"""

from __future__ import annotations

import math

from lanczos_saddle.certificates.intervals import Interval
from lanczos_saddle.classification.definitions import Constants, Facts, Verdict, judge, least_kappa
from lanczos_saddle.reports.markdown import table
from lanczos_saddle.studies.paper.experiments import Experiment
from lanczos_saddle.studies.paper.measurements import parameters_of
from lanczos_saddle.studies.paper.rows import rows
from lanczos_saddle.studies.paper.store import Store

TAU = "1e-03"
TABLES = {"table1": "mnist", "table2": "cifar10_features"}
ASKED = ("minimum", "minimum_up_to_tau", "saddle", "degenerate_saddle", "strict", "stable", "good")


def markdown(store: Store) -> str:
    """A line for each network of TABLES whose first trial has exact and certified counts."""
    heads = ["", "epsilon = gradient norm", "lambda_min", "lambda_max", "tau", "within tau", "kappa"]
    heads += [name.replace("_", " ") for name in ASKED]
    body = []
    for name, dataset in TABLES.items():
        for row in rows(name, dataset):
            for one in row.variants():
                found = facts(store, one)
                if found is not None:
                    said = verdicts(found)
                    label = f"{'-'.join(map(str, one.sizes))}, {row.label}, {one.objective}"
                    body.append([label, *_numbers(found), *(said[name].answer for name in ASKED)])
    return table("|".join(heads), body)


def facts(store: Store, experiment: Experiment) -> Facts | None:
    """What the store knows of one network; None where a part is missing."""
    run = store.trained(experiment)
    exact, certified = (store.find(kind, parameters_of(kind, experiment)) for kind in ("exact", "certified"))
    if run is None or exact is None or certified is None:
        return None
    zeros = [0.0] if exact["zero_rows"] else []  # eigenvalues, beside those of the other rows
    low, high = min([exact["smallest"], *zeros]), max([exact["largest"], *zeros])
    negative, near_zero, positive = (Interval(int(a), at, int(b)) for a, at, b in certified["intervals"][TAU])
    return Facts(
        size=exact["size"],
        threshold=float(TAU) * certified["scale"],
        negative=negative,
        near_zero=near_zero,
        positive=positive,
        confidence=certified["confidence"],
        smallest=(low, low),
        largest=(high, high),
        gradient_norm=run["gradient_norm"],
        value=run["loss"],
        variation=None,
        kinks="ReLU",
    )


def verdicts(found: Facts) -> dict[str, Verdict]:
    """By name; the loss is at least 0, and of the strict saddle alpha and gamma are tau."""
    assert found.gradient_norm is not None
    epsilon = math.nextafter(found.gradient_norm, math.inf)  # stable points have a smaller gradient
    constants = Constants(epsilon, kappa=None, alpha=None, gamma=None, radius=None, rho=None, delta=None, lowest=0.0)
    return judge(found, constants)


def _numbers(found: Facts) -> list[str]:
    within, kappa = found.near_zero, least_kappa(found)
    return [
        f"{found.gradient_norm:.1e}",
        f"{found.smallest[0]:.2e}",
        f"{found.largest[0]:.2e}",
        f"{found.threshold:.1e}",
        f"[{within.lower}, {within.upper}]",
        "" if kappa is None else str(kappa),
    ]
