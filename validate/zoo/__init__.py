"""Models and losses of all kinds, each with the same function as its user would write it."""
