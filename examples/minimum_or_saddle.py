"""Critical points that everybody knows, classified: what is proved, and what no second derivative decides."""

import torch

from lanczos_saddle import Hessian, classify

FUNCTIONS = {
    "x^2 + y^2": lambda x, y: x**2 + y**2,
    "x^2 - y^2": lambda x, y: x**2 - y**2,
    "x^4 + y^4": lambda x, y: x**4 + y**4,
    "x^3 - 3 x y^2": lambda x, y: x**3 - 3 * x * y**2,
    "x^2, any y": lambda x, y: x**2 + 0 * y,
}

for name, function in FUNCTIONS.items():
    point = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    hessian = Hessian.of(lambda p, f=function: f(*p["point"]), {"point": point})
    found = classify(hessian, threshold=1e-6, epsilon=1e-12)
    counts = (found.counts.negative, found.counts.near_zero, found.counts.positive)
    print(f"{name:<14} negative, near zero, positive: {', '.join(map(str, counts))}")
    for kind in ("minimum", "minimum_up_to_tau", "saddle", "degenerate"):
        print(f"    {kind:<17}  {found.verdicts[kind]}")
