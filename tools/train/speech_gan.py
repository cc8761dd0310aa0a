"""A Projected GAN of source-filter images: its batches, its augmentation, and what is watched during training."""

import csv

import keras
import numpy as np
from keras import ops

from tools.train.lessons import Epochs
from tools.train.photographs import crop_matrix, resample, uniform
from tools.train.projected_gan import ProjectedGan, swap_class
from tools.train.source_filter import BANDS, FRAMES

NUM_DRAWS = 600  # prior draws for each KID


def varied_images(image, u):
    """Return `image [B, FRAMES, BANDS, 3]` at another speed, place, loudness and pitch, with a gap; u [B, 9] in [0, 1)."""
    rows = crop_matrix(FRAMES, FRAMES, 0.88 + 0.24 * u[:, 0:1], (u[:, 1:2] - 0.5) * 0.3)
    columns = crop_matrix(BANDS, BANDS, 0.96 + 0.08 * u[:, 2:3], (u[:, 3:4] - 0.5) * 0.06)
    x = resample(image, rows, columns)
    at = lambda i: u[:, i][:, None, None]  # noqa: E731
    time, band = ops.arange(FRAMES, dtype="float32")[None, :, None], ops.arange(BANDS, dtype="float32")[None, None]
    hidden = ops.logical_or(
        ops.abs(time - at(6) * FRAMES) < 8.0 * at(7) - 2.0, ops.abs(band - at(8) * BANDS) < 8.0 * (1 - at(7)) - 4.0
    )
    power = (x[..., 0] + 1) * (0.85 + 0.3 * at(4)) * (1 - ops.cast(hidden, "float32")) - 1
    return ops.stack([power, x[..., 1], x[..., 2] + (at(5) - 0.5) * 0.2], axis=-1)


class Taps:
    """The feature maps of a frozen classifier of images, as the heads of a discriminator use them."""

    def __init__(self, classifier):
        classifier.trainable = False
        self.classifier = classifier
        self.channels = classifier.CHANNELS

    def __call__(self, image):
        return self.classifier.taps(image)


class SpeechGan(ProjectedGan):
    """A model for `fit` on `(image float32 [B, FRAMES, BANDS, 3], label int32 [B])`, label = word * num_speakers + speaker."""

    def prepared(self, data):
        label, generator = ops.reshape(data[1], (self.batch_size,)), self.generator
        z = keras.random.normal((self.batch_size, generator.latent_dim), seed=self.seed_generator)
        z = swap_class(z, label // generator.num_speakers, generator.num_classes)
        words, rest = z[:, : generator.num_classes], z[:, generator.num_classes :]
        rest = swap_class(rest, label % generator.num_speakers, generator.num_speakers)
        return ops.reshape(data[0], (self.batch_size, FRAMES, BANDS, 3)), label, ops.concatenate([words, rest], axis=1)

    def augment(self, image, batch_size):
        u = uniform(self.seed_generator, (batch_size // 2, 9))
        x = varied_images(image, ops.concatenate([u, u]))
        return [x, x]

    def feature_scales_of(self, images):
        return [1.0 / ops.sqrt(ops.mean(ops.square(tap))) for tap in self.features(images)]


class ImageBatches(Epochs):
    """Batches (image, label) whose rows i and i + B / 2 have the same label, and that depend on (seed, epoch, index) only."""

    def __init__(self, images, labels, batch_size, steps, seed, paired, **kwargs):
        super().__init__(steps, **kwargs)
        self.images, self.labels, self.batch_size, self.seed, self.paired = images, labels, batch_size, seed, paired
        self.members = [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = rng.integers(len(self.members), size=self.batch_size)
        if self.paired:
            chosen = np.concatenate(2 * [chosen[: self.batch_size // 2]])
        rows = np.array([rng.choice(self.members[c]) for c in chosen])
        return ((self.images[rows], self.labels[rows]),)


class Watch(keras.callbacks.Callback):
    """Computes the KID of the EMA weights in the training features after each epoch; writes a line of the log and the best."""

    def __init__(self, taps, images, work, calibrate):
        super().__init__()
        self.taps, self.work, self.calibrate = taps, work, calibrate
        real = self.pooled(images)
        self.scale = 1 / np.sqrt(np.mean(real**2))
        self.real = real * self.scale
        self.log = work / "log.csv"
        rows = list(csv.DictReader(self.log.open())) if self.log.exists() else []
        self.best = min((float(row["kid"]) for row in rows), default=float("inf"))

    def pooled(self, images):
        return np.concatenate(
            [np.asarray(ops.mean(self.taps(images[i : i + 100])[-1], axis=(1, 2))) for i in range(0, len(images), 100)]
        )

    def on_epoch_end(self, epoch, logs=None):
        from tfgradgen.evaluation.distances import kid  # needs only NumPy and SciPy

        generator = self.model.generator
        z = np.random.default_rng(7).standard_normal((NUM_DRAWS, generator.latent_dim), "float32")
        self.calibrate(generator, num_batches=8)
        images = np.concatenate([np.asarray(generator(z[i : i + 100])) for i in range(0, NUM_DRAWS, 100)])
        distance = kid(self.pooled(images) * self.scale, self.real)
        row = dict(epoch=epoch + 1, kid=round(distance, 5), **{k: round(float(v), 4) for k, v in (logs or {}).items()})
        new = not self.log.exists()
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        generator.save_weights(self.work / "last.weights.h5")
        if distance < self.best:
            self.best = distance
            generator.save_weights(self.work / "new.weights.h5")
            (self.work / "new.weights.h5").replace(self.work / "best.weights.h5")
        print(f"epoch {epoch + 1}: KID {distance:.4f}, best {self.best:.4f}", flush=True)
