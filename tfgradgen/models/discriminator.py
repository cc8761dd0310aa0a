"""Discriminators: classifiers with a class `natural`, or the adversary of a GAN."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf

from tfgradgen.core.checks import check_choice, fail
from tfgradgen.models.classifier import Classifier, assemble, load_as, logit_of
from tfgradgen.models.loading.families import resolve_role
from tfgradgen.models.loading.roles import BoundSignature, bind_signature
from tfgradgen.models.loading.saved_model import open_saved_model
from tfgradgen.models.loading.settings import SCORES, ClassifierSettings, settings_of
from tfgradgen.models.shipped import default_model

NATURAL = "natural"
LABELS = ("generated", NATURAL)


def load_discriminator(
    path: str | Path | None = None,
    *,
    labels: str | Sequence[Any] | None = None,
    image_range: tuple[float, float] | None = None,
    image_size: tuple[int, int] | None = None,
    output: str | None = None,
    channels: str | None = None,
    layout: str | None = None,
    rate: float | None = None,
    signature: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    **unknown: NoReturn,
) -> Classifier:
    """Load a classifier with a label `natural`, or the discriminator of a GAN.

    The score of a GAN's discriminator (BigBiGAN, compare_gan) becomes the logit of `natural` against `generated`; a probability
    (S3GAN) is converted to a logit. A discriminator that also takes a latent point or a class gets the origin or class 0.

    Args:
      path: As in `load_classifier`; by default the discriminator that comes with the package.
      labels: As in `load_classifier`; likewise all further arguments.

    Raises:
      UserError: The model does not load or has no label `natural`, or an argument is unknown.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "unknown")}
    given = settings_of(ClassifierSettings, settings | unknown)
    path = default_model("discriminator") if path is None else path
    opened = open_saved_model(path, given.tags, "disc", given.allow_unknown_ops)
    use, assumed = resolve_role(opened, "discriminator")
    if not use.is_known:
        classifier = load_as("discriminator", path, given)
        natural_index(classifier)
        return classifier
    bound = bind_signature(opened, "discriminator", use, given)
    scores = check_choice(f"model {path} output", given.output or opened.metadata.get("output") or use.scores, SCORES)
    whole = ClassifierSettings(**{**given.__dict__, "labels": LABELS, "output": "logits"})
    return assemble(opened, whole, use, bound._replace(fn=_two_logits(bound, scores)), assumed)


def natural_index(classifier: Classifier) -> int:
    """Return the index of the output `natural` of `classifier`; raise `UserError` if there is none."""
    names = [label.name for label in classifier.labels]
    if NATURAL not in names:
        raise fail("discriminator", f"a classifier with a label '{NATURAL}'", ", ".join(names[:5]), "name it in model.json")
    if len(names) < 2:
        remedy = "export two logits, one of them a constant 0"
        raise fail("discriminator", f"an output besides '{NATURAL}'", "one output", remedy)
    return names.index(NATURAL)


def natural_log_odds(classifier: Classifier) -> Callable[[Any], Any]:
    """Return the function image [B, height, width, channels] in [-1, 1] -> log-odds of natural [B], in nats.

    Its `sha256` is that of the classifier's files.
    """
    index = natural_index(classifier)

    def log_odds(image: tf.Tensor) -> tf.Tensor:
        logits = classifier(image)
        others = tf.concat([logits[:, :index], logits[:, index + 1 :]], 1)
        return logits[:, index] - tf.reduce_logsumexp(others, 1)

    log_odds.sha256 = classifier.sha256  # type: ignore[attr-defined]
    return log_odds


def _two_logits(bound: BoundSignature, scores: str) -> Callable[[Any], Any]:
    def score(image: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(image)[0]
        more = {name: tf.zeros(tf.concat([[rows], spec.shape[1:]], 0), spec.dtype) for name, spec in bound.extras.items()}
        natural = tf.cast(tf.reshape(bound.fn({bound.main: image, **more}), [-1, 1]), tf.float32)
        natural = natural if scores == "logits" else logit_of(natural)
        return tf.concat([tf.zeros_like(natural), natural], 1)

    return lambda inputs: score(inputs[bound.main])
