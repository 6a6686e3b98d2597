"""The paper: its data, networks, training and the problems that the command line knows by name."""
