"""Measure which BatchNorm a framework implements, from what its layer does and not from what its documentation says."""
