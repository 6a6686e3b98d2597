"""Fixtures that tests of several packages share; its folder is where `oracles` is found."""
