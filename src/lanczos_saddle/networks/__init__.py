"""A torch model, a loss and data as a matrix known by its products: H @ V."""
