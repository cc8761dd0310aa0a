"""The latent point whose image is nearest to a photograph, where chains can start.

A generator with an encoder (BigBiGAN) gives it at once. For any other generator it is found by Adam (Kingma and Ba 2015), from
the prior draws that are nearest to the photograph, all in one batch. What is minimized is

    mean squared error of the pixels + FEATURE_WEIGHT * (1 - cosine of the classifier's features)
        + NORM_WEIGHT * latent_dim * (|z| / sqrt(latent_dim) - 1) ** 2

The error is averaged over the image and three coarser copies of it, so that a shape may be a little off its place. In pixels
alone, the result can match colours and show nothing of the class. Draws of the prior have |z| near sqrt(latent_dim) in high
dimensions; the last term keeps z there, where the generator was trained.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import Stream, as_seed, compile_fn, fold_in
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import IMAGE_CHANNELS, Networks, Progress
from tfgradgen.io.images import image_digest, read_images
from tfgradgen.media.image import from_uint8
from tfgradgen.media.resize import resize
from tfgradgen.models.features import cosine_distance, features_fn
from tfgradgen.models.loading.layout import to_grey

logger = logging.getLogger(__name__)

NUM_DRAWS = 128  # prior draws, of which the nearest are the starts
NUM_STARTS, NUM_STEPS, CHUNK = 4, 80, 10
FEATURE_WEIGHT, NORM_WEIGHT = 0.2, 0.02
LEARNING_RATE = 0.05  # falls to 0 along a cosine
SCALES = (1, 2, 4, 8)  # pixels that are averaged, on each side
BATCH = 64
NAN = float("nan")


class Projection(NamedTuple):
    """A latent point and how far its image is from the photograph.

    Attributes:
      z: float32 [latent_dim].
      record: JSON-serializable. by: 'encoder' or 'optimization'. num_draws, num_starts and num_steps: how it was found.
        pixel_rmse: root mean square error of the pixels, as a share of their range. feature_distance: 1 - cosine of the
        classifier's features, None if it has none. prior_pixel_rmse and prior_feature_distance: the median over prior draws.
        norm: |z| / sqrt(latent_dim), about 1 for prior draws. sha256: that of the file of the photograph.
    """

    z: np.ndarray
    record: dict[str, Any]


def project(networks: Networks, path: Path, seed: int) -> Projection:
    """Return the latent point whose image is nearest to the photograph in a file. The same seed gives the same point.

    Args:
      networks: A generator of images, whose `encode_fn` gives the point if it has one, and a classifier, whose signature
        `features` says what is similar besides pixels, if it has one.
      path: An image file; see `io.images.read_image`.
      seed: Seed of the prior draws.

    Raises:
      UserError: The file is not an image, the generator makes no images, or it has no gradient.
    """
    generator, max_batch = networks.generator, networks.max_batch
    target = read_photograph(generator, path)
    encode_fn = getattr(generator, "encode_fn", None)
    see = features_fn(networks.classifier)
    measure = _Measure(generator, see, target)
    batch = min(BATCH, max_batch or BATCH)
    prior = tf.random.stateless_normal([NUM_DRAWS, generator.latent_dim], fold_in(as_seed(seed), Stream.PROJECTION))
    logger.info("comparing the photograph with %d random images", NUM_DRAWS)
    parts = [measure(prior[k : k + batch]) for k in range(0, NUM_DRAWS, batch)]
    loss, rmse, distance = (np.concatenate([part[k].numpy() for part in parts]) for k in range(3))
    if encode_fn:
        z = tf.cast(encode_fn(target), tf.float32)
        how: dict[str, Any] = {"by": "encoder", "num_draws": NUM_DRAWS, "num_starts": 0, "num_steps": 0}
    else:
        count = min(NUM_STARTS, batch)
        z = _optimized(measure, tf.gather(prior, np.argsort(loss, kind="stable")[:count]))
        how = {"by": "optimization", "num_draws": NUM_DRAWS, "num_starts": count, "num_steps": NUM_STEPS}
    _, own_rmse, own_distance = (value.numpy()[0] for value in measure(z))
    point = z[0].numpy()
    found = {
        "pixel_rmse": float(own_rmse),
        "prior_pixel_rmse": float(np.median(rmse)),
        "feature_distance": float(own_distance) if see else None,
        "prior_feature_distance": float(np.median(distance)) if see else None,
        "norm": float(np.linalg.norm(point) / math.sqrt(len(point))),
        "sha256": image_digest(path),
    }
    if not np.isfinite(point).all():
        raise fail("init", "a photograph for which a finite latent point can be found", path, "use another, or --init=resample")
    return Projection(point, how | found)


def at_photograph(networks: Networks, path: Path, run: RunConfig) -> tuple[RunConfig, dict[str, Any]]:
    """Return `run` with all chains starting at the point of `project`, and the record of that point."""
    found = project(networks, path, run.seed)
    return replace(run, init="given", init_z=tuple(float(x) for x in found.z)), found.record


def read_photograph(generator: Any, path: Path) -> tf.Tensor:
    """Return the photograph in a file as an image of the generator's shape, float32 [1, height, width, channels] in [-1, 1].

    Raises:
      UserError: The file is not an image, or the generator makes no images with one to four channels.
    """
    shape = tuple(getattr(generator, "image_shape", ())) or tuple(generator(tf.zeros([1, generator.latent_dim])).shape[1:])
    if len(shape) != 3 or shape[2] not in IMAGE_CHANNELS:
        expected = "a generator of images, to start at a photograph"
        raise fail("init", expected, f"one whose outputs have shape {list(shape)}", "use --init=resample")
    height, width, channels = shape
    image = tf.constant(from_uint8(read_images([path], width, height)))
    if channels == 1:
        return to_grey(image)
    return image if channels == 3 else tf.concat([image, tf.ones_like(image[..., :1])], -1)  # opaque


class _Measure:
    """Distances of the images of z [B, latent_dim] from `target` [1, height, width, channels], each [B]."""

    def __init__(self, generator: Any, see: Callable[[tf.Tensor], tf.Tensor] | None, target: tf.Tensor):
        self.generator, self.see, self.target = generator, see, target
        self.seen = see(target) if see else None
        self._call = compile_fn(self.of, reduce_retracing=True)

    def __call__(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        found: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = self._call(z)
        return found

    def of(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return what is minimized, the root mean square error of the pixels (of 1), and the distance of the features."""
        image = tf.clip_by_value(self.generator(z), -1.5, 1.5)
        errors = [
            tf.reduce_mean((one - other) ** 2, [1, 2, 3])
            for one, other in zip(*map(_copies, (image, self.target)), strict=True)
        ]
        distance = cosine_distance(self.see(image), self.seen) if self.see else tf.zeros_like(errors[0])
        width = float(z.shape[1])
        shell = width * (tf.norm(z, axis=1) / math.sqrt(width) - 1.0) ** 2
        loss = tf.add_n(errors) / len(errors) + FEATURE_WEIGHT * distance + NORM_WEIGHT * shell
        return loss, tf.sqrt(errors[0]) / 2.0, distance


def _copies(image: tf.Tensor) -> list[tf.Tensor]:
    """Return the image and its coarser copies."""
    height, width = image.shape[1:3]
    return [resize(image, -(-height // scale), -(-width // scale)) for scale in SCALES]


def _optimized(measure: _Measure, starts: tf.Tensor) -> tf.Tensor:
    """Return the best point [1, latent_dim] that Adam reaches from `starts` [B, latent_dim].

    Raises:
      UserError: The generator has no gradient.
    """

    def of_image(z: tf.Tensor) -> tf.Tensor | None:
        with tf.GradientTape() as tape:
            tape.watch(z)
            image = measure.generator(z)
        return tape.gradient(image, z)

    # That of the last term would hide that there is none. Compiled: an eager gradient rewrites a SavedModel, whose later graphs
    # then draw other bits than those of a process without it, such as a worker.
    if compile_fn(of_image)(starts) is None:
        raise fail("init", "a generator with a gradient, to start at a photograph", "one without", "use --init=resample")

    def steps(first: tf.Tensor, z: tf.Tensor, mean: tf.Tensor, square: tf.Tensor) -> tuple[tf.Tensor, ...]:
        for k in tf.range(CHUNK):
            with tf.GradientTape() as tape:
                tape.watch(z)
                loss = measure.of(z)[0]
            gradient = tape.gradient(loss, z)
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            step = tf.cast(first + k, tf.float32)
            rate = LEARNING_RATE * 0.5 * (1.0 + tf.cos(math.pi * step / NUM_STEPS))
            mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
            unbiased = mean / (1.0 - 0.9 ** (step + 1.0)), square / (1.0 - 0.99 ** (step + 1.0))
            z = z - rate * unbiased[0] / (tf.sqrt(unbiased[1]) + 1e-8)
        return z, mean, square

    steps_fn = compile_fn(steps, autograph=True, reduce_retracing=True)
    z, mean, square = starts, tf.zeros_like(starts), tf.zeros_like(starts)
    for done in range(0, NUM_STEPS, CHUNK):
        progress = Progress(done, NUM_STEPS, NAN, NAN, NAN)
        logger.debug("looking for the nearest image", extra={"progress": progress, "unit": "step"})
        z, mean, square = steps_fn(tf.constant(done), z, mean, square)
    end = Progress(NUM_STEPS, NUM_STEPS, NAN, NAN, NAN)
    logger.debug("looking for the nearest image", extra={"progress": end, "unit": "step"})
    both = tf.concat([z, starts], 0)
    loss = tf.where(tf.math.is_finite(total := measure(both)[0]), total, math.inf)
    best = int(tf.argmin(loss))
    return both[best : best + 1]
