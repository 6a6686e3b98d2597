"""A symmetric matrix known by its products: the protocol, conversions in and out, what noise resolves."""
