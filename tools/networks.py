"""The networks that tools/ trains, in Keras 3: generator, classifier, and the frozen SqueezeNet features.

They run on the TensorFlow and on the JAX backend, in float32 or in mixed bfloat16 (`dtype`).
"""

import keras
import numpy as np
from keras import ops

LATENT_CONTENT_DIM = 64  # coordinates of z that are free; the others, one a class, choose the class
CLASS_SHARPNESS = 6.0  # softmax(6 z_c): small enough that a chain can cross between classes


class ConditionalBatchNorm(keras.layers.Layer):
    """Batch normalization whose scale and shift depend on a vector h, applied as one multiply-add per channel.

    `call([x [B, H, W, C], h [B, D]], training)` normalizes by the batch's moments in training and by `moving_mean`,
    `moving_variance` in inference; in training these follow with `momentum`.
    """

    def __init__(self, initial_gain=1.0, momentum=0.98, **kwargs):
        super().__init__(**kwargs)
        self.initial_gain = initial_gain
        self.momentum = momentum

    def build(self, shapes):
        channels, dim = shapes[0][-1], shapes[1][-1]
        normal = keras.initializers.RandomNormal(stddev=0.05)
        self.gain = self.add_weight(shape=(channels,), initializer=keras.initializers.Constant(self.initial_gain))
        self.bias = self.add_weight(shape=(channels,), initializer="zeros")
        self.to_scale = self.add_weight(shape=(dim, channels), initializer=normal)
        self.to_shift = self.add_weight(shape=(dim, channels), initializer=normal)
        self.moving_mean = self.add_weight(shape=(channels,), initializer="zeros", trainable=False, autocast=False)
        self.moving_variance = self.add_weight(shape=(channels,), initializer="ones", trainable=False, autocast=False)

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
        inv = f32(self.gain) * ops.rsqrt(variance + 1e-4)
        scale = inv * modulation
        shift = (f32(self.bias) - mean * inv) * modulation + f32(ops.matmul(h, self.to_shift))
        expand = lambda v: ops.cast(v[:, None, None, :], x.dtype)  # noqa: E731
        return x * expand(scale) + expand(shift)


class UpConv(keras.layers.Layer):
    """Nearest-neighbour doubling followed by a 3x3 convolution, as one 4x4 stride-2 transposed convolution.

    The same map at 4/9 of the cost: each of the four output phases sees a 2x2 sum of the kernel's taps.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape):
        channels = shape[-1]
        std = keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / (9 * channels))))
        self.kernel = self.add_weight(shape=(3, 3, self.filters, channels), initializer=std)

    def call(self, x):
        padded = [ops.pad(self.kernel, [[p, 1 - p], [q, 1 - q], [0, 0], [0, 0]]) for p in (0, 1) for q in (0, 1)]
        return ops.conv_transpose(x, sum(padded), strides=2, padding="same")


def doubling_matrix(size):
    """Bilinear interpolation from `size` to `2 * size` samples, as a float32 matrix [2 * size, size]."""
    source = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(source[:, None] - np.arange(size)[None])).astype("float32")


def double(x):
    """Bilinear doubling of [B, S, S, C] by two matrix products, differentiable on every backend."""
    matrix = ops.cast(doubling_matrix(x.shape[1]), x.dtype)
    return ops.einsum("iy,byxc,jx->bijc", matrix, x, matrix)


class Generator(keras.Model):
    """`z [B, num_classes + 64] -> image [B, 64, 64, 3]` in [-1, 1]; z ~ Normal(0, I).

    The first `num_classes` coordinates choose the class by softmax(6 z_c) over learnt embeddings; the rest is content.
    Stages double 4x4 to 64x64; RGB skips at 16 and 32 pixels carry the coarse colours.
    """

    STAGES = (160, 88, 48, 20)  # channels at 8, 16, 32, 64 pixels

    def __init__(self, num_classes, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.num_classes = num_classes
        self.latent_dim = num_classes + LATENT_CONTENT_DIM
        layer = dict(dtype=dtype)
        self.embedding = keras.layers.Dense(
            64, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=1.0), **layer
        )
        self.stem = keras.layers.Dense(
            16 * 192, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=0.09), **layer
        )
        self.stem_norm = ConditionalBatchNorm(**layer)
        self.ups = [UpConv(filters, **layer) for filters in self.STAGES]
        self.norms = [ConditionalBatchNorm(**layer) for _ in self.STAGES]
        self.residual = keras.layers.Conv2D(
            self.STAGES[1], 3, padding="same", use_bias=False, kernel_initializer="he_normal", **layer
        )
        self.residual_norm = ConditionalBatchNorm(initial_gain=0.3, **layer)
        small = keras.initializers.VarianceScaling(0.09)
        self.rgb16 = keras.layers.Conv2D(3, 1, use_bias=False, kernel_initializer=small, **layer)
        self.rgb32 = keras.layers.Conv2D(3, 1, use_bias=False, kernel_initializer=small, **layer)
        self.rgb64 = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=small, **layer)

    def call(self, z, training=False):
        act = lambda v: ops.leaky_relu(v, 0.2)  # noqa: E731
        z = ops.cast(z, "float32")
        weights = ops.softmax(CLASS_SHARPNESS * z[:, : self.num_classes])
        embedded = ops.cast(self.embedding(weights), "float32")
        h = ops.cast(ops.concatenate([z[:, self.num_classes :], embedded], axis=-1), self.compute_dtype)
        x = ops.reshape(self.stem(h), (-1, 4, 4, 192))
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

    def calibrate(self, z_batches):
        """Sets the inference statistics to the mean of the training-mode moments over `z_batches`, run eagerly."""
        norms = [self.stem_norm, self.residual_norm, *self.norms]
        for k, z in enumerate(z_batches):
            for norm in norms:
                norm.momentum = k / (k + 1)
            self(z, training=True)
        for norm in norms:
            norm.momentum = 0.98


class Classifier(keras.Model):
    """`image [B, 64, 64, 3]` in [-1, 1] `-> logits [B, num_classes]`: a small pre-activation-free residual network.

    `temperature` divides the logits; it is fitted on held-out photographs after training.
    """

    WIDTHS = (32, 64, 128, 256)  # channels at 32, 16, 8, 4 pixels

    def __init__(self, num_classes, dropout=0.2, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        layer = dict(dtype=dtype)
        self.stem = self._conv(self.WIDTHS[0], 5, 2, **layer)
        self.stem_norm = keras.layers.BatchNormalization(momentum=0.97, **layer)
        self.blocks = []
        for i, width in enumerate(self.WIDTHS):
            kernels = (3, 3) if i < 3 else (3,)
            convs = [self._conv(width, k, 2 if i and not j else 1, **layer) for j, k in enumerate(kernels)]
            norms = [keras.layers.BatchNormalization(momentum=0.97, **layer) for _ in kernels]
            shortcut = (
                [
                    keras.layers.AveragePooling2D(2, **layer),
                    self._conv(width, 1, 1, **layer),
                    keras.layers.BatchNormalization(momentum=0.97, **layer),
                ]
                if i
                else []
            )
            self.blocks.append((convs, norms, shortcut))
        # Keras tracks layers in attributes, not in lists of tuples.
        self.tracked = [layer_ for block in self.blocks for group in block for layer_ in group]
        self.dropout = keras.layers.Dropout(dropout, seed=1, **layer)
        self.head = keras.layers.Dense(
            num_classes, dtype="float32", kernel_initializer=keras.initializers.RandomNormal(stddev=0.02)
        )
        self.temperature = self.add_weight(shape=(), initializer="ones", trainable=False, name="temperature", autocast=False)

    @staticmethod
    def _conv(filters, size, strides, **layer):
        return keras.layers.Conv2D(
            filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal", **layer
        )

    def call(self, image, training=False):
        x = ops.silu(self.stem_norm(self.stem(image), training=training))
        for convs, norms, shortcut in self.blocks:
            y = x
            for j, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
                y = norm(conv(y), training=training)
                y = ops.silu(y) if j + 1 < len(convs) else y
            for layer in shortcut:
                x = layer(x, training=training) if "batch" in layer.name else layer(x)
            x = ops.silu(x + y)
        pooled = ops.cast(ops.mean(x, axis=(1, 2)), "float32")
        return self.head(self.dropout(pooled, training=training)) / self.temperature


class SqueezeNetFeatures(keras.layers.Layer):
    """Frozen SqueezeNet v1.0 (Iandola et al. 2016): `image [B, S, S, 3]` RGB in [-1, 1] -> four feature maps.

    Taps: the pool after conv1 (96 channels), fire4 (256), fire8 (512), fire9 (512). `path` is an .npz of
    `<layer>_w [out, in, height, width]` and `<layer>_b`, trained on BGR in 0..255 minus (104, 117, 123).
    """

    CHANNELS = (96, 256, 512, 512)

    def __init__(self, path, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, trainable=False, **kwargs)
        self.kernels, self.biases = {}, {}
        with np.load(path) as file:
            for name in file.files:
                if name.endswith("_w"):
                    key = name[:-2]
                    kernel, bias = file[name].transpose(2, 3, 1, 0), file[f"{key}_b"]
                    if key.startswith("conv1"):
                        kernel, bias = self._space_to_depth_form(kernel, bias)
                    self.kernels[key] = ops.cast(kernel, self.compute_dtype)
                    self.biases[key] = ops.cast(bias, self.compute_dtype)

    @staticmethod
    def _space_to_depth_form(kernel, bias):
        # 7x7 stride 2 on 3 channels is slow on CPU; 4x4 stride 1 on 12 channels is the same map. The input's
        # RGB order and [-1, 1] range are folded in: x255 = 127.5 x + 127.5 - mean.
        kernel = kernel[:, :, ::-1, :]
        offset = 127.5 - np.array([123.0, 117.0, 104.0])
        bias = bias + (kernel * offset[None, None, :, None]).sum((0, 1, 2))
        padded = np.zeros((8, 8, *kernel.shape[2:]), "float32")
        padded[:7, :7] = kernel * 127.5
        out = padded.shape[-1]
        return padded.reshape(4, 2, 4, 2, 3, out).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, 12, out), bias

    def _conv(self, x, key, padding="valid"):
        return ops.relu(ops.conv(x, self.kernels[key], padding=padding) + self.biases[key])

    @staticmethod
    def _pool(x):
        # Caffe rounds the number of windows up; the input is not negative, so zeros never win.
        extra = (-(x.shape[1] - 3)) % 2
        return ops.max_pool(ops.pad(x, [[0, 0], [0, extra], [0, extra], [0, 0]]), 3, 2, padding="valid")

    def _fire(self, x, i):
        squeezed = self._conv(x, f"fire{i}__conv1x1_1")
        return ops.concatenate(
            [self._conv(squeezed, f"fire{i}__conv1x1_2"), self._conv(squeezed, f"fire{i}__conv3x3_2", "same")], axis=-1
        )

    def call(self, image):
        size = image.shape[1] // 2
        x = ops.reshape(ops.cast(image, self.compute_dtype), (-1, size, 2, size, 2, 3))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, size, size, 12))
        x = self._pool(self._conv(x, "conv1"))
        taps = [x]
        for i in (2, 3, 4):
            x = self._fire(x, i)
        taps.append(x)
        x = self._pool(x)
        for i in (5, 6, 7, 8):
            x = self._fire(x, i)
        taps.append(x)
        taps.append(self._fire(self._pool(x), 9))
        return taps
