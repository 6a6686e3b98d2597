"""S for the congruence S'(H - tI)S: EKFAC, a subset of the samples, and the choice between them."""
