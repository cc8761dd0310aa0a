"""Networks of the generator of clips: an autoencoder with a still and a moving part, and a flow from the prior to its codes.

A clip is a wall and a performer in front of it. One small network draws the wall, once a clip; another one draws the
performer, frame by frame: a mask and colours. Both read a code; the flow maps normal numbers to codes (Lipman et al. 2023,
with the pairing of Tong et al. 2024).
"""

import keras
import numpy as np
import tensorflow as tf

from tools.train.clips import FRAMES, SIZE, folded

LATENT, CODE = 64, 32  # dimensions of z and of the code
TURNS = 8  # of the flow, each with two evaluations


class Drawing(keras.Model):
    """A network with helpers that make layers; `width` is a factor of all numbers of channels."""

    def __init__(self, width=1.0, **kwargs):
        super().__init__(**kwargs)
        self.width, self.tracked = width, []
        self.make()

    def wide(self, channels):
        return max(4, round(channels * self.width))

    def track(self, layer):
        self.tracked.append(layer)
        return layer

    def conv(self, filters, size=3, strides=1):
        return self.track(keras.layers.Conv2D(filters, size, strides, padding="same", kernel_initializer="he_normal"))

    def dense(self, units):
        return self.track(keras.layers.Dense(units, kernel_initializer="he_normal"))


class Encoder(Drawing):
    """Clip [B, 16, 64, 64, 3] -> mean and log standard deviation of the code, [B, CODE] each."""

    def make(self):
        self.convs = [self.conv(self.wide(32), 4, 4), self.conv(self.wide(64), 3, 2), self.conv(self.wide(96), 3, 2)]
        self.frame, self.hidden = self.dense(self.wide(96)), self.dense(self.wide(384))
        self.out = self.track(keras.layers.Dense(2 * CODE, kernel_initializer="glorot_normal"))

    def call(self, clip):
        x = folded(clip)
        for conv in self.convs:
            x = tf.nn.silu(conv(x))
        x = tf.nn.silu(self.frame(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]])))
        x = tf.nn.silu(self.hidden(tf.reshape(x, [-1, FRAMES * x.shape[-1]])))
        mean, log_deviation = tf.split(self.out(x), 2, axis=1)
        return mean, tf.clip_by_value(log_deviation - 1.0, -6.0, 2.0)


class Decoder(Drawing):
    """Code [B, CODE] -> clip; `pattern` is what all walls share."""

    POSE = 64

    def make(self):
        w = self.wide
        self.wall_dense, self.wall_map = self.dense(w(128)), self.dense(4 * 4 * w(48))
        self.wall_convs = [self.conv(w(48)), self.conv(w(32)), self.conv(w(16))]
        self.wall_out = self.conv(12)
        self.pattern = self.add_weight(shape=(1, SIZE // 2, SIZE // 2, w(16)), initializer="zeros", name="pattern")
        self.motion_first, self.motion_second = self.dense(w(256)), self.dense(w(256))
        self.motion = self.dense(FRAMES * w(self.POSE))
        self.looks = self.dense(w(self.POSE))
        self.pose, self.pose_map = self.dense(w(160)), self.dense(16 * 16 * w(16))
        self.pose_conv, self.pose_out = self.conv(4 * w(12)), self.conv(16)

    def wall(self, code):
        """Return the wall of each clip, [B, 64, 64, 3]."""
        x = tf.nn.silu(self.wall_map(tf.nn.silu(self.wall_dense(code))))
        x = tf.reshape(x, [-1, 4, 4, self.wide(48)])
        for conv in self.wall_convs:
            x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
            x = conv(x)
            x = tf.nn.silu(x + self.pattern if conv is self.wall_convs[-1] else x)
        return tf.tanh(tf.nn.depth_to_space(self.wall_out(x), 2))

    def performer(self, code, times=None):
        """Return mask and colours [B, T, 64, 64, 4] before their activations, of all frames or of the frames `times` [T]."""
        x = tf.nn.silu(self.motion_second(tf.nn.silu(self.motion_first(code))))
        x = tf.reshape(self.motion(x), [-1, FRAMES, self.wide(self.POSE)])
        if times is not None:
            x = tf.gather(x, times, axis=1)
        frames = tf.shape(x)[1]
        x = folded(tf.nn.silu(x + self.looks(code)[:, None]))
        x = tf.nn.silu(self.pose_map(tf.nn.silu(self.pose(x))))
        x = tf.reshape(x, [-1, 16, 16, self.wide(16)])
        x = tf.nn.silu(tf.nn.depth_to_space(self.pose_conv(x), 2))
        x = tf.nn.depth_to_space(self.pose_out(x), 2)
        return tf.reshape(x, [-1, frames, SIZE, SIZE, 4])

    def call(self, code, times=None):
        wall, drawn = self.wall(code)[:, None], self.performer(code, times)
        mask, colours = tf.split(drawn, [1, 3], axis=-1)  # the gradient of a slice is slower
        return wall + tf.sigmoid(mask - 2.0) * (tf.tanh(colours) - wall)


class Flow(Drawing):
    """Velocity of a code at a time: (code [B, CODE], time [B, 1]) -> [B, CODE]; `mapped` follows it from time 0 to 1."""

    def make(self):
        self.first = self.dense(self.wide(256))
        self.blocks = [(self.dense(self.wide(256)), self.dense(self.wide(256))) for _ in range(2)]
        self.out = self.track(keras.layers.Dense(CODE, kernel_initializer="zeros"))
        self.centre = self.add_weight(shape=(CODE,), initializer="zeros", trainable=False, name="centre")
        self.scale = self.add_weight(shape=(CODE,), initializer="ones", trainable=False, name="scale")

    def call(self, code, time):
        waves = [f(np.pi * k * time) for k in (1, 2) for f in (tf.sin, tf.cos)]
        x = self.first(tf.concat([code, time, *waves], 1))
        for first, second in self.blocks:
            x += second(tf.nn.silu(first(tf.nn.silu(x))))
        return self.out(tf.nn.silu(x))

    def mapped(self, x):
        """Return the codes [B, CODE] of standard normal numbers x, by the midpoint rule."""
        for k in range(TURNS):
            at = tf.fill([tf.shape(x)[0], 1], (k + 0.5) / TURNS)
            half = x + self(x, at - 0.5 / TURNS) / (2 * TURNS)
            x += self(half, at) / TURNS
        return x * self.scale + self.centre


class Critic(Drawing):
    """Pairs of neighbouring frames [N, 64, 64, 6] (a frame, and the change to the next) -> one number for each 8 x 8 pixels."""

    def make(self):
        self.convs = [self.conv(self.wide(32), 4, 2), self.conv(self.wide(64), 3, 2), self.conv(self.wide(96), 3, 2)]
        self.far = self.conv(self.wide(96), 3, 2)
        self.near_out, self.far_out = self.conv(1, 1), self.conv(1, 3)

    def call(self, pairs):
        x = pairs
        for conv in self.convs:
            x = tf.nn.leaky_relu(conv(x))
        near, far = self.near_out(x), self.far_out(tf.nn.leaky_relu(self.far(x)))
        flat = lambda x: tf.reshape(x, [-1, x.shape[1] * x.shape[2]])  # noqa: E731
        return tf.concat([flat(near), flat(far)], 1)


class Generator(keras.Model):
    """z [B, 64] ~ Normal(0, I) -> clip [B, 16, 64, 64, 3] in [-1, 1]."""

    def __init__(self, flow, decoder, **kwargs):
        super().__init__(**kwargs)
        self.flow, self.decoder = flow, decoder
        self.turn = np.linalg.qr(np.random.default_rng(0).standard_normal((LATENT, CODE)))[0].astype("float32")

    def code(self, z):
        """All coordinates of z take part: a fixed projection comes first, as a code has fewer."""
        return self.flow.mapped(tf.matmul(z, self.turn))

    def call(self, z):
        return self.decoder(self.code(z))
