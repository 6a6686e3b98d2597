"""What kind of critical point: definitions, and what bounds on a spectrum answer."""
