"""What the classifiers are trained on: photographs of the classes, of other things, and pictures of nothing; augmented."""

import keras
import numpy as np
from keras import ops

from tools.train.lessons import Epochs, LossModel
from tools.train.photographs import crop_matrix, cut_out, jitter_colour, resample, to_range, uniform

SHARES = (0.56, 0.34, 0.10)  # of a batch: the classes, photographs of other things, distorted photographs
BATCH_SIZE = 64


def batch_counts(has_others):
    """How many rows of a batch are of the classes, of other things, distorted."""
    if not has_others:
        return BATCH_SIZE, 0, 0
    classes, others = (round(share * BATCH_SIZE) for share in SHARES[:2])
    return classes, others, BATCH_SIZE - classes - others


class Batches(Epochs):
    """(image uint8 [B, 64, 64, 3], label int32 [B]) balanced over classes; a batch depends on (seed, epoch, index) only.

    `sets` are (images, labels) of the classes and, optionally, of other things. Labels of the others follow the classes';
    the last rows, to be distorted, show photographs of the classes and carry the label after all.
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
    """Softens by up to two 3x3 means, in about half of the rows; u [B, 3]."""
    soft = ops.average_pool(x, 3, 1, padding="same")
    soft = ops.where(u[:, 0:1, None, None] > 0.7, ops.average_pool(soft, 3, 1, padding="same"), soft)
    return x + (soft - x) * (u[:, 1:2] * ops.cast(u[:, 2:3] > 0.5, "float32"))[:, :, None, None]


def window(x, u, least_zoom, shift, bend=0.0):
    """A random, mirrored window of each image, stretched by up to exp(+-bend / 2); u [B, 5]."""
    zoom = least_zoom + (1.05 - least_zoom) * u[:, 0:1]
    rows = crop_matrix(64, 64, zoom * ops.exp((u[:, 1:2] - 0.5) * bend), (u[:, 2:3] - 0.5) * shift)
    columns = crop_matrix(64, 64, zoom, (u[:, 3:4] - 0.5) * shift, ops.where(u[:, 4:5] > 0.5, 1.0, -1.0))
    return resample(x, rows, columns)


def augment_for_guidance(x, seed):
    """Crops, colour, blur, noise, cut-outs: the classifier gives gradients on pictures softer and rougher than photographs."""
    u = uniform(seed, (BATCH_SIZE, 15))
    x = jitter_colour(x, u[:, 0:3], brightness=0.4, saturation=0.4, contrast=0.35)
    x = blur(window(x, u[:, 3:8], least_zoom=0.65, shift=0.4, bend=0.3), u[:, 8:11])
    level = 0.3 * ops.square(u[:, 11:12]) * ops.cast(u[:, 10:11] < 0.6, "float32")
    x = x + level[:, :, None, None] * keras.random.normal(ops.shape(x), seed=seed)
    return cut_out(x, u[:, 12:14], half=10.0)


def augment_for_judging(x, seed):
    """Tighter crops, and colours turned by random mixing of the channels: nothing of blur or noise."""
    u = uniform(seed, (BATCH_SIZE, 8))
    x = jitter_colour(x, u[:, 0:3], brightness=0.3, saturation=0.5, contrast=0.3)
    mixing = ops.eye(3)[None] + 0.1 * keras.random.normal((BATCH_SIZE, 3, 3), seed=seed)
    return window(ops.einsum("bhwc,bcd->bhwd", x, mixing), u[:, 3:8], least_zoom=0.55, shift=0.45)


def augment_for_telling_apart(x, seed):
    """Mirrored and moved by a few pixels; colours and sharpness stay, since they may be what gives a draw away."""
    return window(x, uniform(seed, (BATCH_SIZE, 5)), least_zoom=0.95, shift=0.1)


def leave(x, seed):
    """No blending: the images and a weight [B] of 1."""
    return x, ops.ones((BATCH_SIZE,))


def blend(x, seed):
    """Mixup (Zhang et al. 2018), in half of the rows: returns images and the weight [B] of the row's own label.

    The other label is the next row's.
    """
    u = uniform(seed, (BATCH_SIZE, 2))
    weight = ops.where(u[:, 0] > 0.5, 1.0, 1.0 - 0.5 * u[:, 1])
    return x * weight[:, None, None, None] + ops.roll(x, -1, axis=0) * (1 - weight)[:, None, None, None], weight


def paste(x, seed):
    """CutMix (Yun et al. 2019), in half of the rows: a square of the next row's image is pasted in."""
    u = uniform(seed, (BATCH_SIZE, 4))
    half = ops.where(u[:, 0:1] > 0.5, 0.0, 8.0 + 12.0 * u[:, 1:2])
    hole = cut_out(ops.ones_like(x), u[:, 2:4], half)
    weight = ops.mean(hole, axis=(1, 2, 3))
    return x * hole + ops.roll(x, -1, axis=0) * (1 - hole), weight


def distort(x, seed):
    """Photographs [N, 64, 64, 3] -> what is no picture of anything: blobs of their colours, or their squares shuffled."""
    half = x.shape[0] // 2
    coarse = ops.average_pool(x[:half], 16, 16)
    smooth = ops.image.resize(coarse, (64, 64), interpolation="bilinear")
    grid = ops.reshape(ops.transpose(ops.reshape(x[half:], (-1, 4, 16, 4, 16, 3)), (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 16, 3))
    order = ops.argsort(uniform(seed, (x.shape[0] - half, 16)), axis=1)
    shuffled = ops.take_along_axis(grid, order[:, :, None, None, None], axis=1)
    shuffled = ops.transpose(ops.reshape(shuffled, (-1, 4, 4, 16, 16, 3)), (0, 1, 3, 2, 4, 5))
    return ops.concatenate([smooth, ops.reshape(shuffled, (-1, 64, 64, 3))])


class Lesson(LossModel):
    """`fit` on `Batches`: augments, blends, and takes the cross-entropy of both labels. `role` chooses how."""

    def __init__(self, network, role, num_distorted, seed=77, **kwargs):
        super().__init__(**kwargs)
        self.network, self.num_distorted = network, num_distorted
        self.augment, self.mix = {
            "classifier": (augment_for_guidance, blend),
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
        # Rows come in order of their kind: the blending partner should be any.
        order = ops.argsort(uniform(self.seed_generator, (BATCH_SIZE,)))
        x, label = ops.take(x, order, axis=0), ops.take(label, order, axis=0)
        x, weight = self.mix(self.augment(x, self.seed_generator), self.seed_generator)
        logits = self.network(ops.clip(x, -1.0, 1.0), training=training)
        loss = lambda target: keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)  # noqa: E731
        return ops.mean(weight * loss(label) + (1 - weight) * loss(ops.roll(label, -1)))
