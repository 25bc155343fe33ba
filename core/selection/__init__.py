"""Selection without a reference: which iterate, and which regularisation weight, best predicts held-out data."""
