"""The axes of images: channels last, as everything here has them, or first, as models that come from PyTorch or ONNX do."""

import tensorflow as tf

from tfgradgen.core.checks import UserError, fail
from tfgradgen.models.loading.settings import CHANNELS_FIRST

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as Pillow and TensorFlow make grey


def channels_first_error(where: str, role: str, got: str) -> UserError:
    """The error of a model whose images are [?, channels, height, width] where nobody said so."""
    way = f"give --{role}_layout={CHANNELS_FIRST}" if role in ("generator", "classifier") else "say so in its model.json"
    expected = "images [?, height, width, channels]"
    return fail(where, expected, f"{got}, whose channels come first", f'{way} ("layout": "{CHANNELS_FIRST}" in model.json)')


def to_channels_last(image: tf.Tensor) -> tf.Tensor:
    """[B, C, H, W] -> [B, H, W, C]."""
    return tf.transpose(image, [0, 2, 3, 1])


def to_channels_first(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B, C, H, W]."""
    return tf.transpose(image, [0, 3, 1, 2])


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 3] -> its luma [B, H, W, 1]."""
    return tf.tensordot(image, tf.constant(LUMA, image.dtype), 1)[..., None]


def to_rgb(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, 1] -> [B, H, W, 3], three times the same."""
    return tf.repeat(image, 3, -1)
