"""Checks of the models at prior draws without gradients. Every method makes them before its first step.

The thresholds come from 64 prior draws. The valid pairs of models are the shipped pair, the toy pair of the tests, and
stand-ins of five hub classifiers with six hub generators and with the shipped one. The bad pair is the shipped one with
the generator's images divided by 127.5 a second time.

| quantity | least of the valid pairs | bad pair | bound |
|---|---|---|---|
| standard deviation of log p(class), nats, over all classes | 0.20 | 0.032 | 0.1 |
| mutual information of image and predicted class, nats | 0.23 | 0.0001 | 0.02 |
| share of the draws outside the most frequently predicted class | 0.52 | 0 | above 0 |
| largest p(class), for 21 and for about 1000 classes | 0.47 and 1e-7 | 0 | 5e-7 and 1e-8 |
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import as_seed
from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Networks, is_channels_first
from tfgradgen.core.text import value_text
from tfgradgen.diagnostics.preflight import LIKELY, ROW_TOLERANCE, Check, share
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import MEDIA, medium_of

NUM_PRIOR = 64  # prior draws
NUM_ROWS = 8  # prior draws that are evaluated again, and rows of a batch
# Evaluations of a single point. With the five of whole batches there are 20. If a model flips one coin per call, all agree with
# probability 2e-6; if it flips one per row, with 1e-9.
NUM_ALONE = 15
NUM_FORWARD = NUM_PRIOR + 4 * NUM_ROWS + NUM_ALONE  # cost of the checks
MIN_SPREAD = 0.1  # nats, of log p(class); at it, the posterior is within spread ** 2 / 2 = 0.005 nats of the prior
# If nearly all prior draws meet a condition, its log p varies by at most -log(LIKELY). A classifier that always returns 1 does
# not vary at all.
MIN_SPREAD_LIKELY = 1e-3
MIN_INFORMATION = 0.02  # nats
LEAST_REACH = 1e-5  # bound on the largest p(class), as a multiple of 1 / num_classes
MIN_CONFIDENCE = 1.5  # bound on the largest probability of any class, as a multiple of 1 / num_classes
SUM_TOLERANCE = 1e-3  # of the sum of probabilities, which may be rounded to 16 bits
MAX_PIXEL = 1.04  # for generators that overshoot their range by 2 % of its width
PRIOR_SEED = 0x5EED

# Probabilities in the place of logits are valid numbers, but give a far flatter likelihood.
SOFTMAX = Check(
    "logits",
    False,
    "logits or log-probabilities from the classifier",
    "rows in [0, 1] that sum to 1, as probabilities do",
    "leave its softmax out, or return the logarithm of its output",
    is_grave=False,
)
INPUT_REMEDY = "check the classifier's input range (--classifier_range), the order of its labels, and the generator's range"


class Output(NamedTuple):
    """The outputs of the networks for a batch, all float32.

    Attributes:
      image: [B, ...].
      log_probs: [B, num_classes], log-probabilities of the classes.
      energy: [B], log-odds of the discriminator, in nats.
      is_prob: [B], 1 where the classifier's row lies in [0, 1] and sums to 1, as probabilities do; otherwise 0.
    """

    image: np.ndarray
    log_probs: np.ndarray
    energy: np.ndarray
    is_prob: np.ndarray


class Evidence(NamedTuple):
    """The result of evaluating networks at `NUM_PRIOR` prior draws.

    Attributes:
      checks: The checks that do not depend on the label.
      log_probs: [NUM_PRIOR, num_classes] float32.
      energy: [NUM_PRIOR] float32; 0 without a discriminator.
      medium: What the generator gives.
    """

    checks: list[Check]
    log_probs: np.ndarray
    energy: np.ndarray
    medium: Medium

    def points(self, label: int, num: int) -> np.ndarray:
        """Return the indices of the first `num` prior draws where the target of `label` is finite.

        If there are fewer, others follow them.
        """
        finite = np.isfinite(self.log_probs[:, label]) & np.isfinite(self.energy)
        return np.argsort(~finite, kind="stable")[:num]


def prior_points(latent_dim: int) -> tf.Tensor:
    """Return the prior draws [NUM_PRIOR, latent_dim] that all checks use, which are the same in every run."""
    return tf.random.stateless_normal([NUM_PRIOR, latent_dim], as_seed(PRIOR_SEED))


def evaluate(networks: Networks, z: tf.Tensor) -> Output:
    """Evaluate the networks once, eagerly, at `z` [B, latent_dim].

    Raises:
      UserError: The image or the logits do not have the shape or dtype that `GeneratorLike` and `ClassifierLike` promise.
    """
    generator, classifier, discriminator, *_ = networks
    image = _tensor("generator", generator(z))
    medium = medium_shown(generator, image)
    check_image(image, len(z), medium)
    logits = _tensor("classifier", classifier(image))
    if logits.shape != (len(z), classifier.num_classes) or logits.dtype != tf.float32:
        raise fail(
            "classifier",
            f"float32 logits [{len(z)}, {classifier.num_classes}], a row for each of {len(z)} {medium.plural}",
            f"{logits.dtype.name} {list(logits.shape)} for {image.dtype.name} {medium.plural}",
            f"return one row of num_classes logits for each {medium.noun}",
        )
    energy = tf.zeros([len(z)]) if discriminator is None else _tensor("discriminator", discriminator(image))
    if energy.shape != (len(z),):
        expected = f"one value for each of {len(z)} {medium.plural}"
        raise fail("discriminator", expected, list(energy.shape), "return shape [batch]")
    rows = logits.numpy().astype(np.float64)
    is_prob = ((rows >= 0) & (rows <= 1)).all(1) & (np.abs(rows.sum(1) - 1) < SUM_TOLERANCE)
    return Output(image.numpy(), tf.nn.log_softmax(logits).numpy(), energy.numpy(), is_prob.astype(np.float32))


def _tensor(role: str, output: Any) -> tf.Tensor:
    try:
        return tf.convert_to_tensor(output)
    except (TypeError, ValueError) as error:
        raise fail(role, "one tensor as output", type(output).__name__, "return a float32 tensor") from error


def medium_shown(generator: Any, image: Any) -> Medium:
    """Return the medium of `image` [B, ...] from `generator`; images if none has such axes."""
    try:
        return medium_of(generator, image.shape[1:])
    except ValueError:
        return Image(())


def check_image(image: tf.Tensor, num_rows: int, medium: Medium) -> None:
    """Raise `UserError` unless `image` is a batch of `num_rows` images [height, width, channels], sounds or clips."""
    shape = list(image.shape)
    if is_channels_first(shape[1:]):
        raise fail(
            "generator",
            "images [batch, height, width, channels]",
            f"{shape}, channels first",
            "return tf.transpose(image, [0, 2, 3, 1])",
        )
    if (
        len(shape) - 1 not in [len(medium.axes) for medium in MEDIA.values()]
        or shape[0] != num_rows
        or 0 in shape
        or not image.dtype.is_floating
    ):
        raise fail(
            "generator",
            f"floating-point {medium.plural} [{', '.join([str(num_rows), *medium.axes])}], a row for each of {num_rows} latent "
            "points",
            f"{image.dtype.name} {shape}",
            f"return one {medium.noun} for each latent point",
        )


def examine(networks: Networks, random_ops_fn: Callable[[], Sequence[str]]) -> Evidence:
    """Evaluate `networks` at prior draws, `NUM_FORWARD` rows in total, in batches of at most `NUM_ROWS`.

    Args:
      networks: The models.
      random_ops_fn: Returns the names of the models' random operations; called if the models are not deterministic.

    Raises:
      UserError: See `evaluate`.
    """
    points = prior_points(networks.generator.latent_dim)
    size = min(NUM_ROWS, networks.max_batch or NUM_ROWS)
    first = evaluate(networks, points[:size])
    later = [evaluate(networks, points[k : k + size]) for k in range(size, NUM_PRIOR, size)]
    log_probs = np.concatenate([output.log_probs for output in (first, *later)])
    energy = np.concatenate([output.energy for output in (first, *later)])
    images = [output.image for output in (first, *later)]
    repeats = [evaluate(networks, points[:size]) for _ in range(2)]
    alone = [evaluate(networks, points[:1]) for _ in range(NUM_ALONE)]
    copies = evaluate(networks, tf.repeat(points[:1], size, 0))
    reversed_ = evaluate(networks, tf.reverse(points[:size], [0]))
    is_same = all(map(_same_as(first), repeats)) and all(map(_same_as(alone[0]), alone[1:]))
    medium = medium_shown(networks.generator, images[0])
    checks = [*image_checks(images, medium), _determinism(is_same, random_ops_fn)]
    if is_same:
        rows = [
            (first, Output(*(column[::-1] for column in reversed_))),
            (Output(*(np.repeat(column[:1], size, 0) for column in first)), copies),
            (Output(*(column[:1] for column in first)), alone[0]),
        ]
        checks.append(_rows([apart(*pair) for pair in rows], medium))
    is_of_one_class = getattr(networks.generator, "generator_class", None) == "target"
    if networks.discriminator is not None and all(check.is_ok for check in checks if check.what == "generator"):
        checks.append(_energy_check(energy))
    if networks.classifier.num_classes > 1 and all(output.is_prob.all() for output in (first, *later)):
        checks.append(SOFTMAX)
    checks += class_checks(log_probs, networks.classifier, medium, is_of_one_class)
    return Evidence(checks, log_probs, energy, medium)


def _energy_check(energy: np.ndarray) -> Check:
    """Check a discriminator's log-odds [B]."""
    finite = np.isfinite(energy)
    return Check(
        "discriminator",
        bool(finite.all()),
        "finite log-odds at prior draws",
        share(finite),
        "the discriminator gives NaN or inf for part of z, and the draws leave that part out; check its weights and its range",
        is_grave=not finite.any(),
    )


def _same_as(first: Output) -> Callable[[Output], bool]:
    return lambda other: all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, other, strict=True))


def apart(first: Output, other: Output) -> tuple[float, float]:
    """Return the differences between two evaluations of the same points, scaled like rounding errors.

    Returns:
      The difference of the images, relative to the largest value if it is above 1, and that of log-probabilities and energies
      in nats, relative for values beyond -1 or 1.
    """
    scale = max(1.0, float(np.nanmax(np.abs(first.image), initial=0.0)))
    pixels = float(np.nan_to_num(np.abs(other.image - first.image)).max()) / scale
    nats = np.nan_to_num(np.abs(other.log_probs - first.log_probs) / np.maximum(np.abs(first.log_probs), 1.0)).max()
    energy = np.nan_to_num(np.abs(other.energy - first.energy) / np.maximum(np.abs(first.energy), 1.0)).max()
    return pixels, float(max(nats, energy))


def _determinism(is_same: bool, random_ops_fn: Callable[[], Sequence[str]]) -> Check:
    names = [] if is_same else random_ops_fn()
    by = f", random operation {', '.join(names[:2])}" if names else ""
    return Check(
        "determinism",
        is_same,
        "the same bits from two evaluations",
        "the same" if is_same else f"others{by}",
        "remove noise, dropout and augmentation from the model; a chain needs one density",
    )


def _rows(differences: Sequence[tuple[float, float]], medium: Medium) -> Check:
    pixels, nats = (max(values) for values in zip(*differences, strict=True))
    return Check(
        "rows",
        pixels <= ROW_TOLERANCE and nats <= ROW_TOLERANCE,
        "the same of a latent point whatever others are in its batch",
        "the same" if pixels == nats == 0 else f"{medium.plural} {pixels:.1g} and log-probabilities {nats:.1g} apart",
        "remove operations over the whole batch, such as its mean, from the model: chains would influence each other",
    )


def image_checks(images: Sequence[np.ndarray], medium: Medium) -> list[Check]:
    """Check that images, or what `medium` has, in batches [B, ...] are finite, in range and varied."""
    whole = np.concatenate([np.isfinite(batch).all(tuple(range(1, batch.ndim))) for batch in images])
    low, high = (fn([fn(batch[np.isfinite(batch)], initial=0.0) for batch in images]) for fn in (np.min, np.max))
    variety = float(np.std(images[0], 0).mean()) if whole.all() else np.inf
    return [
        Check(
            "generator",
            bool(whole.all()),
            f"{medium.plural} without NaN or inf",
            share(whole),
            "the generator gives NaN or inf for part of z; check its weights, or export it in float32",
            is_grave=not whole.any(),
        ),
        Check(
            medium.noun,
            bool(low >= -MAX_PIXEL and high <= MAX_PIXEL),
            f"{images[0].dtype.name} {list(images[0].shape[1:])} in [-1, 1]",
            f"{low:.3g} to {high:.3g}",
            "give the generator's image_range",
            is_grave=False,
        ),
        Check(
            "variety",
            variety > 1e-3,
            f"{medium.plural} that differ from z to z",
            f"a standard deviation of {variety:.2g} a {medium.element}",
            "check latent_dim and prior of the generator",
            is_grave=False,
        ),
    ]


def class_checks(log_probs: np.ndarray, classifier: Any, medium: Medium, is_of_one_class: bool = False) -> Iterable[Check]:
    """Check that a classifier distinguishes prior draws by `log_probs` [B, num_classes].

    Classifiers of two classes are not checked: one of two, such as a condition, may well be rare.

    Args:
      log_probs: Log-probabilities of the classes.
      classifier: The classifier, for the names of its classes.
      medium: What it classifies.
      is_of_one_class: Whether all images are of the class that the generator was asked for; they are not checked then.
    """
    finite = np.isfinite(log_probs).all(1)
    num_classes = log_probs.shape[1]
    if num_classes < 3 or not finite.any() or is_of_one_class:
        return
    log_probs = log_probs[finite].astype(np.float64)
    probs = np.exp(log_probs)
    shares = np.bincount(probs.argmax(1), minlength=num_classes) / len(probs)
    information = float((probs * (log_probs - np.log(np.maximum(probs.mean(0), 1e-300)))).sum(1).mean())
    confidence, top = float(probs.max()), int(shares.argmax())
    name = value_text(classifier.labels[top].name) if hasattr(classifier, "labels") else f"class {top}"
    found = f"{information:.3g} nats about the class, {shares[top]:.0%} most like {name}, no p above {confidence:.3f}"
    yield Check(
        "classes",
        information > MIN_INFORMATION and shares[top] < 1 and confidence > MIN_CONFIDENCE / num_classes,
        f"{medium.plural} of prior draws that the classifier tells apart",
        found,
        INPUT_REMEDY,
        is_grave=False,
    )


def label_checks(log_prob: np.ndarray, num_classes: int, medium: Medium, temperature: float = 1.0) -> list[Check]:
    """Check log p(class) [B] at prior draws of `medium`.

    It must be finite, vary enough at the likelihood's `temperature`, and be large enough somewhere.
    """
    finite = np.isfinite(log_prob)
    found = [
        Check(
            "p(class)",
            bool(finite.all()),
            "a finite log-likelihood at prior draws",
            share(finite),
            "a model gives NaN or inf for part of z, and the draws leave that part out; check its weights and its range",
            is_grave=not finite.any(),
        )
    ]
    if not finite.any():
        return found
    values = log_prob[finite].astype(np.float64)
    least, most, spread = np.exp(values.min()), np.exp(values.max()), float(values.std()) / temperature
    enough = MIN_SPREAD if least < LIKELY else MIN_SPREAD_LIKELY
    bound = LEAST_REACH / num_classes
    seen = f"{least:.4g} to {most:.4g} at {len(values)} draws"
    found.append(
        Check(
            "p(class)",
            spread >= enough or len(values) < 2,
            f"a p(class) that varies over prior draws, by {enough:g} nats at least",
            f"{seen}, {spread:.2g} nats",
            f"the draws would hardly differ from the prior's; {INPUT_REMEDY}",
            is_grave=False,
        )
    )
    found.append(
        Check(
            "p(class)",
            most >= bound,
            f"p(class) above {bound:.0e} at some prior draw",
            seen,
            f"the generator's {medium.plural} look nothing like the class; {INPUT_REMEDY}",
            is_grave=False,
        )
    )
    return found
