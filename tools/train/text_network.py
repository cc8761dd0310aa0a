"""The text model: encoders of images and of texts, whose embeddings are compared by cosine as in CLIP (Radford et al. 2021).

The image encoder sees an image in two ways. Blocks of EfficientNet-Lite1 (Tan and Le 2019) tell what it shows; the means of a
small function of single pixels over an 8 x 8 grid, a learned histogram of colours, tell which colours are where. The text
encoder sees each word with its neighbours, so that it knows which word an adjective belongs to.
"""

import keras
import numpy as np
from keras import ops

from tools.train.efficientnet_lite import LARGE, Network, Pretrained
from tools.train.initializers import Normal

TAPS = (6, 13)  # blocks of Lite1 whose maps (40 and 112 channels) are used; later blocks are left out
IMAGE_SIZE, LITE_SIZE = 64, 80
CELLS, HUES, DIM = 8, 16, 192
WIDTH, DEPTH = 64, 2
MAX_SCALE = 60.0


class TextNetwork(keras.Model):
    """`embed_image`: image [B, 64, 64, 3] in [-1, 1], and `embed_text`: tokens int32 [B, T], -> embedding [B, DIM], length 1.

    Token 0 is padding. `weight_dtype` is the dtype of the stored kernels that have at least LARGE weights.
    """

    def __init__(self, num_tokens, weight_dtype="float32", **kwargs):
        super().__init__(**kwargs)
        self.weight_dtype = weight_dtype
        self.lite = Network("lite1", LITE_SIZE, weight_dtype, TAPS[-1] + 1)
        early, late = self.num_early, self.num_late = [self.lite.blocks[k][3] for k in TAPS]
        self.of_pixel = [self._dense(3, HUES), self._dense(HUES, HUES)]
        self.of_map = self._dense(late, 192)
        self.of_shape = self._dense(early + 2 * 192, 256)
        self.of_colour = self._dense(CELLS * CELLS * HUES, 96)
        self.of_image = self._dense(256 + 96, DIM)
        self.of_word = self._weight((num_tokens, WIDTH), 0.3)
        self.blocks = [self._block() for _ in range(DEPTH)]
        self.of_text = self._dense(WIDTH, DIM)
        self.log_scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(float(np.log(12.0))), autocast=False)
        i = (np.arange(LITE_SIZE // 16) + 0.5) / (LITE_SIZE // 16) * 2 - 1
        centre = np.exp(-2.5 * (i[:, None] ** 2 + i[None] ** 2))
        self.centre = (centre / centre.sum()).astype("float32")[None, :, :, None]
        self.built = True

    def _weight(self, shape, stddev):
        dtype = self.weight_dtype if np.prod(shape) >= LARGE else "float32"
        return self.add_weight(shape=shape, initializer=Normal(stddev), dtype=dtype, autocast=False)

    def _dense(self, num_in, num_out):
        bias = self.add_weight(shape=(num_out,), initializer="zeros", autocast=False)
        return self._weight((num_in, num_out), float(np.sqrt(1.5 / num_in))), bias

    def _block(self):
        return self._dense(3 * WIDTH, 3 * WIDTH), self._dense(3 * WIDTH, WIDTH)

    def begin(self):
        """Assign the ImageNet weights to the blocks of Lite1. They are not trained further."""
        pretrained = Pretrained("lite1", LITE_SIZE).network
        for k, (kernel, bias) in enumerate(zip(self.lite.kernels, self.lite.biases, strict=True)):
            kernel.assign(pretrained.kernels[k])
            bias.assign(pretrained.biases[k])
        self.lite.trainable = False

    @property
    def scale(self):
        return ops.minimum(ops.exp(self.log_scale), MAX_SCALE)

    def maps(self, image):
        """Return what Lite1 sees in an image, [B, S, S, C] of the late block, and the mean of the early one, [B, C]."""
        every = self.lite.maps(image)
        early, late = (every[k] for k in TAPS)
        return late, ops.mean(early, (1, 2))

    def embed_image(self, image):
        return self.embed_maps(image, *self.maps(image))

    def embed_maps(self, image, late, early):
        """Return the embedding of an image whose `maps` are known."""
        late = ops.silu(apply(self.of_map, late))
        seen = [early, ops.mean(late, (1, 2)), ops.sum(late * self.centre, (1, 2))]
        shape = ops.silu(apply(self.of_shape, ops.concatenate(seen, 1)))
        pixels = ops.average_pool(image, 2, 2)
        for layer in self.of_pixel:
            pixels = ops.silu(apply(layer, pixels))
        cells = ops.average_pool(pixels, IMAGE_SIZE // 2 // CELLS, IMAGE_SIZE // 2 // CELLS)
        colour = ops.silu(apply(self.of_colour, ops.reshape(cells, (-1, CELLS * CELLS * HUES))))
        return unit(apply(self.of_image, ops.concatenate([shape, colour], 1)))

    def embed_text(self, tokens):
        seen = ops.cast(tokens > 0, "float32")[:, :, None]
        x = ops.take(ops.cast(self.of_word, "float32"), tokens, axis=0)
        for up, down in self.blocks:
            y = ops.pad(normed(x) * seen, [[0, 0], [1, 1], [0, 0]])
            near = ops.concatenate([y[:, :-2], y[:, 1:-1], y[:, 2:]], -1)  # a word, the one before and the one after
            x = x + apply(down, ops.silu(apply(up, near)))
        mean = ops.sum(normed(x) * seen, 1) / ops.maximum(ops.sum(seen, 1), 1.0)
        return unit(apply(self.of_text, mean))


def apply(layer, x):
    """Apply (kernel, bias) to the last axis."""
    kernel, bias = layer
    flat = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), ops.cast(kernel, x.dtype)) + bias
    return ops.reshape(flat, (-1, *x.shape[1:-1], kernel.shape[-1]))


def normed(x):
    """Return `x` with mean 0 and variance 1 over the last axis."""
    x = x - ops.mean(x, -1, keepdims=True)
    return x * ops.rsqrt(ops.mean(ops.square(x), -1, keepdims=True) + 1e-5)


def unit(x):
    """Return `x` with length 1 over the last axis."""
    return x * ops.rsqrt(ops.sum(ops.square(x), -1, keepdims=True) + 1e-8)
