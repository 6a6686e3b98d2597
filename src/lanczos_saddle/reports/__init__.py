"""Records of what was computed, tables and figures of them. Nothing is computed here."""
