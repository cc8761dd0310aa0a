"""A classifier: a SavedModel that names what a picture shows, brought to one image range and to logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfgradgen.checks import check_choice, fail
from tfgradgen.models.metadata import Label, parse_labels, parse_range
from tfgradgen.models.resize import resize
from tfgradgen.models.saved_model import open_saved_model, try_call

DEFAULT_SIZE = (64, 64)


@dataclass(frozen=True, eq=False)
class Classifier:
    """`classifier(image)`: image [B, height, width, channels] in [-1, 1], of any size -> logits [B, num_classes] float32.

    labels: one a class, in the order of the logits. image_size: (height, width) that the model takes.
    image_range: what the model takes. output: what the model gives, 'logits' or 'probabilities'.
    assumed: names of settings that neither model.json nor the caller gave. sha256: of the files ('' if not from files).
    """

    fn: Callable[[Any], Any]
    labels: tuple[Label, ...]
    image_size: tuple[int, int]
    image_range: tuple[float, float] = (-1.0, 1.0)
    output: str = "logits"
    path: str = ""
    sha256: str = ""
    assumed: tuple[str, ...] = ()
    module: Any = None

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def as_input(self, image: tf.Tensor) -> tf.Tensor:
        """`image` in the size and the range that the model itself takes."""
        low, high = self.image_range
        x = resize(image, *self.image_size)
        return x if (low, high) == (-1.0, 1.0) else (x + 1.0) * ((high - low) / 2.0) + low

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        scores = tf.ensure_shape(tf.cast(self.fn(self.as_input(image)), tf.float32), [None, self.num_classes])
        if self.output == "logits":
            return scores
        # Smallest normal float32: a probability of exactly 0 would give an infinite log and no gradient.
        return tf.math.log(tf.maximum(scores, 1.2e-38))


def load_classifier(
    path: str | Path,
    labels: Sequence[Any] | None = None,
    image_range: tuple[float, float] | None = None,
    image_size: tuple[int, int] | None = None,
    output: str | None = None,
) -> Classifier:
    """Loads the SavedModel folder `path` as a classifier.

    Args:
      path: a folder with saved_model.pb: a TF2 callable of one tensor, or a signature with one input and one output.
      labels: class names, or {name, wnid, synset}, one an output; by default from model.json or a labels.json in or
        beside the folder, else the numbers 0..K-1.
      image_range: (low, high) of its input; by default from model.json, else (-1, 1).
      image_size: (height, width) of its input; by default from model.json or its signature, else (64, 64).
      output: 'logits' or 'probabilities'; by default from model.json, else 'logits'.
      What had to be guessed is noted in `assumed`.

    Raises:
      UserError: no model there, no usable function, or a number of labels that is not its number of outputs.
    """
    opened = open_saved_model(path)
    card, assumed = opened.metadata, []

    def setting(name: str, argument: Any, fallback: Any) -> Any:
        value = argument if argument is not None else card.get(name)
        if value is None:
            assumed.append(name)
            return fallback
        return value

    bounds = parse_range(setting("image_range", image_range, (-1.0, 1.0)), str(path))
    kind = check_choice(f"model {path} output", setting("output", output, "logits"), ("logits", "probabilities"))
    height, width = _image_size(setting, image_size, opened.input_shape, str(path))
    channels = opened.input_shape[3] if opened.input_shape and len(opened.input_shape) == 4 else 3
    scores = try_call(opened.fn, tf.zeros([2, height, width, channels or 3]), 2, str(path))
    num_classes = int(scores.shape[1])
    names = parse_labels(setting("labels", labels, [str(k) for k in range(num_classes)]), f"labels of {path}")
    if len(names) != num_classes:
        raise fail(f"model {path}", f"{num_classes} labels, one a class", len(names), "give the right labels")
    return Classifier(opened.fn, names, (height, width), bounds, kind, str(path), opened.sha256, tuple(assumed), opened.module)


def _image_size(setting: Callable[..., Any], argument: Any, shape: list[int | None] | None, where: str) -> tuple[int, int]:
    if argument is None and shape and len(shape) == 4 and shape[1] and shape[2]:
        argument = shape[1:3]
    size = setting("image_size", argument, DEFAULT_SIZE)
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise fail(f"model {where} image_size", "two positive integers, height and width", repr(size), "give both")
    return size[0], size[1]
