"""A class-conditional Projected GAN (Sauer et al. 2021) as one Keras model, which trains both sides on the same fakes.

The inputs of the discriminator heads are frozen features, each through a fixed random 1x1 projection, and the pixels with their
high-pass. Batches contain pairs of one class (rows i and i + B / 2). The heads also get the difference of a pair, and a hinge
loss makes the generator's pairs as different as those of photographs. Without it every class collapses to one shape.
"""

import itertools

import keras
import numpy as np
from keras import ops

from tools.train.initializers import Normal
from tools.train.photographs import crop_matrix, cut_out, jitter_colour, resample, to_range, uniform

# For the heads on the four feature maps: channels of the random projection, and (size, stride, filters) of each layer.
HEADS = (
    (32, ((3, 2, 48), (3, 2, 64))),
    (64, ((3, 2, 64), (3, 2, 64))),
    (96, ((3, 2, 96), (3, 1, 96))),
    (128, ((3, 1, 96),)),
)
NUDGE = 0.3  # length of the step in z for measuring smoothness


class SpectralKernel(keras.layers.Layer):
    """A weight divided by its largest singular value, with one power iteration per call (Miyato et al. 2018)."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        std = float(np.sqrt(2 / np.prod(shape[:-1])))
        self.kernel = self.add_weight(shape=shape, initializer=Normal(std), autocast=False)
        self.u = self.add_weight(
            shape=(1, shape[-1]),
            initializer=Normal(1.0),
            trainable=False,
            autocast=False,
        )
        self.built = True

    def call(self, training=False):
        matrix = ops.reshape(self.kernel, (-1, self.kernel.shape[-1]))
        frozen = ops.stop_gradient(matrix)
        v = ops.normalize(ops.matmul(self.u, ops.transpose(frozen)), axis=-1)
        u = ops.normalize(ops.matmul(v, frozen), axis=-1)
        if training:
            self.u.assign(u)
        return ops.cast(self.kernel / ops.sum(ops.matmul(v, matrix) * u), self.compute_dtype)


class Head(keras.layers.Layer):
    """A patch discriminator on one feature map, with a class projection and a term for the difference of a pair."""

    def __init__(self, channels, projected, layers, num_classes, gain=4.0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.gain, self.projection = gain, None
        if projected:
            draw = np.random.RandomState(seed).randn(1, 1, channels, projected) / np.sqrt(channels)
            self.projection = ops.cast(draw.astype("float32"), self.compute_dtype)
            channels = projected
        self.strides = [stride for _, stride, _ in layers]
        self.kernels, self.biases = [], []
        for size, _, filters in layers:
            self.kernels.append(SpectralKernel((size, size, channels, filters), dtype=self.dtype_policy))
            self.biases.append(self.add_weight(shape=(filters,), initializer="zeros"))
            channels = filters
        kernel = lambda *shape: SpectralKernel(shape, dtype=self.dtype_policy)  # noqa: E731
        self.real, self.classes, self.pair = kernel(channels, 1), kernel(num_classes, channels), kernel(channels, 1)
        self.bias = self.add_weight(shape=(), initializer="zeros", autocast=False)
        self.built = True

    def weights_now(self, training):
        """Return the normalized weights, computed once per step for photographs and fakes."""
        kernels = [kernel(training=training) for kernel in self.kernels]
        biases = [ops.cast(bias, self.compute_dtype) for bias in self.biases]
        ends = [layer(training=training) for layer in (self.real, self.classes, self.pair)]
        return [*kernels, *biases, *ends, self.bias + 0.0]

    def call(self, x, label, weights):
        """Return logits [B, H', W'] float32 of `x [B, H, W, C]` with `label [B]`."""
        n = len(self.kernels)
        x = ops.cast(x, self.compute_dtype)
        if self.projection is not None:
            x = ops.conv(x, self.projection)
        for kernel, bias, stride in zip(weights[:n], weights[n : 2 * n], self.strides, strict=True):
            x = ops.leaky_relu(ops.conv(x, kernel, strides=stride, padding="same") + bias, 0.2)
        real, classes, pair, bias = weights[2 * n :]
        half = x.shape[0] // 2 if x.shape[0] else ops.shape(x)[0] // 2
        swapped = ops.concatenate([x[half:], x[:half]])
        difference = ops.cast(ops.matmul(ops.mean(ops.abs(x - swapped), axis=(1, 2)), pair), "float32")
        direction = real[:, 0][None] + ops.take(classes, label, axis=0)
        logits = ops.cast(ops.einsum("bhwc,bc->bhw", x, direction), "float32")
        return self.gain * (logits + difference[:, :, None]) + ops.cast(bias, "float32")


def swap_class(z, label, num_classes):
    """Swap the largest class coordinate of `z` with that of `label`; for a uniform label z remains Normal(0, I)."""
    chosen, content = z[:, :num_classes], z[:, num_classes:]
    wanted = ops.one_hot(label, num_classes)
    largest = ops.one_hot(ops.argmax(chosen, axis=-1), num_classes)
    difference = ops.sum(chosen * (largest - wanted), axis=-1, keepdims=True)
    return ops.concatenate([chosen + difference * (wanted - largest), content], axis=-1)


class ProjectedGan(keras.Model):
    """A model for `fit` on `(image uint8 [B, 64, 64, 3], label int32 [B])`, where rows i and i + B / 2 have the same class.

    The weight of diversity goes from the first to the second of `diversity` in 0.6 `total_steps`; `smoothness` is the weight
    of the path-length term, `high_pass` the gain of the high-pass part of the pixels. `guide(image [B, S, S, 3], label [B])`
    returns -log p(label given the image) [B] by a frozen classifier, which the generator lowers with the weight `guidance`
    (Sauer et al. 2022, StyleGAN-XL).
    """

    def __init__(
        self,
        generator,
        features,
        num_classes,
        batch_size,
        total_steps,
        smoothness=0.0,
        high_pass=6.0,
        diversity=(2.0, 0.1),
        guide=None,
        guidance=0.0,
        seed=23,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.generator, self.features, self.smoothness = generator, features, smoothness
        self.high_pass, self.diversity, self.guide, self.guidance = high_pass, diversity, guide, guidance
        layer = dict(num_classes=num_classes, dtype=generator.dtype_policy)
        self.heads = [
            *(
                Head(channels, projected, layers, seed=k, **layer)
                for k, (channels, (projected, layers)) in enumerate(
                    zip(features.channels, itertools.cycle(HEADS), strict=False)
                )
            ),
            Head(6, None, [(4, 2, 32), (4, 2, 64), (4, 2, 128)], gain=8.0, **layer),
        ]
        self.num_classes, self.batch_size, self.total_steps = num_classes, batch_size, total_steps
        self.seed_generator = keras.random.SeedGenerator(seed)
        weight = dict(shape=(), trainable=False, autocast=False)
        self.step_count = self.add_weight(name="step_count", initializer="zeros", **weight)
        scales = range(len(features.channels))
        self.feature_scales = [self.add_weight(name=f"feature_scale_{i}", initializer="ones", **weight) for i in scales]
        self.mean_change = self.add_weight(name="mean_change", initializer="zeros", **weight)
        self.real_distances = [self.add_weight(name=f"distance_{i}", initializer="zeros", **weight) for i in range(3)]
        names = ("d_loss", "g_loss", "d_real", "d_fake", "spread")
        self.trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    @property
    def metrics(self):
        return list(self.trackers.values())

    def feature_scales_of(self, images):
        """Return what scales each feature map of `images` (in [-1, 1]) to unit mean square, so that all heads start equal."""
        size = self.features.image_size
        taps = self.features(keras.ops.image.resize(images, (size, size)))
        return [1.0 / ops.sqrt(ops.mean(ops.square(ops.cast(tap, "float32")))) for tap in taps]

    def set_feature_scales(self, values):
        """Set the scales of the feature maps, as `feature_scales_of` gives them."""
        for scale, value in zip(self.feature_scales, values, strict=True):
            scale.assign(value)

    def augment(self, image, batch_size):
        """Return two views of one augmentation, at 64 pixels and at the input size of the features; pairs share their draw."""
        u = uniform(self.seed_generator, (batch_size // 2, 10))
        u = ops.concatenate([u, u])
        x = jitter_colour(image, u[:, 4:7], brightness=0.3, saturation=0.3, contrast=0.2)
        x = cut_out(x, u[:, 7:9], half=u[:, 9:10] * 14.0 + 2.0)
        zoom = 0.82 + 0.23 * u[:, 0:1]
        flip = ops.where(u[:, 3:4] > 0.5, 1.0, -1.0)
        rows, columns = (u[:, 1:2] - 0.5) * 0.3, (u[:, 2:3] - 0.5) * 0.3
        return [
            resample(x, crop_matrix(64, size, zoom, rows), crop_matrix(64, size, zoom, columns, flip))
            for size in (64, self.features.image_size)
        ]

    def inputs_of_heads(self, views):
        pixels, large = views
        taps = [tap * ops.cast(scale, tap.dtype) for tap, scale in zip(self.features(large), self.feature_scales, strict=True)]
        # The high-pass part is amplified; otherwise periodic artefacts are not penalized.
        high = pixels - ops.average_pool(pixels, 3, 1, padding="same")
        return [*taps, ops.concatenate([1.5 * pixels, self.high_pass * high], axis=-1)]

    def fakes(self, z, training):
        """Return the generator's images of `z`, and their path-length penalty.

        The penalty is the mean squared deviation of |g(z + step) - g(z)| from its running mean, relative to that mean: the
        path-length regularization of StyleGAN2 (Karras et al. 2020) with a finite difference, on a quarter of the batch.
        """
        if not self.smoothness:
            return self.generator(z, training=training), 0.0
        quarter = self.batch_size // 4
        step = ops.normalize(keras.random.normal((quarter, z.shape[1]), seed=self.seed_generator), axis=-1)
        # One pass, so that batch normalization treats both ends equally.
        image = self.generator(ops.concatenate([z, z[:quarter] + NUDGE * step]), training=training)
        image, near = image[: self.batch_size], image[self.batch_size :]
        change = ops.sqrt(ops.sum(ops.square(near - image[:quarter]), axis=(1, 2, 3)) + 1e-6)
        rate = ops.where(self.step_count < 20, 1.0, 0.02)
        self.mean_change.assign(self.mean_change + rate * (ops.stop_gradient(ops.mean(change)) - self.mean_change))
        return image, ops.mean(ops.square(change / self.mean_change - 1.0))

    @staticmethod
    def pair_distances(inputs):
        """Return the mean absolute differences of pairs, in coarse pixels and two coarse feature maps: a list of [B / 2]."""
        coarse = [
            ops.average_pool(inputs[-1][..., :3], 8, 8),
            ops.average_pool(inputs[2], 2, 2, padding="same"),
            inputs[3],
        ]
        half = coarse[0].shape[0] // 2
        return [ops.mean(ops.abs(ops.cast(c[:half] - c[half:], "float32")), axis=(1, 2, 3)) for c in coarse]

    def call(self, data, training=False):
        # Static shapes, so that the halves of pairs are slices and the graph is compiled once.
        batch_size = self.batch_size
        image, label = ops.reshape(data[0], (batch_size, 64, 64, 3)), ops.reshape(data[1], (batch_size,))
        z = keras.random.normal((batch_size, self.generator.latent_dim), seed=self.seed_generator)
        fake, unevenness = self.fakes(swap_class(z, label, self.num_classes), training)
        on_real = [ops.stop_gradient(x) for x in self.inputs_of_heads(self.augment(to_range(image), batch_size))]
        fake_views = self.augment(fake, batch_size)
        on_fake = self.inputs_of_heads(fake_views)
        weights = [head.weights_now(training) for head in self.heads]
        frozen = [[ops.stop_gradient(w) for w in ws] for ws in weights]
        score = lambda xs, wss: [h(x, label, ws) for h, x, ws in zip(self.heads, xs, wss, strict=True)]  # noqa: E731
        real_logits = score(on_real, weights)
        fake_logits = score([ops.stop_gradient(x) for x in on_fake], weights)
        generator_logits = score(on_fake, frozen)

        d_loss = sum(
            ops.mean(ops.relu(1 - r)) + ops.mean(ops.relu(1 + f)) for r, f in zip(real_logits, fake_logits, strict=True)
        )
        head_weights = [1.0] * (len(self.heads) - 1) + [1.5]  # more for the pixels
        g_loss = -sum(w * ops.mean(f) for w, f in zip(head_weights, generator_logits, strict=True)) / len(self.heads)
        spread = []
        for moving, real, fake_ in zip(
            self.real_distances, self.pair_distances(on_real), self.pair_distances(on_fake), strict=True
        ):
            rate = ops.where(self.step_count < 20, 1.0, 0.02)
            moving.assign(moving + rate * (ops.mean(real) - moving))
            spread.append(fake_ / moving)
        shortfall = sum(ops.mean(ops.relu(1 - s)) for s in spread) / len(spread)
        progress = ops.minimum(self.step_count / (0.6 * self.total_steps), 1.0)
        first, last = self.diversity
        g_loss = g_loss + first * ops.power(last / first, progress) * shortfall
        g_loss = g_loss + self.smoothness * unevenness
        if self.guide:
            g_loss = g_loss + self.guidance * ops.mean(self.guide(fake_views[1], label))
        self.step_count.assign(self.step_count + 1)
        mean = lambda xs: sum(ops.mean(x) for x in xs) / len(xs)  # noqa: E731
        return dict(
            loss=d_loss + g_loss,
            d_loss=d_loss,
            g_loss=g_loss,
            d_real=mean(real_logits),
            d_fake=mean(fake_logits),
            spread=mean(spread),
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred["loss"]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        for name, tracker in self.trackers.items():
            tracker.update_state(y_pred[name])
        return self.get_metrics_result()
