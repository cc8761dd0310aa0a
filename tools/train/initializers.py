"""Initial values of weights, drawn with NumPy: no program has to be compiled for each shape."""

import random

import keras
import numpy as np


class Normal(keras.initializers.Initializer):
    """Normal numbers with mean 0. `keras.utils.set_random_seed` makes them reproducible."""

    def __init__(self, stddev):
        self.stddev = float(stddev)

    def __call__(self, shape, dtype=None):
        draw = np.random.default_rng(random.getrandbits(64)).standard_normal(shape) * self.stddev
        return keras.ops.convert_to_tensor(draw.astype("float32"), dtype or "float32")
