"""What a recognized network proves before anything is counted."""

from lanczos_saddle.old_names import moved

__getattr__ = moved(
    __name__,
    {
        "altered": "structure.facts",
        "convex_block": "structure.facts",
        "dead_coordinates": "structure.facts",
        "negative_bound": "structure.facts",
        "nonnegative_loss": "structure.facts",
        "ConvexBlock": "operators.knowledge",
    },
)
