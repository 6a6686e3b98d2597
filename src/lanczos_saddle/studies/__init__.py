"""Studies that use everything; nothing uses them but the command line."""
