"""Weights & Biases as a mirror of the store: written from it, after a job is done, by a process of its own."""
