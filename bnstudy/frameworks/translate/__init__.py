"""Carry a trained checkpoint from one BatchNorm to another: rules on tensors, and the files they live in."""
