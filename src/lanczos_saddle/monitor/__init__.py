"""Watching training: the same certified count every so many steps, within a share of the time, training unchanged."""
