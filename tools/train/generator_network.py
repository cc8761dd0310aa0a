"""The generator that tools/ trains, in Keras 3.

It runs on the TensorFlow and JAX backends, in float32 or in mixed bfloat16 (`dtype`).
"""

import keras
import numpy as np
from keras import ops

from tools.train.initializers import Normal

LATENT_CONTENT_DIM = 64  # free coordinates of z; the others, one per class, choose the class
# softmax(sharpness * z_c) chooses the class. The sharpness is raised after training: more images are purely of one class.
TRAINING_SHARPNESS, SHIPPED_SHARPNESS = 4.5, 6.0
WIDTHS = (192, 160, 88, 48, 20)  # of the generator that a CPU can train in a night
EPSILON = 1e-4  # added to the variance that a normalization divides by


class ConditionalBatchNorm(keras.layers.Layer):
    """Batch normalization whose scale and shift depend on a vector h, applied as one multiply-add per channel.

    `call([x [B, H, W, C], h [B, D]], training)` normalizes by the moments of the batch in training, and by `moving_mean` and
    `moving_variance` in inference, which training updates with `momentum`.
    """

    def __init__(self, initial_gain=1.0, momentum=0.98, **kwargs):
        super().__init__(**kwargs)
        self.initial_gain = initial_gain
        self.momentum = momentum

    def build(self, shapes):
        channels, dim = shapes[0][-1], shapes[1][-1]
        normal = Normal(0.05)
        self.gain = self.add_weight(shape=(channels,), initializer=keras.initializers.Constant(self.initial_gain))
        self.bias = self.add_weight(shape=(channels,), initializer="zeros")
        self.to_scale = self.add_weight(shape=(dim, channels), initializer=normal)
        self.to_shift = self.add_weight(shape=(dim, channels), initializer=normal)
        self.moving_mean = self.add_weight(shape=(channels,), initializer="zeros", trainable=False, autocast=False)
        self.moving_variance = self.add_weight(shape=(channels,), initializer="ones", trainable=False, autocast=False)

    def folded(self):
        """Return scale and shift in inference as kernel and bias of one product with h: float64 [D, 2 C] and [2 C]."""
        gain, bias, to_scale, to_shift, mean, variance = (np.asarray(v, np.float64) for v in self.variables)
        inv = gain / np.sqrt(variance + EPSILON)
        bias -= mean * inv
        return np.concatenate([to_scale * inv, to_scale * bias + to_shift], 1), np.concatenate([inv, bias])

    def call(self, inputs, training=False):
        x, h = inputs
        if training:
            # One pass over x: E[x^2] - E[x]^2 is accurate enough at these magnitudes, and accumulates in float32.
            x32 = ops.cast(x, "float32")
            mean = ops.mean(x32, axis=(0, 1, 2))
            variance = ops.maximum(ops.mean(ops.square(x32), axis=(0, 1, 2)) - ops.square(mean), 0.0)
            self.moving_mean.assign(self.momentum * self.moving_mean + (1 - self.momentum) * mean)
            self.moving_variance.assign(self.momentum * self.moving_variance + (1 - self.momentum) * variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        f32 = lambda v: ops.cast(v, "float32")  # noqa: E731
        modulation = 1.0 + f32(ops.matmul(h, self.to_scale))
        inv = f32(self.gain) * ops.rsqrt(variance + EPSILON)
        scale = inv * modulation
        shift = (f32(self.bias) - mean * inv) * modulation + f32(ops.matmul(h, self.to_shift))
        expand = lambda v: ops.cast(v[:, None, None, :], x.dtype)  # noqa: E731
        return x * expand(scale) + expand(shift)


class UpConv(keras.layers.Layer):
    """Nearest-neighbour upsampling and a 3x3 convolution, as one 4x4 stride-2 transposed convolution.

    It is the same map at 4/9 of the cost: each of the four output phases uses 2x2 sums of the kernel's taps.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape):
        channels = shape[-1]
        std = Normal(float(np.sqrt(2 / (9 * channels))))
        self.kernel = self.add_weight(shape=(3, 3, self.filters, channels), initializer=std)

    def transposed_kernel(self):
        """Of the transposed convolution, [4, 4, filters, channels]."""
        return sum(ops.pad(self.kernel, [[p, 1 - p], [q, 1 - q], [0, 0], [0, 0]]) for p in (0, 1) for q in (0, 1))

    def call(self, x):
        return ops.conv_transpose(x, self.transposed_kernel(), strides=2, padding="same")


def doubling_matrix(size):
    """Return the float32 matrix [2 * size, size] of bilinear interpolation from `size` to `2 * size` samples."""
    source = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(size)[None])).astype("float32")


def double(x):
    """Double [B, S, S, C] bilinearly by two matrix products, which are differentiable on every backend."""
    matrix = ops.cast(doubling_matrix(x.shape[1]), x.dtype)
    return ops.einsum("iy,byxc,jx->bijc", matrix, x, matrix)


class Generator(keras.Model):
    """`z [B, num_classes + 64] -> image [B, 64, 64, 3]` in [-1, 1]; z ~ Normal(0, I).

    The first `num_classes` coordinates choose the class by softmax(sharpness z_c) over learned embeddings; the rest is content.
    `widths` are the numbers of channels at 4, 8, 16, 32 and 64 pixels. RGB skip connections at 16 and 32 pixels carry the
    coarse colours.
    """

    def __init__(self, num_classes, sharpness=TRAINING_SHARPNESS, widths=WIDTHS, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.num_classes, self.sharpness, self.widths = num_classes, sharpness, tuple(widths)
        self.latent_dim = num_classes + LATENT_CONTENT_DIM
        layer = dict(dtype=dtype)
        self.embedding = keras.layers.Dense(64, use_bias=False, kernel_initializer=Normal(1.0), **layer)
        self.stem = keras.layers.Dense(16 * widths[0], use_bias=False, kernel_initializer=Normal(0.09), **layer)
        self.stem_norm = ConditionalBatchNorm(**layer)
        self.ups = [UpConv(filters, **layer) for filters in widths[1:]]
        self.norms = [ConditionalBatchNorm(**layer) for _ in widths[1:]]
        self.residual = keras.layers.Conv2D(
            widths[2], 3, padding="same", use_bias=False, kernel_initializer="he_normal", **layer
        )
        self.residual_norm = ConditionalBatchNorm(initial_gain=0.3, **layer)
        small = keras.initializers.VarianceScaling(0.09)
        self.rgb16 = keras.layers.Conv2D(3, 1, use_bias=False, kernel_initializer=small, **layer)
        self.rgb32 = keras.layers.Conv2D(3, 1, use_bias=False, kernel_initializer=small, **layer)
        self.rgb64 = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=small, **layer)

    def call(self, z, training=False):
        act = lambda v: ops.leaky_relu(v, 0.2)  # noqa: E731
        z = ops.cast(z, "float32")
        weights = ops.softmax(self.sharpness * z[:, : self.num_classes])
        embedded = ops.cast(self.embedding(weights), "float32")
        h = ops.cast(ops.concatenate([z[:, self.num_classes :], embedded], axis=-1), self.compute_dtype)
        x = ops.reshape(self.stem(h), (-1, 4, 4, self.widths[0]))
        x = act(self.stem_norm([x, h], training=training))
        rgb = None
        for up, norm in zip(self.ups, self.norms, strict=True):
            x = act(norm([up(x), h], training=training))
            if x.shape[1] == 16:
                x = x + act(self.residual_norm([self.residual(x), h], training=training))
                rgb = self.rgb16(x)
            elif x.shape[1] == 32:
                rgb = double(rgb) + self.rgb32(x)
        return ops.tanh(ops.cast(self.rgb64(x), "float32") + ops.cast(double(rgb), "float32"))

    @property
    def all_norms(self):
        """All normalizations, in the order in which data passes them."""
        return [self.stem_norm, *self.norms[:2], self.residual_norm, *self.norms[2:]]

    def calibrate(self, z_batches):
        """Set the inference statistics to the mean of the training-mode moments over `z_batches`, run eagerly."""
        for k, z in enumerate(z_batches):
            for norm in self.all_norms:
                norm.momentum = k / (k + 1)
            self(z, training=True)
        for norm in self.all_norms:
            norm.momentum = 0.98


class FoldedGenerator(keras.Model):
    """What `generator` computes in inference, with everything computed beforehand that does not depend on z.

    The embedding of the class, the stem and the scales and shifts of all normalizations are linear in (content, class weights):
    one matrix product gives them all. It has no state for training.
    """

    def __init__(self, generator, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.sharpness, self.latent_dim = generator.num_classes, generator.sharpness, generator.latent_dim
        norms = generator.all_norms
        kernels, biases = zip(*(norm.folded() for norm in norms), strict=True)
        self.sizes = [generator.stem.units, *(size for norm in norms for size in 2 * [norm.gain.shape[0]])]
        of_h = np.concatenate([generator.stem.kernel, *kernels], 1)
        of_class = np.asarray(generator.embedding.kernel, np.float64) @ of_h[LATENT_CONTENT_DIM:]
        self.mixing = self._constant("mixing", np.concatenate([of_class, of_h[:LATENT_CONTENT_DIM]]))
        self.offset = self._constant("offset", np.concatenate([np.zeros(self.sizes[0]), *biases]))
        self.ups = [self._constant(f"up{k}", up.transposed_kernel()) for k, up in enumerate(generator.ups)]
        names = ("residual", "rgb16", "rgb32", "rgb64")
        self.convolutions = {name: self._constant(name, getattr(generator, name).kernel) for name in names}
        self.rgb_bias = self._constant("rgb_bias", generator.rgb64.bias)
        self.built = True

    def _constant(self, name, value):
        value = np.asarray(ops.convert_to_numpy(value), np.float32)
        weight = self.add_weight(shape=value.shape, name=name, trainable=False)
        weight.assign(value)
        return weight

    def call(self, z):
        act = lambda v: ops.leaky_relu(v, 0.2)  # noqa: E731
        conv = lambda name, v: ops.conv(v, self.convolutions[name], padding="same")  # noqa: E731
        weights = ops.softmax(self.sharpness * z[:, : self.num_classes])
        mixed = ops.matmul(ops.concatenate([weights, z[:, self.num_classes :]], axis=-1), self.mixing) + self.offset
        stem, *modulations = ops.split(mixed, np.cumsum(self.sizes)[:-1], axis=-1)
        each = iter([part[:, None, None, :] for part in modulations])
        modulated = lambda v: act(v * next(each) + next(each))  # noqa: E731
        x = modulated(ops.reshape(stem, (-1, 4, 4, self.sizes[1])))
        rgb = None
        for up in self.ups:
            x = modulated(ops.conv_transpose(x, up, strides=2, padding="same"))
            if x.shape[1] == 16:
                x = x + modulated(conv("residual", x))
                rgb = conv("rgb16", x)
            elif x.shape[1] == 32:
                rgb = double(rgb) + conv("rgb32", x)
        return ops.tanh(conv("rgb64", x) + self.rgb_bias + double(rgb))
