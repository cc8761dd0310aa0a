"""Images, sounds and clips as they are stored, and a check that the p(class) beside each is that of the stored one."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen.core.contracts import Draws
from tfgradgen.diagnostics.preflight import XLA_TOLERANCE
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import DECODE_BATCH, medium_of
from tfgradgen.posterior import ClassPosterior

SHOWN = 0.005  # half a unit in the last digit of a caption
LEAST = 1e-4  # tolerance of p(class), in addition to the tolerance in nats
NUM_DITHERS = 4  # evaluations that measure the effect of rounding on the classifier
NUM_DEVIATIONS = 10  # largest tolerated multiple of that; chance exceeds it in 6e-4 of images (Student's t, four dithers)


def last_images(posterior: ClassPosterior, draws: Draws, max_batch: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Return each chain's last draw as an image, sound or clip, and warnings.

    They are generated again from z, one batch at a time. A random model, or one that depends on the whole batch, may return
    others than those that the chains accepted. The classifier gets each again, before and after the rounding with which its
    medium stores it. Before, p(class) must be that of the draw within `XLA_TOLERANCE` nats and the cancellation error of
    float32. After, it may differ by `NUM_DEVIATIONS` times the effect of noise of the same size, or by `SHOWN`.

    Returns:
      What is stored, [num_chains, ...] as the generator's medium has it, and the warnings, one line each.
    """
    size = min(max_batch or DECODE_BATCH, DECODE_BATCH)
    rng = np.random.default_rng(0)
    stored, columns, most = [], [], 0.0
    labels = tf.fill([len(draws.z[-1])], posterior.label) if not posterior.is_batched else posterior.label
    for k in range(0, len(draws.z[-1]), size):
        image = np.asarray(posterior.generator(tf.constant(draws.z[-1][k : k + size])), np.float32)
        medium, most = medium_of(posterior.generator, image.shape[1:]), max(most, float(np.abs(image).max()))
        stored.append(medium.stored(image))
        rounded, half = medium.values(stored[-1]), medium.half_step
        dithered = [image + rng.uniform(-half, half, image.shape).astype(np.float32) for _ in range(NUM_DITHERS)]
        columns.append(np.stack([_log_odds(posterior, each, labels[k : k + size]) for each in (image, rounded, *dithered)]))
    odds = np.concatenate(columns, 1)
    return np.concatenate(stored), [*_of_draw(odds[0], posterior, draws, medium), *_of_rounding(odds, most > 1.01, medium)]


def _log_odds(posterior: ClassPosterior, image: np.ndarray, labels: tf.Tensor) -> np.ndarray:
    """Return log p - log(1 - p) [B] of `labels` int32 [B]; infinite if the classifier has no other class."""
    logits = tf.nn.log_softmax(posterior.classifier(tf.constant(image)))
    is_own = tf.one_hot(labels, logits.shape[1], True, False)
    others = tf.where(is_own, -np.inf, logits)
    log_odds: np.ndarray = (tf.gather(logits, labels, batch_dims=1) - tf.reduce_logsumexp(others, 1)).numpy()
    return log_odds.astype(np.float64)


def _prob(log_odds: Any) -> np.ndarray:
    prob: np.ndarray = np.exp(-np.logaddexp(0.0, -np.asarray(log_odds)))
    return prob


def _of_draw(log_odds: np.ndarray, posterior: ClassPosterior, draws: Draws, medium: Medium) -> list[str]:
    drawn, found = np.asarray(draws.class_prob[-1], np.float64), _prob(log_odds)
    target = np.abs(np.nan_to_num(np.asarray(draws.target_log_prob[-1], np.float32)))
    nats = XLA_TOLERANCE + 4 * np.spacing(target) * float(posterior.temperature)
    return _line(
        drawn,
        found,
        found * nats + LEAST,
        medium,
        f"the generator gives another {medium.noun} of the same z than in the run: it is random or depends on the whole batch; "
        "remove that from the model",
    )


def _of_rounding(odds: np.ndarray, is_cut: bool, medium: Medium) -> list[str]:
    image, rounded, *dithered = odds
    with np.errstate(invalid="ignore"):  # infinite log-odds have no difference
        moved = np.nan_to_num(np.square(np.stack(dithered) - image))
    scale = NUM_DEVIATIONS * np.sqrt(np.maximum(moved.mean(0), moved.mean()))
    before, after = _prob(image), _prob(rounded)
    tolerance = np.maximum(_prob(image + scale) - before, before - _prob(image - scale)) + SHOWN
    why = f"rounding to {medium.bits} bits changes what the classifier gets"
    if is_cut:
        why = f"values outside [-1, 1] are cut off where {medium.plural} are stored: give the generator's image_range"
    return _line(before, after, tolerance, medium, why)


def _line(drawn: np.ndarray, found: np.ndarray, tolerance: np.ndarray, medium: Medium, why: str) -> list[str]:
    apart = np.nan_to_num(np.abs(found - drawn))
    is_wrong = apart > tolerance
    if not is_wrong.any():
        return []
    worst = int(apart.argmax())
    return [
        f"p(class) of {is_wrong.sum()} of {len(apart)} stored {medium.plural} is not that of their draws "
        f"({drawn[worst]:.3g} of a draw, {found[worst]:.3g} of its {medium.noun}): {why}"
    ]
