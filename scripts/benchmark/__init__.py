"""What the layer, the loop and the replicas cost, measured; `python -m scripts.benchmark` is the command."""
