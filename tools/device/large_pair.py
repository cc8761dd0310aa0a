"""A pair of the size of BigGAN-deep-128, for measurements of speed. Its weights are 0 here and drawn on the device.

The layers are those of Brock, Donahue and Simonyan (ICLR 2019), appendix B: bottleneck blocks of four convolutions (1x1, 3x3,
3x3, 1x1) at a quarter of the channels, and attention at 64x64. Normalizations are folded into a scale and an offset per
channel, which depend on z. The class is fixed.
"""

import tensorflow as tf

LATENT_DIM = 128
# (doubles the side, channels out as a multiple of the width): from 4x4 to 128x128, 16 times the width at first
BLOCKS = ((False, 16), (True, 16), (False, 16), (True, 8), (False, 8), (True, 8), (False, 8), (True, 4), (False, 4), (True, 2))
LAST_BLOCKS = ((False, 2), (True, 1))
ATTENTION_AFTER = len(BLOCKS)


class LargeGenerator(tf.Module):
    """`z [B, 128]` -> image [B, 128, 128, 3] in [-1, 1].

    Args:
      width: Channels of the last block, 128 in BigGAN-deep; at least 4.
    """

    latent_dim = LATENT_DIM

    def __init__(self, width=128):
        super().__init__()
        self.width = width
        self.weights = {}

    def _weight(self, name, *shape):
        if name not in self.weights:
            with tf.init_scope():
                self.weights[name] = tf.Variable(tf.zeros(shape), trainable=False, name=name)
        return self.weights[name]

    def _conv(self, name, x, channels, size=1):
        return tf.nn.conv2d(x, self._weight(name, size, size, int(x.shape[-1]), channels), 1, "SAME")

    def _norm(self, name, x, z):
        """Scale and offset from z, and ReLU."""
        channels = int(x.shape[-1])
        scale, offset = tf.split(tf.matmul(z, self._weight(name, LATENT_DIM, 2 * channels)), 2, 1)
        return tf.nn.relu(x * (1 + 0.1 * scale[:, None, None]) + 0.1 * offset[:, None, None])

    def _block(self, name, x, z, is_doubled, channels):
        middle = int(x.shape[-1]) // 4
        y = self._conv(f"{name}_conv0", self._norm(f"{name}_norm0", x, z), middle)
        y = self._norm(f"{name}_norm1", y, z)
        y = self._conv(f"{name}_conv1", doubled(y) if is_doubled else y, middle, 3)
        y = self._conv(f"{name}_conv2", self._norm(f"{name}_norm2", y, z), middle, 3)
        y = self._conv(f"{name}_conv3", self._norm(f"{name}_norm3", y, z), channels)
        shortcut = x[..., :channels]
        return (doubled(shortcut) if is_doubled else shortcut) + 0.3 * y

    def _attention(self, x):
        """Each pixel attends to the image at half the side."""
        side, channels = int(x.shape[1]), int(x.shape[-1])
        half = tf.reduce_mean(tf.reshape(x, [-1, side // 2, 2, side // 2, 2, channels]), [2, 4])
        flat = lambda y: tf.reshape(y, [-1, int(y.shape[1]) * int(y.shape[2]), int(y.shape[3])])  # noqa: E731
        part = max(1, channels // 8)
        query, key = flat(self._conv("query", x, part)), flat(self._conv("key", half, part))
        mixed = tf.matmul(
            tf.nn.softmax(tf.matmul(query, key, transpose_b=True)), flat(self._conv("value", half, channels // 2))
        )
        return x + self._conv("mixed", tf.reshape(mixed, [-1, side, side, channels // 2]), channels)

    def __call__(self, z):
        first = 16 * self.width
        x = tf.reshape(tf.matmul(z, self._weight("first", LATENT_DIM, 16 * first)), [-1, 4, 4, first])
        for k, (is_doubled, factor) in enumerate((*BLOCKS, *LAST_BLOCKS)):
            x = self._attention(x) if k == ATTENTION_AFTER else x
            x = self._block(f"block{k}", x, z, is_doubled, factor * self.width)
        return tf.tanh(self._conv("rgb", self._norm("last", x, z), 3, 3))


def doubled(x):
    """Double [B, S, S, C] by repeating pixels."""
    return tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)


class PooledClassifier:
    """Image -> logits [B, 3]: the means of the colours. Its cost is nothing next to that of the generator."""

    num_classes = 3

    def __call__(self, image):
        return 10.0 * tf.reduce_mean(image, [1, 2])
