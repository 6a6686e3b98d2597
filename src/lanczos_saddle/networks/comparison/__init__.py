"""Is the matrix that is multiplied that of the user's own function? Compared before anything is counted."""
