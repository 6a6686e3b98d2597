"""Real networks that `validate/networks.py` trains briefly and counts: data, models, training, counting, tables."""
