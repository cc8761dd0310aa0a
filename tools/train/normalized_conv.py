"""Convolutions with batch normalization, and folding: for export, the normalization becomes part of the convolution."""

import keras
import numpy as np

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D}


class NormalizedConv(keras.layers.Layer):
    """A convolution and batch normalization: x [B, ..., C] -> [B, ..., filters].

    Args:
      filters: Number of output channels.
      size: Length of the kernel along each axis.
      strides: Stride along each axis.
      rank: Number of axes that the kernel moves along, 1 or 2.
      momentum: Of the moving mean and variance.
      is_folded: Whether the layer is a convolution with a bias, for the weights of `folded`.
    """

    def __init__(self, filters, size, strides=1, rank=2, momentum=0.97, is_folded=False, **kwargs):
        super().__init__(**kwargs)
        fixed = dict(padding="same", use_bias=is_folded, kernel_initializer="he_normal", dtype=self.dtype_policy)
        self.conv = CONVOLUTIONS[rank](filters, size, strides, **fixed)
        norm = keras.layers.BatchNormalization(momentum=momentum, dtype=self.dtype_policy)
        self.epsilon, self.norm = norm.epsilon, None if is_folded else norm

    def call(self, x, training=False):
        x = self.conv(x)
        return x if self.norm is None else self.norm(x, training=training)

    def folded(self):
        """Return the kernel and the bias of the convolution that computes the same in inference."""
        kernel, gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in self.get_weights())
        scale = gamma / np.sqrt(variance + self.epsilon)
        return [kernel * scale, beta - mean * scale]


def fold(network, copy, input_shape):
    """Give `copy`, which is `network` with folded layers, its weights; return `copy`.

    Both take inputs [B, *input_shape]. Weights that belong to no layer are not copied.
    """
    for each in (network, copy):
        each(np.zeros((1, *input_shape), "float32"))  # builds it
    for old, new in zip(network.layers, copy.layers, strict=True):
        new.set_weights(old.folded() if isinstance(old, NormalizedConv) else old.get_weights())
    return copy
