"""Guesses the image range and the kind of output of a classifier from its answers to a generator's images.

The classifier sees images of prior draws in each common range. In a wrong range a network is blind (all images are nearly
black, and all predictions equal), prefers few classes, or is saturated. The score of a range is

    (I + V) / 2 * w    in nats

I is the mutual information between image and predicted class, the mean KL divergence from the mean prediction to p(. | image).
It is high if predictions are sharp and differ.

V is the entropy of the votes, the most likely class of each image. Unlike I, it does not grow with the scale of the pixels.

w is 1 if the median log-odds of the first class to the second are typical of a trained network. It is smaller if they are close
to 0 or above `SATURATED`: beyond 17 nats 1 - p rounds to 0, so cross-entropy in float32 has no gradient and training stops.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import UserError, fail
from tfgradgen.models.loading.ranges import BYTES, SYMMETRIC, UNIT

NUM_DRAWS, BATCH = 64, 16
NUM_CLASSES_SHOWN = 8  # classes of a class-conditional generator; images of a single class are not informative
SEED = (0, 11)
RANGES = (UNIT, SYMMETRIC, BYTES)
SATURATED, BLIND = 20.0, 0.1  # bounds of the median log-odds, in nats
CLOSE = 0.8  # share of the best score from which the second-best range may be the right one
FLAT = 0.05  # nats; a lower best score is not informative
SAME = 0.01  # mean total variation distance below which the predictions in two ranges count as equal
LEEWAY, SUM_LEEWAY = 1e-3, 1e-2  # tolerances of a probability and of the sum of a row


class RangeGuess(NamedTuple):
    """A guessed image range.

    Attributes:
      image_range: The range with the highest score.
      scores: All ranges with their scores, best first.
      warning: Why the guess may be wrong; '' if it is clear.
    """

    image_range: tuple[float, float]
    scores: tuple[tuple[tuple[float, float], float], ...]
    warning: str


def prior_images(generator: Any, max_batch: int | None = None) -> tf.Tensor:
    """Return images [NUM_DRAWS, ...] of prior draws with a fixed seed, of several classes if the generator takes a class."""
    size = min(max_batch or BATCH, BATCH)
    classes = getattr(generator, "classes", None)
    shown: list[Any] = [generator]
    if classes is not None and classes.mode == "target":
        count = min(len(classes.labels), NUM_CLASSES_SHOWN)
        shown = [generator.of_class(k * len(classes.labels) // count) for k in range(count)]
    z = tf.random.stateless_normal([NUM_DRAWS, generator.latent_dim], SEED)
    each = -(-NUM_DRAWS // len(shown))
    parts = [(fn, z[k * each : (k + 1) * each]) for k, fn in enumerate(shown)]
    return tf.concat([fn(rows[k : k + size]) for fn, rows in parts for k in range(0, len(rows), size)], 0)


def in_parts(fn: Callable[[Any], Any], image: tf.Tensor, max_batch: int | None = None) -> np.ndarray:
    """Return `fn(image)` [B, K], evaluated `max_batch` rows at a time."""
    size = min(max_batch or BATCH, BATCH)
    return np.concatenate([np.asarray(fn(image[k : k + size])) for k in range(0, len(image), size)])


def range_score(log_probs: np.ndarray, is_exclusive: bool) -> float:
    """Return the score that the module's docstring defines, from log p(class | image) [B, K] in nats.

    If classes do not exclude one another, I is the sum over classes of the mutual information between the image and the
    presence of the class.
    """
    if not np.isfinite(log_probs).all():
        return 0.0
    prob = np.exp(np.asarray(log_probs, np.float64))
    inner, votes = prob, np.bincount(prob.argmax(1), minlength=prob.shape[1]) / len(prob)
    information = _entropy(inner.mean(0)) - _entropy(inner).mean()
    if not is_exclusive:
        two = np.stack([prob, 1.0 - prob], -1)
        information = (_entropy(two.mean(0)) - _entropy(two).mean(0)).sum()
    ordered = np.sort(log_probs, 1)
    odds = float(np.median(ordered[:, -1] - ordered[:, -2])) if prob.shape[1] > 1 else float(np.median(np.abs(log_probs)))
    weight = min(1.0, odds / BLIND, SATURATED / max(odds, BLIND))
    return max(float((information + _entropy(votes)) / 2 * weight), 0.0)


def choose_range(log_probs: dict[tuple[float, float], np.ndarray], is_exclusive: bool, remedy: str) -> RangeGuess:
    """Return the best range given the predictions in each; `remedy` says how to set the range."""
    scores = {bounds: range_score(each, is_exclusive) for bounds, each in log_probs.items()}
    (best, top), (second, other), *_ = ranked = sorted(scores.items(), key=lambda item: -item[1])
    warning = ""
    if top < FLAT:
        warning = f"predictions hardly differ between draws in any common range; {range_text(best)} is assumed; {remedy}"
    elif other > CLOSE * top and _apart(log_probs[best], log_probs[second]) > SAME:
        warning = f"range {range_text(best)} scores {top:.2f} and {range_text(second)} {other:.2f}, which is close; {remedy}"
    return RangeGuess(best, tuple(ranked), warning)


def guess_output(scores: np.ndarray) -> str:
    """Guess the kind of output from scores [B, K].

    Returns:
      'probabilities' if each row sums to one, or has one value in 0..1; 'scores' for other values in 0..1; else 'logits'.
    """
    if not (scores.min() >= 0 and scores.max() <= 1):
        return "logits"
    return "probabilities" if scores.shape[1] == 1 or sums_to_one(scores) else "scores"


def sums_to_one(scores: np.ndarray) -> bool:
    """Return whether each row sums to one, within half precision."""
    return bool(np.allclose(scores.sum(1), 1, atol=1e-3))


def check_output(scores: np.ndarray, output: str, where: str, way: str) -> str:
    """Check the outputs of a classifier against its declared kind of output.

    Args:
      scores: Outputs [B, K] for some images.
      output: The declared kind: 'logits', 'probabilities' or 'scores'.
      where: The model, for errors.
      way: The flag that changes it, such as '--classifier_output'.

    Returns:
      Why the declaration may be wrong; '' if it seems right.

    Raises:
      UserError: Probabilities or scores outside [0, 1], or probabilities that do not sum to one.
    """
    if not np.isfinite(scores).all():
        return ""  # the checks before a run report this
    low, high, sums = float(scores.min()), float(scores.max()), scores.sum(1)
    if output == "logits":
        is_distribution = low >= 0 and high <= 1 and (scores.shape[1] == 1 or sums_to_one(scores))
        what = "lie in [0, 1]" if scores.shape[1] == 1 else "lie in [0, 1] and sum to one"
        return f"its logits {what}, as probabilities do; {way}=probabilities if they are" if is_distribution else ""
    if low < -LEEWAY or high > 1 + LEEWAY:
        raise _refused(f"{output} from 0 to 1", f"{low:.3g} to {high:.3g} at prior draws", where, f"{way}=logits")
    if output == "probabilities" and scores.shape[1] > 1 and np.abs(sums - 1).max() > SUM_LEEWAY:
        got = f"sums of {sums.min():.3g} to {sums.max():.3g} at prior draws"
        raise _refused("probabilities that sum to one", got, where, f"{way}=scores if each class has its own probability")
    return ""


def range_text(bounds: tuple[float, float]) -> str:
    """Format a range: (0.0, 1.0) as [0, 1]."""
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


def _refused(expected: str, got: str, where: str, remedy: str) -> UserError:
    return fail(f"model {where} output", expected, got, f"give {remedy}")


def _entropy(prob: np.ndarray) -> Any:
    """Return the entropy in nats, along the last axis."""
    return -(prob * np.log(np.maximum(prob, 1e-300))).sum(-1)


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(0.5 * np.abs(np.exp(first) - np.exp(second)).sum(1).mean())
