"""Training data of the classifiers: photographs of the classes and of other things, and distorted images, with augmentation."""

import keras
import numpy as np
from keras import ops

from tools.train.lessons import Epochs, LossModel
from tools.train.photographs import crop_matrix, cut_out, jitter_colour, resample, to_range, uniform

SHARES = (0.56, 0.34, 0.10)  # shares of a batch: the classes, other things, distorted photographs
BATCH_SIZE = 64


def batch_counts(has_others):
    """Return the numbers of rows in a batch for the classes, other things and distorted photographs."""
    if not has_others:
        return BATCH_SIZE, 0, 0
    classes, others = (round(share * BATCH_SIZE) for share in SHARES[:2])
    return classes, others, BATCH_SIZE - classes - others


class Batches(Epochs):
    """Batches (image uint8 [B, 64, 64, 3], label int32 [B]), balanced over classes, that depend on (seed, epoch, index) only.

    `sets` are (images, labels) of the classes and, optionally, of other things, whose labels come after those of the classes.
    The last rows are photographs of the classes that will be distorted; they have the last label.
    """

    def __init__(self, sets, steps, seed, **kwargs):
        super().__init__(steps, **kwargs)
        self.sets, self.seed = sets, seed
        self.members = [[np.flatnonzero(labels == c) for c in np.unique(labels)] for _, labels in sets]
        self.counts = batch_counts(len(sets) > 1)

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        num_classes, num_others = len(self.members[0]), len(self.members[-1])
        images, labels = [], []
        for source, count, first in zip((0, -1, 0), self.counts, (0, num_classes, None), strict=True):
            members = self.members[source]
            chosen = rng.permutation(np.resize(rng.permutation(len(members)), count))
            rows = np.array([rng.choice(members[c]) for c in chosen], "int64")
            images.append(self.sets[source][0][rows])
            labels.append(np.full(count, num_classes + num_others) if first is None else first + chosen)
        return ((np.concatenate(images), np.concatenate(labels).astype("int32")),)


def blur(x, u):
    """Blur about half of the rows with up to two 3x3 means; u [B, 3]."""
    soft = ops.average_pool(x, 3, 1, padding="same")
    soft = ops.where(u[:, 0:1, None, None] > 0.7, ops.average_pool(soft, 3, 1, padding="same"), soft)
    return x + (soft - x) * (u[:, 1:2] * ops.cast(u[:, 2:3] > 0.5, "float32"))[:, :, None, None]


def window(x, u, least_zoom, shift, bend=0.0):
    """Crop a random window of each image, with random mirroring and stretching by up to exp(+-bend / 2); u [B, 5]."""
    zoom = least_zoom + (1.05 - least_zoom) * u[:, 0:1]
    rows = crop_matrix(64, 64, zoom * ops.exp((u[:, 1:2] - 0.5) * bend), (u[:, 2:3] - 0.5) * shift)
    columns = crop_matrix(64, 64, zoom, (u[:, 3:4] - 0.5) * shift, ops.where(u[:, 4:5] > 0.5, 1.0, -1.0))
    return resample(x, rows, columns)


def augment_for_guidance(x, seed):
    """Apply crops, colour, blur, noise and cut-outs, because the classifier guides images that are blurry or noisy."""
    u = uniform(seed, (BATCH_SIZE, 15))
    x = jitter_colour(x, u[:, 0:3], brightness=0.4, saturation=0.4, contrast=0.35)
    x = blur(window(x, u[:, 3:8], least_zoom=0.65, shift=0.4, bend=0.3), u[:, 8:11])
    level = 0.3 * ops.square(u[:, 11:12]) * ops.cast(u[:, 10:11] < 0.6, "float32")
    x = x + level[:, :, None, None] * keras.random.normal(ops.shape(x), seed=seed)
    return cut_out(x, u[:, 12:14], half=10.0)


def augment_for_judging(x, seed):
    """Apply tighter crops and random mixing of the colour channels, without blur or noise."""
    u = uniform(seed, (BATCH_SIZE, 8))
    x = jitter_colour(x, u[:, 0:3], brightness=0.3, saturation=0.5, contrast=0.3)
    mixing = ops.eye(3)[None] + 0.1 * keras.random.normal((BATCH_SIZE, 3, 3), seed=seed)
    return window(ops.einsum("bhwc,bcd->bhwd", x, mixing), u[:, 3:8], least_zoom=0.55, shift=0.45)


def augment_for_telling_apart(x, seed):
    """Mirror and shift by a few pixels; keep colours and sharpness, which may distinguish draws from photographs."""
    return window(x, uniform(seed, (BATCH_SIZE, 5)), least_zoom=0.95, shift=0.1)


def leave(x, seed):
    """Return the images unchanged, with weight [B] 1."""
    return x, ops.ones((BATCH_SIZE,))


def blend(x, seed):
    """Apply mixup (Zhang et al. 2018) to half of the rows; return images and the weight [B] of the row's own label.

    The other label is that of the next row.
    """
    u = uniform(seed, (BATCH_SIZE, 2))
    weight = ops.where(u[:, 0] > 0.5, 1.0, 1.0 - 0.5 * u[:, 1])
    return x * weight[:, None, None, None] + ops.roll(x, -1, axis=0) * (1 - weight)[:, None, None, None], weight


def paste(x, seed):
    """Apply CutMix (Yun et al. 2019) to half of the rows: paste a square of the next row's image."""
    u = uniform(seed, (BATCH_SIZE, 4))
    half = ops.where(u[:, 0:1] > 0.5, 0.0, 8.0 + 12.0 * u[:, 1:2])
    hole = cut_out(ops.ones_like(x), u[:, 2:4], half)
    weight = ops.mean(hole, axis=(1, 2, 3))
    return x * hole + ops.roll(x, -1, axis=0) * (1 - hole), weight


def distort(x, seed):
    """Turn photographs [N, 64, 64, 3] into images without an object: blobs of their colours, or shuffled squares."""
    half = x.shape[0] // 2
    coarse = ops.average_pool(x[:half], 16, 16)
    smooth = ops.image.resize(coarse, (64, 64), interpolation="bilinear")
    grid = ops.reshape(ops.transpose(ops.reshape(x[half:], (-1, 4, 16, 4, 16, 3)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 16, 3))
    order = ops.argsort(uniform(seed, (x.shape[0] - half, 16)), axis=1)
    shuffled = ops.take_along_axis(grid, order[:, :, None, None, None], axis=1)
    shuffled = ops.transpose(ops.reshape(shuffled, (-1, 4, 4, 16, 16, 3)), (0, 1, 3, 2, 4, 5))
    return ops.concatenate([smooth, ops.reshape(shuffled, (-1, 64, 64, 3))])


class Lesson(LossModel):
    """A model for `fit` on `Batches`: augmentation and blending (chosen by `role`), and the cross-entropy of both labels."""

    def __init__(self, network, role, num_distorted, seed=77, **kwargs):
        super().__init__(**kwargs)
        self.network, self.num_distorted = network, num_distorted
        self.augment, self.mix = {
            "teacher": (augment_for_guidance, blend),
            "judge": (augment_for_judging, paste),
            "discriminator": (augment_for_telling_apart, leave),
        }[role]
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, data, training=False):
        x, label = to_range(ops.reshape(data[0], (BATCH_SIZE, 64, 64, 3))), ops.reshape(data[1], (BATCH_SIZE,))
        if self.num_distorted:
            kept = BATCH_SIZE - self.num_distorted
            x = ops.concatenate([x[:kept], distort(x[kept:], self.seed_generator)])
        # Rows are ordered by kind; shuffle them, so that the blending partner is random.
        order = ops.argsort(uniform(self.seed_generator, (BATCH_SIZE,)))
        x, label = ops.take(x, order, axis=0), ops.take(label, order, axis=0)
        x, weight = self.mix(self.augment(x, self.seed_generator), self.seed_generator)
        logits = self.network(ops.clip(x, -1.0, 1.0), training=training)
        loss = lambda target: keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)  # noqa: E731
        return ops.mean(weight * loss(label) + (1 - weight) * loss(ops.roll(label, -1)))
