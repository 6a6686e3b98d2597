"""What a caller may leave out or choose from, each in one place: read by functions, shown by --help without torch."""

CONFIDENCE = 0.95
PRECISION = 0.01
"""Of a count: stop when every half-width is below this fraction of N."""

METHODS = ("auto", "exact", "lanczos", "elimination")

EXACT_SIZE = 3000
"""method="auto" is exact up to this dimension: seconds on two cores."""

STEPS = 400
"""Products per probe at most, and products in search of directions at both ends."""

PRECONDITIONERS = ("auto", "ekfac", "subset")

EPSILON = 1e-3
"""A gradient of at most this norm counts as zero."""

DENSITY_PROBES, DENSITY_STEPS = 4, 100

COMPARED_PROBES, COMPARED_STEPS = 4, 200
"""Of every sampled method of a comparison."""

DATASETS = ("digits", "mnist", "cifar10_features")
"""Those that the package can load by name."""

OBJECTIVES = ("cross-entropy", "squared-error")
"""Of the paper's networks."""

FIGURES = ("fig1", "fig2", "fig3", "wigner", "shapes")
REPRODUCED = (*(f"table{number}" for number in range(1, 10)), "autoencoder", "steps", *FIGURES)
"""What `reproduce` computes."""

SHELLS = ("bash", "zsh", "fish")
"""Those that can complete commands."""
