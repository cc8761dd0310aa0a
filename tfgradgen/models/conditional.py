"""Where a class-conditional model takes its class from: the target, or further coordinates of the latent point."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfgradgen.checks import fail
from tfgradgen.models.metadata import Label

SHARPNESS = 8.0  # of 1000 normal coordinates the first class then has four fifths of the weight or more, mostly
ClassFn = Callable[[tf.Tensor], tf.Tensor]  # further coordinates [B, num_coordinates] -> the model's class input [B] or [B, K]


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
