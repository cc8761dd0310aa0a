"""Networks of clips in Keras 3: three recognisers of actions.

Clips are float32 [B, 16, 64, 64, 3] in [-1, 1]. Convolutions are two-dimensional, over frames that are folded into the batch
or into the channels, which is much faster on a CPU than three-dimensional ones.
"""

import keras
import tensorflow as tf

from tools.train.clips import FRAMES, SIZE, folded
from tools.train.normalized_conv import NormalizedConv, fold


def changes(clip):
    """Return the change from the frame before, zero for the first: [B, T, H, W, C]."""
    return tf.concat([tf.zeros_like(clip[:, :1]), clip[:, 1:] - clip[:, :-1]], 1)


class Recogniser(keras.Model):
    """Clip [B, 16, 64, 64, 3] -> logits [B, num_classes]; subclasses define `features` (clip, training) -> [B, F].

    Args:
      num_classes: Number of outputs; the last is "other".
      width: Factor of all numbers of channels.
      is_folded: Whether there is no batch normalization; see `compact`.
    """

    INPUT_SHAPE = (FRAMES, SIZE, SIZE, 3)
    RATE = 2e-3

    def __init__(self, num_classes, width=1.0, is_folded=False, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.width, self.is_folded = num_classes, width, is_folded
        self.tracked = []
        self.make()
        self.dropout = keras.layers.Dropout(0.3, seed=1)
        self.head = keras.layers.Dense(num_classes, kernel_initializer="glorot_normal")

    def conv(self, filters, size, strides=1, rank=2):
        """Return a convolution over `rank` axes with batch normalization."""
        filters = max(4, round(filters * self.width))
        self.tracked.append(NormalizedConv(filters, size, strides, rank, momentum=0.95, is_folded=self.is_folded))
        return self.tracked[-1]

    def compact(self):
        """Return the network as it is exported: a copy without batch normalization."""
        return fold(self, type(self)(self.num_classes, self.width, is_folded=True), self.INPUT_SHAPE)

    def dense(self, units, **kwargs):
        layer = keras.layers.Dense(max(4, round(units * self.width)), **kwargs)
        self.tracked.append(layer)
        return layer

    def call(self, clip, training=False):
        return self.head(self.dropout(self.features(clip, training), training=training))


class Guide(Recogniser):
    """The classifier: frames and changes at 32 pixels, strided convolutions, then convolutions over time; smooth units."""

    def make(self):
        self.convs = [self.conv(16, 5, 2), self.conv(32, 3, 2), self.conv(64, 3, 2)]
        self.frame = self.dense(64)
        self.times = [self.conv(96, 3, 2, rank=1), self.conv(128, 3, 2, rank=1)]

    def features(self, clip, training=False):
        x = folded(clip)
        x = tf.nn.avg_pool2d(x, 2, 2, "VALID")
        clip = tf.reshape(x, [-1, FRAMES, *x.shape[1:]])
        x = folded(tf.concat([clip, 2.0 * changes(clip)], -1))
        for conv in self.convs:
            x = tf.nn.silu(conv(x, training=training))
        x = self.frame(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]))
        x = tf.reshape(tf.nn.silu(x), [-1, FRAMES, x.shape[-1]])
        for conv in self.times:
            x = tf.nn.silu(conv(x, training=training))
        return tf.reduce_mean(x, 1)


class Teacher(Recogniser):
    """The teacher: patches of frames and changes, residual blocks with ReLU, mean and maximum over time."""

    def make(self):
        self.stem = self.conv(40, 4, 4)
        self.stages = [(self.conv(w, 3, 2), self.conv(w, 3), self.conv(w, 1)) for w in (64, 96)]
        self.frame = self.dense(96)
        self.time = self.conv(96, 5, 1, rank=1)

    def features(self, clip, training=False):
        x = folded(tf.concat([clip, 2.0 * changes(clip)], -1))
        x = tf.nn.relu(self.stem(x, training=training))
        for down, again, match in self.stages:
            short = match(tf.nn.avg_pool2d(x, 2, 2, "SAME"), training=training)
            x = tf.nn.relu(short + again(tf.nn.relu(down(x, training=training)), training=training))
        x = self.frame(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]))
        x = tf.reshape(tf.nn.relu(x), [-1, FRAMES, x.shape[-1]])
        x = tf.nn.relu(self.time(x, training=training))
        return tf.concat([tf.reduce_mean(x, 1), tf.reduce_max(x, 1)], -1)


class Judge(Recogniser):
    """The judge: brightness and its changes as channels of one image, plain convolutions with max-pooling."""

    def make(self):
        self.stem = self.conv(40, 5, 2)
        self.convs = [self.conv(w, 3) for w in (64, 96, 128)]
        self.hidden = self.dense(128)

    def features(self, clip, training=False):
        light = tf.reduce_mean(clip, -1)
        light -= tf.reduce_mean(light, [1, 2, 3], keepdims=True)
        x = tf.concat([light, 2.0 * (light[:, 1:] - light[:, :-1])], 1)
        x = tf.nn.relu(self.stem(tf.transpose(x, [0, 2, 3, 1]), training=training))
        for conv in self.convs:
            x = tf.nn.relu(conv(tf.nn.max_pool2d(x, 2, 2, "SAME"), training=training))
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        return tf.nn.relu(self.hidden(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])))


RECOGNISERS = {"classifier": Guide, "teacher": Teacher, "judge": Judge}
