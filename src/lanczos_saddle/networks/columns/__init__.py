"""Many columns at once: one product recorded, its operations applied to blocks of directions."""
