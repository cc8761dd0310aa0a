"""Classifiers of photographs in Keras 3: a first classifier, the judge of the images, and the discriminator."""

import keras
import numpy as np
from keras import ops

from tools.train.efficientnet_lite import Network, Pretrained
from tools.train.initializers import Normal
from tools.train.normalized_conv import NormalizedConv, fold


class ImageClassifier(keras.Model):
    """`image [B, 64, 64, 3]` in [-1, 1] -> logits [B, num_classes + num_others].

    The last `num_others` outputs stand for other things; `opinion` joins them to one class "other". `other_bias` is added to
    its logit, and `temperature` divides all logits; both are fitted after training. Subclasses define `CHANNELS`, one per
    stage, and `make_stage(index, channels)`, which returns a function (x, training) -> x; or they define `taps`. `RATE` is the
    learning rate of training. With `is_folded` there is no batch normalization; see `compact`.
    """

    CHANNELS: tuple[int, ...] = ()
    INPUT_SHAPE: tuple[int, ...] = (64, 64, 3)
    RATE = 3e-3

    def __init__(self, num_classes, num_others=0, dropout=0.2, dtype="float32", is_folded=False, **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.num_classes, self.num_others, self.is_folded = num_classes, num_others, is_folded
        self.layer = dict(dtype=dtype)
        self.tracked = []  # Keras tracks layers in attributes, not in nested tuples
        self.stages = [self.make_stage(index, width) for index, width in enumerate(self.CHANNELS)]
        self.dropout = keras.layers.Dropout(dropout, seed=1, **self.layer)
        self.head = keras.layers.Dense(num_classes + num_others, dtype="float32", kernel_initializer=Normal(0.02))
        fitted = dict(shape=(), trainable=False, autocast=False)
        self.temperature = self.add_weight(initializer="ones", name="temperature", **fitted)
        self.other_bias = self.add_weight(initializer="zeros", name="other_bias", **fitted)

    def begin(self):
        """Set the weights with which training begins, if they are not random."""

    def compact(self):
        """Return the network as it is exported: a copy without batch normalization, or one whose weights take less space."""
        copy = fold(self, type(self)(self.num_classes, self.num_others, is_folded=True), self.INPUT_SHAPE)
        copy.temperature.assign(self.temperature)
        copy.other_bias.assign(self.other_bias)
        return copy

    def conv(self, filters, size, strides=1):
        """Return a convolution with batch normalization."""
        self.tracked.append(NormalizedConv(filters, size, strides, is_folded=self.is_folded, **self.layer))
        return self.tracked[-1]

    def taps(self, image, training=False):
        """Return the feature map after each stage, finest first."""
        maps, x = [], image
        for stage in self.stages:
            x = stage(x, training)
            maps.append(x)
        return maps

    def features(self, image, training=False):
        """Return the spatial mean of the last feature map, [B, num_features] float32."""
        return ops.cast(ops.mean(self.taps(image, training)[-1], axis=(1, 2)), "float32")

    def call(self, image, training=False):
        return self.head(self.dropout(self.features(image, training), training=training))

    def opinion(self, image):
        """Return calibrated logits [B, num_classes], plus one for "other" if the network was trained with it."""
        return self.calibrated(self(image))

    def calibrated(self, logits):
        if not self.num_others:
            return logits / self.temperature
        other = ops.logsumexp(logits[:, self.num_classes :], axis=1, keepdims=True) + self.other_bias
        return ops.concatenate([logits[:, : self.num_classes], other], axis=1) / self.temperature


class ResidualClassifier(ImageClassifier):
    """A small, smooth residual network (SiLU), with pooling only in its shortcuts.

    It is a teacher of the classifier that guides chains.
    """

    CHANNELS = (32, 64, 128, 256)  # at 32, 16, 8, 4 pixels

    def make_stage(self, i, width):
        stem = None if i else self.conv(width, 5, 2)
        convs = [self.conv(width, 3, 2 if i and not j else 1) for j in range(2 if i < 3 else 1)]
        pool, match = keras.layers.AveragePooling2D(2, **self.layer), self.conv(width, 1) if i else None

        def run(x, training):
            if stem:
                x = ops.silu(stem(x, training=training))
            y = x
            for j, conv in enumerate(convs):
                y = conv(ops.silu(y) if j else y, training=training)
            return ops.silu((match(pool(x), training=training) if match else x) + y)

        return run


class PlainClassifier(ImageClassifier):
    """The discriminator: plain convolutions, ReLU and max-pooling (Simonyan and Zisserman 2014)."""

    CHANNELS = (40, 80, 160, 240)  # at 32, 16, 8, 4 pixels

    def make_stage(self, i, width):
        stem = None if i else self.conv(width, 3, 2)
        convs = [self.conv(width, 3) for _ in range(2 if 0 < i < 3 else 1)]

        def run(x, training):
            x = ops.relu(stem(x, training=training)) if stem else ops.max_pool(x, 2)
            for conv in convs:
                x = ops.relu(conv(x, training=training))
            return x

        return run


class PretrainedClassifier(ImageClassifier):
    """The judge: EfficientNet-Lite0 with ImageNet weights, which no other model has seen, and a new head."""

    VARIANT, IMAGE_SIZE = "lite0", 96
    RATE = 3e-4  # larger ones would lose what the weights know

    def __init__(self, *args, weight_dtype="float32", **kwargs):
        super().__init__(*args, **kwargs)
        self.network = Network(self.VARIANT, self.IMAGE_SIZE, weight_dtype)

    def taps(self, image, training=False):
        return self.network.maps(image)

    def begin(self):
        pretrained = Pretrained(self.VARIANT, self.IMAGE_SIZE).network
        for old, new in zip(pretrained.variables, self.network.variables, strict=True):
            new.assign(old)

    def compact(self):
        small = type(self)(self.num_classes, self.num_others, weight_dtype="float16")
        for network in (self, small):
            network(np.zeros((1, *self.INPUT_SHAPE), "float32"))  # builds it
        for old, new in zip(self.variables, small.variables, strict=True):
            new.assign(ops.cast(old, new.dtype))
        return small


NETWORKS = {"teacher": ResidualClassifier, "judge": PretrainedClassifier, "discriminator": PlainClassifier}
