"""What the layer, the loop and the replicas cost, measured; `scripts/benchmark.py` is the command."""
