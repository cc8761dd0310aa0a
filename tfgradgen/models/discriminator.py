"""A discriminator: a classifier with a class `natural`, or the score that a generator's adversary gives a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tensorflow as tf

from tfgradgen.core.checks import check_choice, fail
from tfgradgen.models.classifier import Classifier, assemble, load_as, logit_of
from tfgradgen.models.loading.families import use_of
from tfgradgen.models.loading.roles import Bound, bind
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
    signature: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    **unknown: NoReturn,
) -> Classifier:
    """Loads a classifier one of whose labels is `natural`.

    Of a family with a discriminator (BigBiGAN, compare_gan) its score is the logit of `natural` against `generated`, or is made
    it where it is a probability (S3GAN); if it looks at latent points too, it is shown the origin, if at classes, class 0.

    Args:
      path: as of `load_classifier`; by default the discriminator that comes with the package.
      labels, image_range, image_size, output, channels, layout, signature, tags, allow_unknown_ops: as there.

    Raises:
      UserError: no model there, it has no such label, or an unknown argument.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "unknown")}
    given = settings_of(ClassifierSettings, settings | unknown)
    path = default_model("discriminator") if path is None else path
    opened = open_saved_model(path, given.tags, "disc", given.allow_unknown_ops)
    use, assumed = use_of(opened, "discriminator")
    if not use.is_known:
        classifier = load_as("discriminator", path, given)
        natural_index(classifier)
        return classifier
    bound = bind(opened, "discriminator", use, given)
    scores = check_choice(f"model {path} output", given.output or opened.metadata.get("output") or use.scores, SCORES)
    whole = ClassifierSettings(**{**given.__dict__, "labels": LABELS, "output": "logits"})
    return assemble(opened, whole, use, bound._replace(fn=_two_logits(bound, scores)), assumed)


def natural_index(classifier: Classifier) -> int:
    """The output of `classifier` that stands for natural pictures; raises `UserError` where it has none."""
    names = [label.name for label in classifier.labels]
    if NATURAL not in names:
        raise fail("discriminator", f"a classifier with a label '{NATURAL}'", ", ".join(names[:5]), "name it in model.json")
    if len(names) < 2:
        raise fail(
            "discriminator", f"an output beside '{NATURAL}'", "one output only", "export two logits, one of them a constant 0"
        )
    return names.index(NATURAL)


def natural_log_odds(classifier: Classifier) -> Callable[[Any], Any]:
    """image [B, height, width, channels] in [-1, 1] -> log p(natural) - log(1 - p(natural)) [B], in nats; its `sha256` is that
    of the classifier's files."""
    index = natural_index(classifier)

    def log_odds(image: tf.Tensor) -> tf.Tensor:
        logits = classifier(image)
        others = tf.concat([logits[:, :index], logits[:, index + 1 :]], 1)
        return logits[:, index] - tf.reduce_logsumexp(others, 1)

    log_odds.sha256 = classifier.sha256  # type: ignore[attr-defined]
    return log_odds


def _two_logits(bound: Bound, scores: str) -> Callable[[Any], Any]:
    def score(image: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(image)[0]
        more = {name: tf.zeros(tf.concat([[rows], spec.shape[1:]], 0), spec.dtype) for name, spec in bound.extras.items()}
        natural = tf.cast(tf.reshape(bound.fn({bound.main: image, **more}), [-1, 1]), tf.float32)
        natural = natural if scores == "logits" else logit_of(natural)
        return tf.concat([tf.zeros_like(natural), natural], 1)

    return lambda inputs: score(inputs[bound.main])
