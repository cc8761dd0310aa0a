"""Classifiers with a common interface: images in [-1, 1] to logits."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import TINY
from tfgradgen.core.checks import check_choice, fail
from tfgradgen.core.contracts import Networks, is_channels_first
from tfgradgen.core.memo import per_networks, real
from tfgradgen.core.text import as_python, printable, value_text
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
from tfgradgen.models.loading.inputs import shown
from tfgradgen.models.loading.layout import channels_first_error, to_channels_first, to_grey, to_rgb
from tfgradgen.models.loading.metadata import Label, parse_range
from tfgradgen.models.loading.ranges import BYTES, SYMMETRIC, UNIT, to_range
from tfgradgen.models.loading.roles import BoundSignature, bind_signature, in_batches
from tfgradgen.models.loading.saved_model import Opened, open_saved_model, try_call
from tfgradgen.models.loading.settings import (
    CHANNELS_FIRST,
    GREY,
    RGB,
    SCORES,
    ClassifierSettings,
    ModelSettings,
    settings_of,
    with_card,
)
from tfgradgen.models.resize import resize
from tfgradgen.models.shipped import default_model

DEFAULT_SIZE, IMAGENET_SIZE = (64, 64), (224, 224)
IMAGENET_OUTPUTS = (1000, 1001)
WAVEFORM = 16_000  # samples of noise on which a sound model is tried
NUM_PROBED = 8  # images of noise on which a model is tried
MAX_NUMBERS = 2**24  # values in one image; a larger input is surely a typo and would exhaust memory
LARGEST = 1.0 - 2.0**-24  # the largest float32 below 1
BINARY_NAMES = ("negative", "positive")
CARD = ("layout", "channels")  # settings that a model.json may give instead of a flag


@dataclass(frozen=True, eq=False)
class Classifier:
    """`classifier(image)`: image [B, height, width, channels] in [-1, 1], of any size -> logits [B, num_classes] float32.

    Attributes:
      fn: The model: images in its own size and range -> its raw outputs.
      labels: One label per class, in the order of the logits.
      image_size: (height, width) of the model's input. () for a sound model, which takes waveforms [B, num_samples] of any
        length instead of images.
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
      given: The settings with which `load_classifier` made it; None for one made otherwise.
    """

    fn: Callable[[Any], Any]
    labels: tuple[Label, ...]
    image_size: tuple[int, ...]
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
    given: dict[str, Any] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def image_range_is_guessed(self) -> bool:
        """Whether the image range is only a guess that was not checked with a generator's images (`guess_image_range`)."""
        return "image_range" in self.assumed and not self.range_scores

    def for_generator(self, generator: Any) -> "Classifier":
        """Return the classifier for a generator's images, which decide the image range if it is only a guess.

        `ClassPosterior` calls this, so that the library and the command line make the same guess.
        """
        return _for_generator(Networks(generator, self)) if self.image_range_is_guessed and self.image_size else self

    def as_input(self, image: tf.Tensor) -> tf.Tensor:
        """Convert `image` to the size, channels and range of the model's input."""
        kind = "images [batch, height, width, channels]" if self.image_size else "waveforms [batch, num_samples]"
        if len(image.shape) != (4 if self.image_size else 2):
            raise fail(f"model {self.path}", kind, f"shape {image.shape}", "use a generator that makes these")
        fitting = resize(self._coloured(image), *self.image_size) if self.image_size else image
        return to_range(fitting, self.image_range)

    def _coloured(self, image: tf.Tensor) -> tf.Tensor:
        """Convert grey to RGB if the model needs it; convert RGB to grey, which loses colour, only on request (`wants`)."""
        if image.shape[3] == 1 and (self.channels == 3 or (self.channels is None and self.wants == RGB)):
            return to_rgb(image)
        if image.shape[3] != 3 or self.wants != GREY:
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


def fitted(classifier: Classifier, generator: Any, max_batch: int | None = None) -> Classifier:
    """Return `classifier` with unknown settings guessed from a generator's images, and known ones checked with them.

    Raises:
      UserError: The classifier does not accept the images, or its outputs contradict its settings.
    """
    image, is_guess = prior_images(generator, max_batch), classifier.image_range_is_guessed and bool(classifier.image_size)
    if is_guess:
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
    classifier = real(networks.classifier)
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
    signature: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    **unknown: NoReturn,
) -> Classifier:
    """Load a classifier of images.

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
      signature: The signature to call, NAME or NAME:OUTPUT.
      tags: Tags of the meta graph to load.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.

    Raises:
      UserError: The model does not load or has no suitable signature, the number of labels differs from the number of outputs,
        or an argument is unknown.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "unknown")}
    given = settings_of(ClassifierSettings, settings | unknown)
    made = load_as("classifier", default_model("classifier") if path is None else path, given)
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
    hears = bound.spec.shape.rank == 1
    fn = _of_waveforms(bound) if hears else _of_images(bound, given, where)
    size = () if hears else _size(opened, given, use, bound)
    bounds = given.image_range or card.get("image_range") or use.image_range
    if bounds is None and bound.spec.dtype.is_integer:
        bounds = BYTES  # no other common range suits integers
    scores = _try(fn, size or DEFAULT_SIZE, bounds or SYMMETRIC, _channels(bound, given), hears, where)
    num_outputs = int(scores.shape[1])
    is_imagenet = num_outputs in IMAGENET_OUTPUTS
    if size is None:
        size = IMAGENET_SIZE if is_imagenet else DEFAULT_SIZE
        assumed = [*assumed, "image_size"]
    if bounds is None:
        # The convention of TF-Hub's image models, and that of this project's models. This is only a guess: see `fitted`.
        bounds = UNIT if is_imagenet or "://" in where else SYMMETRIC
        assumed = [*assumed, "image_range"]
    bounds = parse_range(bounds, where)
    output = given.output or card.get("output") or (use.scores if use.is_known else None)
    if output is None:
        output = guess_output(_try(fn, size, bounds, _channels(bound, given), hears, where).numpy())
        assumed = [*assumed, "output"]
    check_choice(f"model {where} output", output, SCORES)
    labels, is_guess = _labels(given.labels, opened, num_outputs)
    if is_guess and not use.is_known:
        assumed = [*assumed, "labels"]
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
        channels=None if hears else _channels(bound, given),
        is_binary=num_outputs == 1,
        wants=given.channels,
    )


def _channels(bound: BoundSignature, given: ModelSettings) -> int | None:
    """Return the number of channels of the input; None if the signature does not fix it."""
    shape = bound.spec.shape
    if shape.rank == 3:
        return 1
    return shape[1 if given.layout == CHANNELS_FIRST else 3] if shape.rank == 4 else None


def _of_images(bound: BoundSignature, given: ModelSettings, where: str) -> Callable[[Any], Any]:
    spec, channels, is_first = bound.spec, _channels(bound, given), given.layout == CHANNELS_FIRST
    if given.layout is None and spec.shape.rank == 4 and is_channels_first(list(spec.shape[1:])):
        raise channels_first_error(f"model {where}", "classifier", f"its input {shown(spec)}")

    def see(image: tf.Tensor) -> tf.Tensor:
        if channels not in (None, image.shape[3]):
            expected = f"images of {channels} channel{'s' if channels > 1 else ''}, as in its input {shown(spec)}"
            is_grey = (channels, image.shape[3]) == (1, 3)
            remedy = "give --classifier_channels=grey to convert them" if is_grey else "use a generator that makes these"
            raise fail(f"model {where}", expected, image.shape[3], remedy)
        if spec.dtype.is_integer:  # a cast alone would truncate
            image = tf.clip_by_value(tf.round(image), 0.0, 255.0)
        image = to_channels_first(image) if is_first else image
        return _as_row(bound.fn({bound.main: image[..., 0] if spec.shape.rank == 3 else image}))

    return in_batches(see, bound)


def _as_row(scores: Any) -> Any:
    """Reshape scores [B, K], [B] or [B, 1, 1, K] to [B, K]."""
    if not tf.is_tensor(scores):
        return scores  # `try_call` reports it
    if scores.shape.rank == 1:
        return scores[:, None]
    is_wide = scores.shape.rank == 4 and tuple(scores.shape[1:3]) == (1, 1)
    return tf.reshape(scores, [-1, scores.shape[3]]) if is_wide else scores


def _of_waveforms(bound: BoundSignature) -> Callable[[Any], Any]:
    """Return a function [B, num_samples] -> [B, num_classes]: the mean over frames of a model of one waveform."""

    def hear(waveform: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(bound.fn({bound.main: waveform}), 0)

    return lambda waveforms: tf.map_fn(hear, waveforms)


def _try(
    fn: Callable[[Any], Any], size: tuple[int, ...], bounds: Any, channels: int | None, hears: bool, where: str
) -> tf.Tensor:
    """Return the scores of images or sounds of noise."""
    rest = [WAVEFORM] if hears else [*size, channels or 3]
    if math.prod(rest) > MAX_NUMBERS:
        got = " x ".join(map(str, rest))
        raise fail(f"model {where}", f"an input of at most {MAX_NUMBERS:,} values", got, "give another image_size")
    return try_call(fn, tf.random.stateless_uniform([NUM_PROBED, *rest], [0, 0], *map(float, bounds)), 2, where)


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


def _size(opened: Opened, given: ClassifierSettings, use: RoleSpec, bound: BoundSignature) -> tuple[int, int] | None:
    """Return (height, width) of the input; None if unknown."""
    shape = bound.spec.shape
    axes = slice(2, 4) if given.layout == CHANNELS_FIRST and shape.rank == 4 else slice(1, 3)
    own = shape[axes] if shape.rank in (3, 4) and None not in tuple(shape[axes]) else None
    usual = (use.image_size, use.image_size) if use.image_size else None
    size: Any = given.image_size or opened.metadata.get("image_size") or own or usual
    if size is None:
        return None
    is_pair = isinstance(size, list | tuple | tf.TensorShape) and len(size) == 2
    if not is_pair or not all(isinstance(n, int) and n > 0 for n in size):
        raise fail(
            f"model {opened.handle} image_size", "two positive integers, height and width", value_text(size), "give both"
        )
    return size[0], size[1]
