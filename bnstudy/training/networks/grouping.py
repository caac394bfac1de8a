"""How many seeds train as one module: a fixed rule, so that the same command always groups alike."""

from __future__ import annotations

from bnstudy.errors import UserError
from bnstudy.training.config import TrainingConfig
from bnstudy.training.networks.facts import NetworkFacts

LARGEST = 16
"""Replicas in a block at most: beyond it the gain is small and a lost block costs more."""
ACTIVATIONS = {"mlp": 2**18, "resnet": 2**19}
"""Values in the widest layer's output that a block may have: 1 and 2 MB of float32. Up to there a larger block is never the
slower one; beyond, gains shrink, and for ResNets turn into losses (0.9 at 2^20 and up)."""
WEIGHTS = {"mlp": 2**20, "resnet": 2**21}
"""Weights in the largest layer that a block may have: 4 and 8 MB of float32. Stacking saves calls, but no reading and
updating of weights, most of the work of a wide network at a small batch; torchvision's ResNets, above it, gain nothing."""


def block_size(config: TrainingConfig, facts: NetworkFacts) -> int:
    """Seeds in an aligned block: a power of two that keeps a step's largest tensors in a core's cache.

    Stacking saves the fixed cost of a call, which pays while a replica's own work is small. The block is the largest
    power of two up to 16 whose replicas together have at most ACTIVATIONS values in the output of the largest layer and at
    most WEIGHTS weights in the largest parameter; 1 where even one replica has more. The constants come from
    `python -m scripts.benchmark grouping` on one thread, under an allocator that keeps freed memory, as in study workers.
    On a GPU the block is 16. Networks of the user's own follow the same rule (an MLP's where inputs are rows of features),
    and train one by one where they cannot be stacked.

    Args:
        config: the model, batch size, and `replicas`, which overrules the rule unless "auto".
        facts: of its network.

    Returns:
        B ≥ 1.

    Raises:
        UserError: more than one replica is asked for of a network that cannot be stacked.

    Source: docs/method.md, "Replicas and pairing"; results/benchmark/grouping.md for the measurements.
    """
    asked = None if config.replicas == "auto" else int(config.replicas)
    if asked is not None:
        block = asked
    elif config.device == "cuda":
        block = LARGEST
    else:
        kind = "mlp" if config.model.architecture == "mlp" or len(facts.input_shape) == 1 else "resnet"
        values = config.batch_size * facts.activations
        most = min(LARGEST, WEIGHTS[kind] // facts.weights, ACTIVATIONS[kind] // values)
        block = 1 << (max(1, most).bit_length() - 1)
    if block == 1 or (reason := facts.unstackable) is None:
        return block
    if asked is None:
        return 1
    raise UserError(
        f"replicas: {asked} networks of {config.model.factory!r} cannot train as one module ({reason}); use 1, or auto"
    )
