"""Weights & Biases: a view of what the files on disk hold. The library `wandb` is loaded only where it is asked for."""
