"""The figure of docs/method.md: how the interval of the negative count closes with steps, for two numbers of probes.

python validate/method_figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from lanczos_saddle import PrescribedSpectrum, count_eigenvalues

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "method-closing.png"
TAU = 0.01
NEGATIVE = 150
STEPS = (5, 10, 20, 30, 45, 60, 80, 110)


def spectrum() -> torch.Tensor:
    """1000 eigenvalues: 150 below -tau, 600 near zero, 250 above."""
    sides = [torch.logspace(-1.9, -0.5, NEGATIVE), torch.logspace(-1.9, 0, 250)]
    middle = torch.linspace(-0.3 * TAU, 0.3 * TAU, 600)
    return torch.cat([-sides[0], middle, sides[1]]).double().sort().values


def main() -> None:
    operator = PrescribedSpectrum(spectrum(), generator=torch.Generator().manual_seed(0))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, probes in zip(axes, (2, 8), strict=True):
        intervals = [
            count_eigenvalues(
                operator, threshold=TAU, method="lanczos", probes=probes, steps=k, precision=1e-9
            ).negative
            for k in STEPS
        ]
        lower, upper = ([getattr(one, end) for one in intervals] for end in ("lower", "upper"))
        axis.fill_between(STEPS, lower, upper, color="#9ecae1", label="certified, 95 %")
        axis.axhline(NEGATIVE, color="#222222", linewidth=1.2, label="exact")
        axis.set(title=f"{probes} probes", xlabel="steps: products per probe", ylim=(0, 500))
    axes[0].set_ylabel("eigenvalues below -tau")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
