"""A classifier: a model that names what a picture shows, brought to one image range and to logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen.checks import check_choice, fail
from tfgradgen.models.families import Use, use_of
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.metadata import Label, file_of_model, parse_labels, parse_range, read_class_map, read_label_file
from tfgradgen.models.ranges import SYMMETRIC, UNIT, to_range
from tfgradgen.models.resize import resize
from tfgradgen.models.roles import Bound, bind, in_batches
from tfgradgen.models.saved_model import Opened, open_saved_model, shown, try_call
from tfgradgen.models.settings import SCORES, ClassifierSettings, settings_of
from tfgradgen.text import printable, value_text

DEFAULT_SIZE, IMAGENET_SIZE = (64, 64), (224, 224)
IMAGENET_OUTPUTS = (1000, 1001)
WAVEFORM = 16_000  # samples of noise that a model of sounds is tried on
NUM_PROBED = 8
MAX_NUMBERS = 2**24  # of one picture: what is more is a slip, and would fill the memory
SMALLEST = 1.2e-38  # normal float32: a probability of exactly 0 would give an infinite log and no gradient


@dataclass(frozen=True, eq=False)
class Classifier:
    """`classifier(image)`: image [B, height, width, channels] in [-1, 1], of any size -> logits [B, num_classes] float32.

    labels: one a class, in the order of the logits. image_size: (height, width) that the model takes, () of a
    model of sounds, which takes waveforms [B, num_samples] of any length for pictures.
    image_range: what the model takes. output: what the model gives, 'logits', 'probabilities' that sum to one over the classes,
    or 'scores', a probability of its own for each class, as of sounds: those go through a `ConditionClassifier`.
    signature, tags: which of its `signatures`. assumed: what neither the model, its card, its family nor the caller
    told. sha256: of the files ('' if not from files).
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

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def as_input(self, image: tf.Tensor) -> tf.Tensor:
        """`image` in the size and the range that the model itself takes."""
        kind = "pictures [batch, height, width, channels]" if self.image_size else "waveforms [batch, num_samples]"
        if len(image.shape) != (4 if self.image_size else 2):
            raise fail(f"model {self.path}", kind, f"shape {image.shape}", "pair it with a generator of such")
        fitting = resize(image, *self.image_size) if self.image_size else image
        return to_range(fitting, self.image_range)

    @property
    def is_exclusive(self) -> bool:
        """Whether an image shows exactly one of the classes, so that their probabilities sum to one."""
        return self.output != "scores"

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        if not self.is_exclusive:
            raise fail(f"model {self.path}", "logits or probabilities", "scores", "make a condition of its classes")
        return self._log_scores(image)

    def log_probs(self, image: tf.Tensor) -> tf.Tensor:
        """log p(class | image) [B, num_classes] float32, in nats."""
        log_scores = self._log_scores(image)
        return tf.nn.log_softmax(log_scores) if self.is_exclusive else log_scores

    def _log_scores(self, image: tf.Tensor) -> tf.Tensor:
        scores = tf.ensure_shape(tf.cast(self.fn(self.as_input(image)), tf.float32), [None, self.num_classes])
        return scores if self.output == "logits" else tf.math.log(tf.maximum(scores, SMALLEST))


def load_classifier(path: str | Path, **settings: Any) -> Classifier:
    """Loads `path` as a classifier of pictures.

    Args:
      path: a folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle; TF2 or TF1-hub format.
      settings: fields of `ClassifierSettings`; by default from model.json (labels also from a labels.json in or beside the
        folder), the model's family, its signature, ImageNet's labels for 1000 or 1001 outputs, or a look at its outputs.
        What had to be guessed is noted in `assumed`.

    Raises:
      UserError: no model there, no usable function, or a number of labels that is not its number of outputs.
    """
    return load_as("classifier", path, settings_of(ClassifierSettings, settings))


def load_as(role: str, path: str | Path, given: ClassifierSettings) -> Classifier:
    """`load_classifier` of a network that messages call by its `role`: 'classifier', 'judge' or 'discriminator'."""
    opened = open_saved_model(path, given.tags, "", given.allow_unknown_ops)
    use, assumed = use_of(opened, "classifier")
    return assemble(opened, given, use, bind(opened, role, use, given.signature), assumed)


def assemble(opened: Opened, given: ClassifierSettings, use: Use, bound: Bound, assumed: list[str]) -> Classifier:
    """The function `bound` of `opened` as a classifier; see `load_classifier`."""
    card, where = opened.metadata, opened.handle
    hears = bound.spec.shape.rank == 1
    fn = _of_waveforms(bound) if hears else _of_pictures(bound, opened.handle)
    size = () if hears else _size(opened, given, use, bound)
    bounds = given.image_range or card.get("image_range") or use.image_range
    scores = _try(fn, size or DEFAULT_SIZE, bounds or SYMMETRIC, bound, where)
    is_imagenet = scores.shape[1] in IMAGENET_OUTPUTS
    if size is None:
        size = IMAGENET_SIZE if is_imagenet else DEFAULT_SIZE
        assumed = [*assumed, "image_size"]
    if bounds is None:
        # What TF-Hub asks of its image models; elsewhere what this project's own take.
        bounds = UNIT if is_imagenet or "://" in where else SYMMETRIC
        assumed = [*assumed, "image_range"]
    bounds = parse_range(bounds, where)
    output = given.output or card.get("output") or (use.scores if use.is_known else None)
    if output is None:
        output = _guess_output(_try(fn, size, bounds, bound, where).numpy())
        assumed = [*assumed, "output"]
    check_choice(f"model {where} output", output, SCORES)
    labels, is_guess = _labels(given.labels, opened, int(scores.shape[1]))
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
    )


def _of_pictures(bound: Bound, where: str) -> Callable[[Any], Any]:
    channels = bound.spec.shape[3] if bound.spec.shape.rank == 4 else None

    def look(image: tf.Tensor) -> tf.Tensor:
        if channels not in (None, image.shape[3]):
            expected = f"pictures of {channels} channel{'s' if channels > 1 else ''}, the last of its input {shown(bound.spec)}"
            raise fail(f"model {where}", expected, image.shape[3], "pair it with a generator of such pictures")
        return bound.fn({bound.main: image})

    return in_batches(look, bound)


def _of_waveforms(bound: Bound) -> Callable[[Any], Any]:
    """[B, num_samples] -> [B, num_classes], of a model that hears one waveform [num_samples] and scores each of its frames:
    their mean."""

    def hear(waveform: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(bound.fn({bound.main: waveform}), 0)

    return lambda waveforms: tf.map_fn(hear, waveforms)


def _try(fn: Callable[[Any], Any], size: tuple[int, ...], bounds: Any, bound: Bound, where: str) -> tf.Tensor:
    """Scores of noise."""
    shape = bound.spec.shape
    channels = (shape[3] if shape.rank == 4 else None) or 3
    rest = [*size, channels] if bound.spec.shape.rank != 1 else [WAVEFORM]
    if math.prod(rest) > MAX_NUMBERS:
        got = " x ".join(map(str, rest))
        raise fail(f"model {where}", f"an input of at most {MAX_NUMBERS:,} numbers", got, "give another image_size")
    return try_call(fn, tf.random.stateless_uniform([NUM_PROBED, *rest], [0, 0], *map(float, bounds)), 2, where)


def _labels(given: Any, opened: Opened, num_classes: int) -> tuple[tuple[Label, ...], bool]:
    """The labels, and whether they had to be guessed."""
    source, where = opened.metadata.get("labels") if given is None else given, opened.handle
    if source == "imagenet" or (source is None and num_classes in IMAGENET_OUTPUTS):
        return imagenet_labels(num_classes), source is None
    if isinstance(source, str):
        # A caller may name any file, a model's card only one of its own.
        file = file_of_model(opened.folder, source, f"labels of {where}") if given is None else Path(source)
        source = read_label_file(file)
    class_map = next((path for path in sorted((opened.folder / "assets").glob("*class_map.csv")) if path.is_file()), None)
    if source is None and class_map:
        source = read_class_map(class_map)
    is_guess = source is None
    names = parse_labels([str(k) for k in range(num_classes)] if is_guess else source, f"labels of {where}")
    if len(names) != num_classes:
        raise fail(f"model {where}", f"{num_classes} labels, one a class", len(names), "give the right labels")
    return names, is_guess


def _guess_output(scores: np.ndarray) -> str:
    """'probabilities' where each row is a distribution, 'scores' where all are in 0..1 but not that, else 'logits'."""
    if not (scores.min() >= 0 and scores.max() <= 1):
        return "logits"
    is_distribution = np.allclose(scores.sum(1), 1, atol=1e-3) and scores.shape[1] > 1
    return "probabilities" if is_distribution else "scores"


def _size(opened: Opened, given: ClassifierSettings, use: Use, bound: Bound) -> tuple[int, int] | None:
    """(height, width) as far as anything tells it."""
    shape = bound.spec.shape
    own = shape[1:3] if shape.rank == 4 and shape[1] and shape[2] else None
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
