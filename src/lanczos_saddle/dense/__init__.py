"""The judge: assembled matrices, their eigenvalues and inertia. It shares nothing with what it judges."""
