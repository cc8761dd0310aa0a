"""Classifiers with a common interface: images, sounds or clips in [-1, 1] to logits."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import TINY
from tfgradgen.core.checks import check_choice, fail
from tfgradgen.core.contracts import Networks
from tfgradgen.core.memo import per_networks, real
from tfgradgen.core.text import as_python, printable
from tfgradgen.media.medium import MAX_RATIO, Medium
from tfgradgen.media.registry import MEDIA
from tfgradgen.models.fitting import (
    RANGES,
    RangeGuess,
    check_output,
    choose_range,
    guess_output,
    in_parts,
    prior_images,
)
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.label_files import checked_count, find_labels, parse_content, read_label_file, read_labels, wrong_count
from tfgradgen.models.loading.families import RoleSpec, resolve_role
from tfgradgen.models.loading.layout import to_grey, to_rgb
from tfgradgen.models.loading.metadata import Label, parse_range
from tfgradgen.models.loading.ranges import BYTES, SYMMETRIC, UNIT, to_range
from tfgradgen.models.loading.rates import rate_of
from tfgradgen.models.loading.roles import BoundSignature, bind_signature
from tfgradgen.models.loading.saved_model import Opened, open_saved_model
from tfgradgen.models.loading.settings import (
    GREY,
    RGB,
    SCORES,
    ClassifierSettings,
    settings_of,
    with_card,
)
from tfgradgen.models.shipped import PHOTOGRAPHS, shipped_model
from tfgradgen.models.taking import channels_taken, frames_taken, hearing, kind_taken, length_taken, seeing, size_taken, tried

DEFAULT_SIZE, IMAGENET_SIZE = (64, 64), (224, 224)
IMAGENET_OUTPUTS, KINETICS_OUTPUTS = (1000, 1001), (400, 600, 700)
LARGEST = 1.0 - 2.0**-24  # the largest float32 below 1
BINARY_NAMES = ("negative", "positive")
C = TypeVar("C", bound="Classifier")
CARD = ("layout", "channels")  # settings that a model.json may give instead of a flag


@dataclass(frozen=True, eq=False)
class Classifier:
    """`classifier(image)`: image [B, height, width, channels] in [-1, 1], of any size -> logits [B, num_classes] float32.

    In place of images it may take sounds [B, samples] or clips [B, frames, height, width, channels]: see `medium`.

    Attributes:
      fn: The model: images in its own size and range -> its raw outputs.
      labels: One label per class, in the order of the logits.
      image_size: Shape of the model's input without batch and channels: (height, width); (samples,) or () for any length of
        sounds; (frames, height, width), with None for any number of frames.
      image_range: (low, high) of the model's input.
      output: What the model returns: 'logits'; 'probabilities', which sum to one over the classes; or 'scores', an independent
        probability of each class, which need a `ConditionClassifier`.
      path: Where the model was loaded from.
      sha256: Digest of its files; '' if it has none.
      assumed: Names of the settings that were guessed.
      module: The loaded SavedModel.
      signature: The signature in use, one of `signatures`.
      tags: Tags of the meta graph in use.
      signatures: All signatures, as text.
      channels: Number of channels of the input; None for any.
      is_binary: Whether the model has a single output, the logit or the probability of class 1 of two.
      wants: 'grey' or 'rgb', to which images are converted first; None for no conversion.
      range_scores: Scores of the image ranges that were tried with a generator's images.
      warnings: Reasons why a guess or a setting may be wrong, one line each.
      kind: Kind of medium (`media.registry.MEDIA`) that it takes.
      rate: Samples or frames per second that it takes; None for images.
      source_rate: Samples or frames per second that it is given; None for its own rate. `for_generator` sets it.
      given: The settings with which `load_classifier` made it; None for one made otherwise.
    """

    fn: Callable[[Any], Any]
    labels: tuple[Label, ...]
    image_size: tuple[int | None, ...]
    image_range: tuple[float, float] = SYMMETRIC
    output: str = "logits"
    path: str = ""
    sha256: str = ""
    assumed: tuple[str, ...] = ()
    module: Any = None
    signature: str = ""
    tags: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    channels: int | None = None
    is_binary: bool = False
    wants: str | None = None
    range_scores: tuple[tuple[tuple[float, float], float], ...] = ()
    warnings: tuple[str, ...] = ()
    kind: str = "image"
    rate: float | None = None
    source_rate: float | None = None
    given: dict[str, Any] | None = None

    @property
    def medium(self) -> Medium:
        """What it takes."""
        kind = MEDIA[self.kind]
        more = (self.channels,) if kind.has_channels else ()
        return kind((*(self.image_size or (None,)), *more), self.rate)

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def image_range_is_guessed(self) -> bool:
        """Whether the image range is only a guess that was not checked with a generator's images (`guess_image_range`)."""
        return "image_range" in self.assumed and not self.range_scores and not MEDIA[self.kind].usual_range

    def for_generator(self, generator: Any) -> "Classifier":
        """Return the classifier for a generator's images, which decide the image range if it is only a guess.

        It is then given sounds or clips at the generator's rate. `ClassPosterior` calls this, so that the library and the
        command line make the same guess.
        """
        is_other = self.at_rate_of(generator) is not self
        return _for_generator(Networks(generator, self)) if self.image_range_is_guessed or is_other else self

    def at_rate_of(self: C, generator: Any) -> C:
        """Return the classifier that is given sounds or clips at a generator's rate; itself if that is what it is given."""
        medium = getattr(generator, "medium", None)
        rate = medium.used_rate if isinstance(medium, Medium) and medium.kind == self.kind and medium.usual_rate else None
        if rate in (None, self.source_rate or self.rate):
            return self
        own = self.medium.used_rate
        if not 1 / MAX_RATIO <= rate / own <= MAX_RATIO:
            expected = f"a rate at most {MAX_RATIO:g} times that of the classifier, {own:g} per second, or less by that factor"
            raise fail("rate of the generator", expected, f"{rate:g} per second", "give the right one in model.json")
        return replace(self, source_rate=rate)

    def as_input(self, image: tf.Tensor) -> tf.Tensor:
        """Convert `image` to the size, rate, channels and range of the model's input."""
        medium = self.medium
        if len(image.shape) != len(medium.axes) + 1:
            expected = f"{medium.plural} [batch, {', '.join(medium.axes)}]"
            raise fail(f"model {self.path}", expected, f"shape {image.shape}", "use a generator that makes these")
        coloured = self._coloured(image) if medium.has_channels else image
        return to_range(medium.fitted(coloured, self.source_rate), self.image_range)

    def _coloured(self, image: tf.Tensor) -> tf.Tensor:
        """Convert grey to RGB if the model needs it; convert RGB to grey, which loses colour, only on request (`wants`)."""
        if image.shape[-1] == 1 and (self.channels == 3 or (self.channels is None and self.wants == RGB)):
            return to_rgb(image)
        if image.shape[-1] != 3 or self.wants != GREY:
            return image
        grey = to_grey(image)
        return to_rgb(grey) if self.channels == 3 else grey

    @property
    def is_exclusive(self) -> bool:
        """Whether an image shows exactly one of the classes, so that their probabilities sum to one."""
        return self.is_binary or self.output != "scores"

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        if not self.is_exclusive:
            raise fail(f"model {self.path}", "logits or probabilities", "scores", "use a condition on its classes")
        return self._log_scores(image)

    def log_probs(self, image: tf.Tensor) -> tf.Tensor:
        """Return log p(class | image) [B, num_classes] float32, in nats."""
        return self.log_probs_of(self.raw_scores(image))

    def raw_scores(self, image: tf.Tensor) -> tf.Tensor:
        """Return the outputs of the model itself, [B, num_classes] float32; [B, 1] if `is_binary`."""
        width = 1 if self.is_binary else self.num_classes
        return tf.ensure_shape(tf.cast(self.fn(self.as_input(image)), tf.float32), [None, width])

    def log_probs_of(self, scores: tf.Tensor) -> tf.Tensor:
        """Convert `raw_scores` to log p(class | image), as `log_probs` does."""
        log_scores = self._as_logs(scores)
        return tf.nn.log_softmax(log_scores) if self.is_exclusive else log_scores

    def _log_scores(self, image: tf.Tensor) -> tf.Tensor:
        return self._as_logs(self.raw_scores(image))

    def _as_logs(self, scores: tf.Tensor) -> tf.Tensor:
        if self.is_binary:
            logit = scores if self.output == "logits" else logit_of(scores)
            return tf.concat([tf.zeros_like(logit), logit], 1)
        if self.output == "logits":
            return scores
        return tf.math.log(tf.maximum(scores, TINY))


def logit_of(prob: tf.Tensor) -> tf.Tensor:
    """Return log p - log(1 - p), finite even if p was rounded to 0 or 1."""
    inside = tf.clip_by_value(prob, TINY, LARGEST)
    return tf.math.log(inside) - tf.math.log1p(-inside)


def guess_image_range(generator: Any, classifier: Classifier, max_batch: int | None = None) -> RangeGuess:
    """Return the common image range in which `classifier` is most informative about a generator's images; see `fitting`.

    Args:
      generator: z [B, latent_dim] -> image [B, height, width, channels] in [-1, 1]; has `latent_dim`.
      classifier: The classifier.
      max_batch: Images per call.

    Raises:
      UserError: The classifier does not accept the images.
    """
    return _try_ranges(classifier, prior_images(generator, max_batch), max_batch)[0]


def fitted(classifier: C, generator: Any, max_batch: int | None = None) -> C:
    """Return `classifier` with unknown settings guessed from a generator's images, and known ones checked with them.

    Raises:
      UserError: The classifier does not accept the images, or its outputs contradict its settings.
    """
    classifier, image = classifier.at_rate_of(generator), prior_images(generator, max_batch)
    if classifier.image_range_is_guessed:
        guess, scores = _try_ranges(classifier, image, max_batch)
        lines = (guess.warning,) if guess.warning else ()
        classifier = replace(classifier, image_range=guess.image_range, range_scores=guess.scores, warnings=lines)
    else:
        scores = in_parts(classifier.raw_scores, image, max_batch)
    if "output" in classifier.assumed:
        return replace(classifier, output=guess_output(scores))
    line = check_output(scores, classifier.output, classifier.path, "--classifier_output")
    return replace(classifier, warnings=(*classifier.warnings, line)) if line else classifier


def _try_ranges(classifier: Classifier, image: tf.Tensor, max_batch: int | None) -> tuple[RangeGuess, np.ndarray]:
    """Return the best range, and the raw scores of `image` [B, ...] in it."""
    found = {bounds: in_parts(replace(classifier, image_range=bounds).raw_scores, image, max_batch) for bounds in RANGES}
    if "output" in classifier.assumed:
        classifier = replace(classifier, output=guess_output(np.concatenate(list(found.values()))))
    log_probs = {bounds: classifier.log_probs_of(tf.constant(scores)).numpy() for bounds, scores in found.items()}
    guess = choose_range(log_probs, classifier.is_exclusive, "give --classifier_range=LOW,HIGH")
    return guess, found[guess.image_range]


@per_networks
def _for_generator(networks: Networks) -> Classifier:
    classifier: Classifier = real(networks.classifier)
    with tf.init_scope():  # a posterior may be created while a function is traced
        found = fitted(classifier, networks.generator)
    for line in found.warnings:
        warnings.warn(f"model {classifier.path}: {as_python(line)}", stacklevel=5)
    return found


def load_classifier(
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
    models: str = PHOTOGRAPHS,
    **unknown: NoReturn,
) -> Classifier:
    """Load a classifier of images, sounds or clips.

    Settings that are not given come from model.json (labels also from a file such as labels.txt in or next to the folder), the
    family of the model, its signature, ImageNet's labels for 1000 or 1001 outputs, or its outputs. Guessed settings are listed
    in `assumed`; `fitted` guesses them again from a generator's images.

    Args:
      path: A folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle, in TF2 or TF1-hub
        format. By default the classifier that comes with the package.
      labels: One name or {name, wnid, synset} per output; 'imagenet'; or the path of a file of names.
      image_range: (low, high) of the model's input.
      image_size: (height, width) of the model's input.
      output: 'logits'; 'probabilities', which sum to one over the classes; or 'scores', an independent probability of each
        class.
      channels: 'grey' or 'rgb'; images of the other kind are converted.
      layout: Order of the axes of the model's input, 'channels_last' or 'channels_first'.
      rate: Samples per second of the sounds, or frames per second of the clips, that it takes.
      signature: The signature to call, NAME or NAME:OUTPUT.
      tags: Tags of the meta graph to load.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.
      models: Without `path`, the set of models that come with the package: 'photographs', 'speech' or 'actions'.

    Raises:
      UserError: The model does not load or has no suitable signature, the number of labels differs from the number of outputs,
        or an argument is unknown.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "models", "unknown")}
    given = settings_of(ClassifierSettings, settings | unknown)
    made = load_as("classifier", shipped_model("classifier", models) if path is None else path, given)
    return replace(made, given={name: value for name, value in settings.items() if value is not None})


def load_as(role: str, path: str | Path, given: ClassifierSettings) -> Classifier:
    """Load a classifier that errors name by its `role`: 'classifier', 'judge' or 'discriminator'."""
    opened = open_saved_model(path, given.tags, "", given.allow_unknown_ops)
    use, assumed = resolve_role(opened, "classifier")
    given = with_card(given, opened.metadata, CARD, opened.handle)
    return assemble(opened, given, use, bind_signature(opened, role, use, given), assumed)


def assemble(opened: Opened, given: ClassifierSettings, use: RoleSpec, bound: BoundSignature, assumed: list[str]) -> Classifier:
    """Return the function `bound` of `opened` as a classifier; see `load_classifier`."""
    card, where = opened.metadata, opened.handle
    kind = kind_taken(bound, card, where)
    medium = MEDIA[kind]
    fn = seeing(bound, given, where) if medium.has_channels else hearing(bound)
    size: tuple[int | None, ...] | None = size_taken(opened, given, use, bound) if medium.has_channels else length_taken(bound)
    bounds = given.image_range or card.get("image_range") or use.image_range
    if bounds is None and bound.spec.dtype.is_integer:
        bounds = BYTES  # no other common range suits integers
    channels = channels_taken(bound, given) if medium.has_channels else None
    frames = frames_taken(bound, given)
    first = (*frames, *DEFAULT_SIZE) if size is None else size
    scores = tried(fn, kind, first, bounds or SYMMETRIC, channels, where)
    num_outputs = int(scores.shape[1])
    is_usual = num_outputs in (KINETICS_OUTPUTS if frames else IMAGENET_OUTPUTS)
    if size is None:
        size = (*frames, *(IMAGENET_SIZE if is_usual else DEFAULT_SIZE))
        assumed = [*assumed, "image_size"]
    if bounds is None:
        # The convention of TF-Hub's image models, and that of this project's models. This is only a guess: see `fitted`.
        bounds = UNIT if not medium.usual_range and (is_usual or "://" in where) else SYMMETRIC
        assumed = [*assumed, "image_range"]
    bounds = parse_range(bounds, where)
    output = given.output or card.get("output") or (use.scores if use.is_known else None)
    if output is None:
        output = guess_output(tried(fn, kind, size, bounds, channels, where).numpy())
        assumed = [*assumed, "output"]
    check_choice(f"model {where} output", output, SCORES)
    labels, is_guess = _labels(given.labels, opened, num_outputs)
    if is_guess and not use.is_known:
        assumed = [*assumed, "labels"]
    rate, is_guess = rate_of(medium(size), given.rate, card, use, where)
    if is_guess:
        assumed = [*assumed, "rate"]
    return Classifier(
        fn,
        labels,
        size,
        bounds,
        output,
        where,
        opened.sha256,
        tuple(assumed),
        opened.module,
        bound.name,
        tuple(map(printable, opened.tags)),
        opened.listed(),
        channels=channels,
        is_binary=num_outputs == 1,
        wants=given.channels,
        kind=kind,
        rate=rate,
    )


def _labels(given: Any, opened: Opened, num_outputs: int) -> tuple[tuple[Label, ...], bool]:
    """Return the labels, and whether they are a guess. A single output has the labels of its two classes."""
    card, where = opened.metadata.get("labels"), opened.handle
    count = max(num_outputs, 2)
    if given == "imagenet" or (given is None and card is None and num_outputs in IMAGENET_OUTPUTS and not _own(opened, count)):
        return imagenet_labels(num_outputs), given is None
    if given is not None:  # the caller may name any file, model.json only one in its folder
        labels = read_label_file(Path(given)).labels if isinstance(given, str) else parse_content(given, f"labels of {where}")
    elif card is not None:
        labels = read_labels(card, opened.folder, where, num_outputs)
    else:
        found = find_labels(opened.folder)
        if found is None:
            names = BINARY_NAMES if num_outputs == 1 else tuple(str(k) for k in range(num_outputs))
            return tuple(map(Label, names)), True
        labels = found.labels if num_outputs == 1 and len(found.labels) == 1 else checked_count(found, count, where)
    if num_outputs == 1 and len(labels) == 1:  # the other class is its complement
        labels = (Label(f"not {labels[0].name}", background=True), labels[0])
    if len(labels) != count:
        raise wrong_count(where, count, str(len(labels)))
    return labels, False


def _own(opened: Opened, count: int) -> bool:
    """Return whether a file of `count` labels comes with the model."""
    found = find_labels(opened.folder)
    return found is not None and len(found.labels) == count
