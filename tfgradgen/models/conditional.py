"""The class input of class-conditional generators: the target class, or a function of extra latent coordinates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tfgradgen.core.checks import fail
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.label_files import labels_inside, read_labels
from tfgradgen.models.loading.metadata import Label
from tfgradgen.models.loading.saved_model import Opened

SHARPNESS = 8.0  # with 1000 classes, the largest softmax weight is then mostly 0.8 or more
ClassFn = Callable[[tf.Tensor], tf.Tensor]  # extra coordinates [B, num_coordinates] -> class input [B] or [B, K]


class ClassForm(NamedTuple):
    """The form of a class input.

    Attributes:
      takes_numbers: Whether it takes one class number per row instead of a one-hot row.
      width: Length of the one-hot row; None if unknown or if there is none.
    """

    takes_numbers: bool
    width: int | None


def class_labels(opened: Opened, form: ClassForm, num_classes: int, place: str) -> tuple[tuple[Label, ...], bool]:
    """Return the classes of a generator, and whether they have names.

    Labels come from its model.json, a file of labels in its folder, ImageNet's labels if there are 1000, or numbers.

    Args:
      opened: The model.
      form: Form of its class input.
      num_classes: As given by the caller or the model's family; 0 if unknown.
      place: The input that takes the class, for errors.

    Raises:
      UserError: The number of classes is unknown, or two sources disagree about it.
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
        raise fail(where, f"{count} labels, one per class", len(labels), "correct the labels in its folder, or num_classes")
    if not labels and not count:
        expected = f"a known number of classes for its class input {place}"
        raise fail(where, expected, "none", "give --num_classes=N, or list its labels in its model.json")
    return labels or tuple(Label(str(k)) for k in range(count)), bool(labels)


def num_coordinates(mode: str, num_classes: int) -> int:
    """Return the number of extra normal coordinates for the class."""
    return {"target": 0, "uniform": 1, "latent": num_classes}[mode]


def class_fn(mode: str, num_classes: int, takes_numbers: bool, index: int = 0) -> ClassFn:
    """Return the function from extra latent coordinates to the class input.

    Args:
      mode: 'target': class `index` for all rows. 'uniform': class k if Phi of the single coordinate is in
        [k, k + 1) / num_classes, so that all classes have equal probability; the density has jumps, which the Metropolis test
        takes into account. 'latent': softmax(`SHARPNESS` * coordinates), a differentiable mixture of classes.
      num_classes: Number of classes.
      takes_numbers: Whether the model takes class numbers instead of one-hot rows.
      index: The class of mode 'target'.
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
    """Return the generator's number of the class `label`, found by WordNet id or name.

    Args:
      label: The class.
      labels: The classes of the generator, in its order.
      where: The generator, for errors.

    Raises:
      UserError: The generator does not have the class.
    """
    for k, known in enumerate(labels):
        if (label.wnid and known.wnid == label.wnid) or known.name == label.name:
            return k
    raise fail(
        f"generator_class of {where}",
        "a class of the generator",
        label.name,
        "use --generator_class=uniform or latent, so that the chain finds the class by itself",
    )
