"""A stand-in of BigGAN-deep-256 with the layer sizes of the real one, for measurements of time and memory.

Source: Brock, Donahue & Simonyan, "Large Scale GAN Training for High Fidelity Natural Image Synthesis" (ICLR 2019),
appendix B, and the released module's graph as rewritten in huggingface/pytorch-pretrained-BigGAN: bottleneck blocks of
four convolutions (1x1, 3x3, 3x3, 1x1) at a quarter of the channels, nearest upsampling before the first 3x3, shortcuts
that drop channels, attention at 64x64, class embedding 128 next to z, batch statistics for 51 truncations, and a last
convolution to `width` channels of which three are kept. Spectral norm is left out: it only scales the weights.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.support.standins_generators import Truncation, double
from tests.support.standins_writing import Signature, Weights, placeholder, write_hub_module

Z_DIM, EMBEDDING = 128, 128
# (doubles the side, channels in, channels out), the channels as multiples of `width`: from 4x4 to 256x256
BLOCKS = [
    (False, 16, 16),
    (True, 16, 16),
    (False, 16, 16),
    (True, 16, 8),
    (False, 8, 8),
    (True, 8, 8),
    (False, 8, 8),
    (True, 8, 4),
    (False, 4, 4),
    (True, 4, 2),
    (False, 2, 2),
    (True, 2, 1),
]
ATTENTION_BEFORE = 8  # at 64x64
Statistics = dict[str, tuple[np.ndarray, np.ndarray]]


class Constants(Weights):
    """The same weights as eager constants, for the pass that computes the batch statistics."""

    def put(self, name: str, value: np.ndarray) -> tf.Tensor:
        return tf.constant(value, tf.float32)


class Layers:
    """The layers of one forward pass; batch statistics that are not in `statistics` are computed from the tensors."""

    def __init__(self, weights: Weights, statistics: Statistics, truncation: tf.Tensor) -> None:
        self.weights, self.statistics, self.truncation = weights, statistics, Truncation(truncation)

    def conv(self, name: str, x: tf.Tensor, channels: int, size: int = 1, scale: float = 2**0.5) -> tf.Tensor:
        """Apply a convolution with bias whose weights keep the variance after a ReLU (scale**2 = 2)."""
        inputs = int(x.shape[-1])
        kernel = self.weights.normal(f"{name}/w", [size, size, inputs, channels], scale / (size * inputs**0.5))
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), self.weights.put(f"{name}/b", np.zeros(channels)))

    def norm(self, name: str, x: tf.Tensor, condition: tf.Tensor | None = None) -> tf.Tensor:
        """Apply batch norm by truncation and ReLU; scale and offset come from the condition [B, n] if there is one."""
        if name not in self.statistics:
            self.statistics[name] = tuple(part.numpy() for part in tf.nn.moments(x, [0, 1, 2]))
        mean, variance = self.statistics[name]
        rows = np.linspace(0, 1, 51)[:, None]
        means = self.weights.put(f"{name}/means", mean + 0 * rows)
        variances = self.weights.put(f"{name}/variances", variance * (0.97 + 0.03 * rows))
        normal = (x - self.truncation.of(means)) * tf.math.rsqrt(self.truncation.of(variances) + 1e-4)
        channels = int(x.shape[-1])
        if condition is None:
            ones, zeros = np.ones(channels), np.zeros(channels)
            return tf.nn.relu(normal * self.weights.put(f"{name}/scale", ones) + self.weights.put(f"{name}/offset", zeros))
        scale = 1 + self.weights.dense(f"{name}/scale", condition, channels, 0.3)
        offset = self.weights.dense(f"{name}/offset", condition, channels, 0.3)
        return tf.nn.relu(normal * scale[:, None, None] + offset[:, None, None])

    def block(self, name: str, x: tf.Tensor, condition: tf.Tensor, channels: int, is_doubled: bool) -> tf.Tensor:
        """[B, S, S, C] -> [B, S or 2S, S or 2S, channels]."""
        middle = int(x.shape[-1]) // 4
        y = self.conv(f"{name}/conv0", self.norm(f"{name}/norm0", x, condition), middle)
        y = self.norm(f"{name}/norm1", y, condition)
        y = self.conv(f"{name}/conv1", double(y) if is_doubled else y, middle, 3)
        y = self.conv(f"{name}/conv2", self.norm(f"{name}/norm2", y, condition), middle, 3)
        y = self.conv(f"{name}/conv3", self.norm(f"{name}/norm3", y, condition), channels)
        shortcut = x[..., :channels]
        return y + (double(shortcut) if is_doubled else shortcut)

    def attention(self, x: tf.Tensor) -> tf.Tensor:
        """Apply a non-local block: each pixel attends to the max-pooled image."""
        size, channels = int(x.shape[1]), int(x.shape[-1])

        def flat(name: str, part: int, is_pooled: bool) -> tf.Tensor:
            mapped = tf.nn.conv2d(x, self.weights.normal(name, [1, 1, channels, part], channels**-0.5), 1, "SAME")
            mapped = tf.nn.max_pool2d(mapped, 2, 2, "VALID") if is_pooled else mapped
            return tf.reshape(mapped, [-1, size * size // (4 if is_pooled else 1), part])

        theta, phi = flat("attention/theta", channels // 8, False), flat("attention/phi", channels // 8, True)
        mixed = tf.matmul(tf.nn.softmax(tf.matmul(theta, phi, transpose_b=True)), flat("attention/g", channels // 2, True))
        kernel = self.weights.normal("attention/out", [1, 1, channels // 2, channels], (channels // 2) ** -0.5)
        out = tf.nn.conv2d(tf.reshape(mixed, [-1, size, size, channels // 2]), kernel, 1, "SAME")
        return x + self.weights.put("attention/gamma", np.array(0.5)) * out

    def generate(self, z: tf.Tensor, y: tf.Tensor, width: int) -> tf.Tensor:
        """z [B, 128], y [B, 1000] -> image [B, 256, 256, 3] in [-1, 1]."""
        embedded = tf.matmul(y, self.weights.normal("embedding", [1000, EMBEDDING], 1.0))
        condition = tf.concat([z, embedded], -1)
        first = self.weights.dense("linear", condition, 4 * 4 * 16 * width)
        x = tf.reshape(first + self.weights.put("linear/b", np.zeros(4 * 4 * 16 * width)), [-1, 4, 4, 16 * width])
        for k, (is_doubled, _, channels) in enumerate(BLOCKS):
            x = self.attention(x) if k == ATTENTION_BEFORE else x
            x = self.block(f"block{k}", x, condition, channels * width, is_doubled)
        return tf.tanh(self.conv("rgb", self.norm("last", x), width, 3, scale=1.0)[..., :3])


def biggan_deep_256(folder: Path, width: int = 128) -> Path:
    """Write a model z [?, 128], y [?, 1000] one-hot, truncation scalar -> image [?, 256, 256, 3] in [-1, 1]; ref variables.

    `width` (the paper's `ch`, 128; at least 4) scales all channels: smaller ones are for tests. The batch statistics
    are those of four images at truncation 1, so that activations stay in range as they do in a trained network.
    """
    statistics: Statistics = {}
    constants = Constants(256, resource=False)
    z, y = constants.draw("calibration", [4, Z_DIM]), np.eye(1000, dtype=np.float32)[[1, 301, 323, 950]]
    Layers(constants, statistics, tf.constant(1.0)).generate(tf.constant(z), tf.constant(y), width)

    def graph(weights: Weights) -> dict[str, Signature]:
        z, y, truncation = placeholder("z", None, Z_DIM), placeholder("y", None, 1000), placeholder("truncation")
        image = Layers(weights, statistics, truncation).generate(z, y, width)
        return {"default": Signature({"z": z, "y": y, "truncation": truncation}, {"default": image})}

    return write_hub_module(folder, [((), graph)], Weights(256, resource=False))
