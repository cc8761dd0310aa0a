"""Order of the axes of images and clips: channels last, as in this package, or first, as in models from PyTorch or ONNX."""

import tensorflow as tf

from tfgradgen.core.checks import UserError, fail
from tfgradgen.models.loading.settings import CHANNELS_FIRST

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601), as in Pillow and TensorFlow


def channels_first_error(where: str, role: str, got: str) -> UserError:
    """Return the error for a model with images [?, channels, height, width] but without the setting that says so."""
    card = f'"layout": "{CHANNELS_FIRST}" in its model.json'
    remedy = f"give --{role}_layout={CHANNELS_FIRST} or {card}" if role in ("generator", "classifier") else f"set {card}"
    expected = "images [?, height, width, channels]"
    return fail(where, expected, f"{got}, whose channels come first", remedy)


def to_channels_last(image: tf.Tensor) -> tf.Tensor:
    """Transpose [B, C, H, W] to [B, H, W, C]; likewise clips [B, C, frames, H, W]."""
    return tf.transpose(image, [0, *range(2, len(image.shape)), 1])


def to_channels_first(image: tf.Tensor) -> tf.Tensor:
    """Transpose [B, H, W, C] to [B, C, H, W]; likewise clips to [B, C, frames, H, W]."""
    last = len(image.shape) - 1
    return tf.transpose(image, [0, last, *range(1, last)])


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """Convert RGB [..., H, W, 3] to its luma [..., H, W, 1]."""
    return tf.tensordot(image, tf.constant(LUMA, image.dtype), 1)[..., None]


def to_rgb(image: tf.Tensor) -> tf.Tensor:
    """Repeat the channel of [..., H, W, 1]: [..., H, W, 3]."""
    return tf.repeat(image, 3, -1)
