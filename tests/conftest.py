"""Shared helpers lie beside it: `matrices`, `oracles`, `needs`; fixtures in the folder that uses them."""
