"""The compression engine: which weights, how much of each, close in which norm; then the surgery on the model."""
