"""tf.raw_ops.FusedBatchNormV3, which answers with the running statistics that the caller keeps."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bnstudy.frameworks.audit.experiment import Kind, Stored
from bnstudy.frameworks.audit.observations import Array


class FusedLayer:
    """The operator with its buffers; channels last, since its CPU kernel takes nothing else."""

    def __init__(self, channels: int, momentum: float | None) -> None:
        self._options = {} if momentum is None else {"exponential_avg_factor": momentum}
        ones = np.ones(channels, np.float32)
        self._gain, self._shift, self._mean, self._variance = ones, 0 * ones, 0 * ones, ones

    def train(self, x: Array) -> Array:
        result = self._run(x, True)
        self._mean, self._variance = result.batch_mean.numpy(), result.batch_variance.numpy()
        return np.asarray(result.y.numpy().transpose(0, 3, 1, 2))

    def evaluate(self, x: Array) -> Array:
        return np.asarray(self._run(x, False).y.numpy().transpose(0, 3, 1, 2))

    def read(self) -> Stored:
        return Stored(self._mean, self._variance, self._gain, self._shift)

    def write(self, mean: Array, variance: Array) -> None:
        self._mean, self._variance = mean, variance

    def _run(self, x: Array, training: bool) -> tf.Tensor:
        return tf.raw_ops.FusedBatchNormV3(
            x=x.transpose(0, 2, 3, 1),
            scale=self._gain,
            offset=self._shift,
            mean=self._mean,
            variance=self._variance,
            is_training=training,
            **self._options,
        )


def kind(name: str) -> Kind:
    """The one kind of this module."""
    return Kind(FusedLayer, 1.0)
