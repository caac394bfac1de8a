"""Every fault of the gallery, and the finding that is right for it."""

from __future__ import annotations

from bnstudy.errors import UserError
from scripts.gallery import after_training as after
from scripts.gallery import while_training as during
from scripts.gallery.case import Fault

FAULTS = (
    Fault(
        "wrong_convention",
        ("wrong_convention",),
        "A checkpoint comes from a framework that stores or normalises by another variance than the layers it is loaded "
        "into.",
        "Trained at 4 to 8 samples a batch with bnstudy's layers under `flax` or `karpathy`; the state_dict then loaded "
        "into torch's layers.",
        (during.flax_convention, during.karpathy_convention),
    ),
    Fault(
        "slow_average",
        ("slow_average",),
        "The moving average has not caught up: its momentum is too small for the number of steps, or it was reset and has "
        "seen only a handful of batches since.",
        "Trained for 220 steps at a momentum of 0.0005 to 0.0025; or reset after training, with 3 to 12 updates at 0.1.",
        (during.small_momentum, after.few_updates),
    ),
    Fault(
        "noisy_average",
        ("noisy_average",),
        "A momentum near 1 stores what the last batch happened to show, and that batch was small.",
        "Trained at 8 or 12 samples a batch with a momentum of 0.9 to 1.",
        (during.large_momentum,),
    ),
    Fault(
        "tiny_batches",
        ("tiny_batches",),
        "With two to four values a channel the batch's own statistics are mostly noise, and training mode computes a "
        "function that no fixed statistics can compute.",
        "Trained at 2 to 4 samples a batch, otherwise as usual; the ResNet at 3 or 4, with a single position in its last "
        "two stages.",
        (during.tiny_batches,),
    ),
    Fault(
        "dependent_samples",
        ("dependent_samples",),
        "A batch holds many values that say the same, such as frames of one scene or pixels of one image. Bessel's "
        "correction and the batch's own statistics count the values, not what they are worth.",
        "MLP: batches of 32 frames of 2 to 4 digits under a little noise. ResNet: two digits a batch, enlarged to 32x32, "
        "each in its own light.",
        (during.dependent_samples,),
    ),
    Fault(
        "single_samples",
        ("instance_statistics",),
        "Each batch is one image, and training mode normalises it by its own statistics. Evaluation takes one average for "
        "all, which is another function.",
        "Digits enlarged to 32x32, each in its own light, one a batch.",
        (during.single_samples,),
        ("resnet",),
    ),
    Fault(
        "repeated_batch",
        ("dependent_samples",),
        "Every batch is the same. Batch means do not vary at all, so the stored unbiased variance is too large, and a "
        "chain of layers multiplies the excess.",
        "The reproduction in pytorch/pytorch#100048: 20 BatchNorm1d(2, eps=1e-12, momentum=0.01, affine=False) in a row, "
        "2,048 forward passes of one batch of 64.",
        (after.repeated_batch,),
        ("mlp",),
    ),
    Fault(
        "mixed_domains",
        ("mixed_domains",),
        "Batches come from two domains, each batch from one of them, and one set of statistics has to serve both.",
        "Every other batch is inverted, or at 0.3 or 3 times the contrast and another brightness; by turns or in random "
        "order.",
        (during.domains_by_turns, during.domains_at_random),
    ),
    Fault(
        "data_differ",
        ("data_differ",),
        "Evaluation data are prepared in another way than training data.",
        "A healthy model evaluated on held-out digits as raw pixels, or at another contrast and brightness; or trained on "
        "enlarged crops and evaluated on whole images.",
        (after.unnormalised, after.other_contrast, after.without_augmentation),
    ),
    Fault(
        "never_updated",
        ("never_updated",),
        "The buffers are as the layer was made: the checkpoint held parameters only, or was loaded with strict=False.",
        "reset_running_stats() after training, in all layers or in a random half of them.",
        (after.never_updated, after.never_updated_in_part),
    ),
    Fault(
        "reset",
        ("reset",),
        "Mean 0 and variance 1 stand beside a counter that says the layer has been trained.",
        "Statistics filled with 0 and 1 after training, counters kept, in all layers or in a random half of them.",
        (after.reset, after.reset_in_part),
    ),
    Fault(
        "frozen",
        ("frozen",),
        "BatchNorm was put in evaluation mode while the weights went on, so that the batch's own statistics are now those "
        "that the network never met.",
        "Trained on random crops; layers put in evaluation mode after a third of the steps, by hand or by a train() of the "
        "model's own that keeps them so.",
        (during.frozen_layers, during.frozen_by_train),
    ),
    Fault(
        "invalid_statistics",
        ("invalid_statistics",),
        "Stored values that no data can have: overflow, a broken average of checkpoints.",
        "NaN, a negative or an infinite variance in 1 to 4 channels of a random layer.",
        (after.invalid_nan, after.invalid_negative, after.invalid_inf),
    ),
    Fault(
        "shared_layer",
        ("shared_layer",),
        "One BatchNorm module serves at several places of the network, and its statistics are a mixture that fits none of "
        "them.",
        "MLP: one layer for all depths. ResNet: bn1 of a block in place of its bn2. Trained so.",
        (during.shared_layer,),
    ),
    Fault(
        "dead_channels",
        ("dead_channels",),
        "The input of some channels is a constant.",
        "The weights into 10 to 40 % of a random layer's channels held at zero through the training.",
        (during.dead_channels,),
    ),
    Fault(
        "zero_gain",
        ("zero_gain",),
        "γ is zero, so that the channel gives β whatever comes in.",
        "γ of 10 to 50 % of a random layer's channels held at zero through the training; or of a whole layer set to zero "
        "after it, and the statistics brought up to date.",
        (during.zero_gain_channels, after.zero_gain_layer),
    ),
    Fault(
        "other_layers",
        ("other_layers",),
        "The modes differ, but because of dropout or stochastic depth.",
        "Dropout of 0.5 to 0.7 in front of the head; or dropout 0.5 behind every ReLU (MLP), stochastic depth of 0.3 to "
        "0.5 (ResNet).",
        (during.dropout, during.dropout_between),
    ),
    Fault(
        "no_statistics",
        ("no_statistics",),
        "The layers keep no statistics, so that evaluation depends on the batch as training does.",
        "track_running_stats=False in every layer.",
        (after.no_statistics,),
    ),
)
"""The planted faults, in the order of the page."""

HEALTHY = Fault(
    "healthy",
    ("healthy",),
    "Nothing is wrong.",
    "Random widths, 32 to 64 samples a batch, SGD or AdamW with weight decay, with and without mild augmentation. Every "
    "other draw is given held-out digits to evaluate on.",
    (during.healthy,),
)


def fault(name: str) -> Fault:
    """A fault, or `healthy`, by its name.

    Raises:
        UserError: there is none of that name.
    """
    known = {each.name: each for each in (HEALTHY, *FAULTS)}
    if name not in known:
        raise UserError(f"faults: '{name}' is not in the gallery; choose among {', '.join(known)}")
    return known[name]
