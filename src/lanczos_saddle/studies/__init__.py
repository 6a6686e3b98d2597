"""Studies: known landscapes, the paper, depth and width. They use everything; the command line alone uses them."""
