"""What a generator's images tell of a classifier that does not say: the image range that it takes, and what its outputs are.

Images of prior draws are shown to the classifier in each usual range. In the wrong one, a network is blind (all images are
nearly black to it and all predictions the same), or it prefers few classes, or it is saturated. So the score of a range is

    (I + V) / 2 * w    in nats

I: the mutual information between image and predicted class, the mean KL divergence of p(. | image) to the mean prediction: high
where predictions are sharp and differ. V: the entropy of the votes, the most likely class of each image, which does not grow
with the mere size of the pixels, as I does. w: 1 where the median log-odds of the first class to the second are those of a
trained network, less where they are hardly above 0 or beyond `SATURATED`: cross-entropy in float32 has no gradient left where
1 - p rounds to 0, at 17 nats, so that training goes no further.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import UserError, fail
from tfgradgen.models.loading.ranges import BYTES, SYMMETRIC, UNIT

NUM_DRAWS, BATCH = 64, 16
NUM_CLASSES_SHOWN = 8  # of a generator that takes the class: images of one class alone would tell little
SEED = (0, 11)
RANGES = (UNIT, SYMMETRIC, BYTES)
SATURATED, BLIND = 20.0, 0.1  # nats, of the median log-odds
CLOSE = 0.8  # of the best score: from here a runner-up may be the right one
FLAT = 0.05  # nats: below, the best score tells nothing
SAME = 0.01  # mean total variation of two ranges' predictions that differ by nothing of interest
LEEWAY, SUM_LEEWAY = 1e-3, 1e-2  # of a probability, and of the sum of a row, beyond what is right


class RangeGuess(NamedTuple):
    """image_range: the best. scores: of all that were tried, the best first. doubt: why it may be wrong, '' if it is clear."""

    image_range: tuple[float, float]
    scores: tuple[tuple[tuple[float, float], float], ...]
    doubt: str


def prior_images(generator: Any, max_batch: int | None = None) -> tf.Tensor:
    """Images [NUM_DRAWS, ...] of prior draws, the same for one generator; of several classes where it takes the target's."""
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
    """`fn(image)` [B, K], `max_batch` rows at a time."""
    size = min(max_batch or BATCH, BATCH)
    return np.concatenate([np.asarray(fn(image[k : k + size])) for k in range(0, len(image), size)])


def range_score(log_probs: np.ndarray, is_exclusive: bool) -> float:
    """The score of the module's head from log p(class | image) [B, K] in nats; of classes that do not exclude one another,
    I is the sum over classes of that between the image and whether it shows the class."""
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
    """The best range from the predictions in each; `remedy` says how to give it."""
    scores = {bounds: range_score(each, is_exclusive) for bounds, each in log_probs.items()}
    (best, top), (second, other), *_ = ranked = sorted(scores.items(), key=lambda item: -item[1])
    doubt = ""
    if top < FLAT:
        doubt = f"predictions hardly differ between images in any usual image range, {range_text(best)} is taken; {remedy}"
    elif other > CLOSE * top and _apart(log_probs[best], log_probs[second]) > SAME:
        doubt = (
            f"image range {range_text(best)} scores {top:.2f} and {range_text(second)} {other:.2f}, which is close; {remedy}"
        )
    return RangeGuess(best, tuple(ranked), doubt)


def guess_output(scores: np.ndarray) -> str:
    """'probabilities' where each row is a distribution, or the one score of a row is within 0..1; 'scores' where several are
    within 0..1 but no distribution, else 'logits'."""
    if not (scores.min() >= 0 and scores.max() <= 1):
        return "logits"
    return "probabilities" if scores.shape[1] == 1 or sums_to_one(scores) else "scores"


def sums_to_one(scores: np.ndarray) -> bool:
    """Whether each row does, within what half precision leaves of a sum."""
    return bool(np.allclose(scores.sum(1), 1, atol=1e-3))


def check_output(scores: np.ndarray, output: str, where: str, way: str) -> str:
    """Compares what a classifier gives with what it was said to give.

    Args:
      scores: [B, K] of images.
      output: 'logits', 'probabilities' or 'scores'.
      way: how a person says otherwise, as '--classifier_output'.

    Returns:
      A doubt, '' where there is none.

    Raises:
      UserError: probabilities or scores outside [0, 1], or probabilities whose sums are not one.
    """
    if not np.isfinite(scores).all():
        return ""  # the checks before a run name it
    low, high, sums = float(scores.min()), float(scores.max()), scores.sum(1)
    if output == "logits":
        is_distribution = low >= 0 and high <= 1 and (scores.shape[1] == 1 or sums_to_one(scores))
        what = "lie in [0, 1]" if scores.shape[1] == 1 else "lie in [0, 1] and sum to one"
        return f"its logits {what}, as probabilities do; {way}=probabilities if they are" if is_distribution else ""
    if low < -LEEWAY or high > 1 + LEEWAY:
        raise _refused(f"{output} from 0 to 1", f"{low:.3g} to {high:.3g} at prior draws", where, f"{way}=logits")
    if output == "probabilities" and scores.shape[1] > 1 and np.abs(sums - 1).max() > SUM_LEEWAY:
        got = f"sums of {sums.min():.3g} to {sums.max():.3g} at prior draws"
        raise _refused("probabilities that sum to one", got, where, f"{way}=scores, a probability of each class for itself")
    return ""


def range_text(bounds: tuple[float, float]) -> str:
    """(0.0, 1.0) as [0, 1]."""
    return f"[{bounds[0]:g}, {bounds[1]:g}]"


def _refused(expected: str, got: str, where: str, remedy: str) -> UserError:
    return fail(f"model {where} output", expected, got, f"give {remedy}")


def _entropy(prob: np.ndarray) -> Any:
    """In nats, along the last axis."""
    return -(prob * np.log(np.maximum(prob, 1e-300))).sum(-1)


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    return float(0.5 * np.abs(np.exp(first) - np.exp(second)).sum(1).mean())
