"""Data sets, the paper's networks and training methods, weights on disk, and problems by name."""
