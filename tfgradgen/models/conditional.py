"""Where a class-conditional model takes its class from: the target, or further coordinates of the latent point."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgradgen.core.checks import fail
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.label_files import labels_inside, read_labels
from tfgradgen.models.loading.metadata import Label
from tfgradgen.models.loading.saved_model import Opened

SHARPNESS = 8.0  # of 1000 normal coordinates the first class then has four fifths of the weight or more, mostly
ClassFn = Callable[[tf.Tensor], tf.Tensor]  # further coordinates [B, num_coordinates] -> the model's class input [B] or [B, K]


class ClassForm(NamedTuple):
    """How a model takes its class. takes_numbers: as one class number a row, else as a one-hot row. width: of that row, None
    where it is not known or there is none."""

    takes_numbers: bool
    width: int | None


def class_labels(opened: Opened, form: ClassForm, num_classes: int, place: str) -> tuple[tuple[Label, ...], bool]:
    """The classes of a generator, and whether they have names: from its card, from a file of labels in its folder, of ImageNet
    where there are 1000, else numbers.

    Args:
      num_classes: as the caller or the model's family says; 0 where neither does.
      place: what of the model takes the class, as a person reads it.

    Raises:
      UserError: their number is not known, or numbers that should agree do not.
    """
    where = f"model {opened.handle}"
    if form.width and num_classes and form.width != num_classes:
        raise fail(f"{where} num_classes", f"{form.width}, the width of its class input", num_classes, "leave num_classes out")
    count = form.width or num_classes
    source = opened.metadata.get("labels")
    if source is not None:
        labels = read_labels(source, opened.folder, where)
    else:
        labels = labels_inside(opened.folder) or (imagenet_labels(1000) if count == 1000 else ())
    if labels and count and len(labels) != count:
        raise fail(where, f"{count} labels, one a class", len(labels), "correct the labels in its folder, or num_classes")
    if not labels and not count:
        expected = f"a known number of classes for its class input {place}"
        raise fail(where, expected, "none", "give --num_classes=N, or list its labels in its model.json")
    return labels or tuple(Label(str(k)) for k in range(count)), bool(labels)


def num_coordinates(mode: str, num_classes: int) -> int:
    """How many normal coordinates the class takes."""
    return {"target": 0, "uniform": 1, "latent": num_classes}[mode]


def class_fn(mode: str, num_classes: int, takes_numbers: bool, index: int = 0) -> ClassFn:
    """The class of each row.

    Args:
      mode: 'target': class `index` for all. 'uniform': class k where Phi of the one coordinate is in [k, k + 1) / num_classes,
        so that every class is exactly as likely; the density jumps there, which the Metropolis test sees. 'latent':
        softmax(`SHARPNESS` * coordinates), a mixture of classes that the gradient can turn.
      takes_numbers: whether the model takes class numbers instead of one-hot rows.
    """

    def target(more: tf.Tensor) -> tf.Tensor:
        return tf.fill([tf.shape(more)[0]], index)

    def uniform(more: tf.Tensor) -> tf.Tensor:
        quantile = 0.5 * tf.math.erfc(-more[:, 0] / 2**0.5)
        return tf.clip_by_value(tf.cast(quantile * num_classes, tf.int32), 0, num_classes - 1)

    if mode == "latent":
        return lambda more: tf.nn.softmax(SHARPNESS * more)
    number = target if mode == "target" else uniform
    return number if takes_numbers else lambda more: tf.one_hot(number(more), num_classes)


def class_number(label: Label, labels: Sequence[Label], where: str) -> int:
    """The model's own number of the class `label`: by its WordNet id, else by its name.

    Args:
      labels: the model's classes, in its order.

    Raises:
      UserError: it has none of that name.
    """
    for k, known in enumerate(labels):
        if (label.wnid and known.wnid == label.wnid) or known.name == label.name:
            return k
    raise fail(
        f"generator_class of {where}",
        "a class that the generator has too",
        label.name,
        "use --generator_class=uniform or latent, where the chain finds the class itself",
    )
