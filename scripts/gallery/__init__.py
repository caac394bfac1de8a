"""Faults planted on purpose in networks trained on real data, and what the diagnosis says of them."""
