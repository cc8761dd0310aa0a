"""Encoders: from an image to its latent point, for generators that come with one."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfgradgen.core.checks import fail
from tfgradgen.media.resize import resize
from tfgradgen.models.loading.families import resolve_role
from tfgradgen.models.loading.ranges import SYMMETRIC, to_range
from tfgradgen.models.loading.roles import bind_signature
from tfgradgen.models.loading.saved_model import Opened


def encoder_of(opened: Opened, latent_dim: int) -> Callable[[Any], Any] | None:
    """Return the function image [B, H, W, channels] in [-1, 1] -> z [B, latent_dim]; None if there is no encoder."""
    use, _ = resolve_role(opened, "encoder")
    if not use.is_known:
        return None
    bound = bind_signature(opened, "encoder", use)

    def encode(image: tf.Tensor) -> tf.Tensor:
        height, width = bound.spec.shape[1:3]
        pixels = to_range(resize(image, height, width), use.image_range or SYMMETRIC)
        z = tf.cast(bound.fn({bound.main: pixels}), tf.float32)
        if z.shape[-1] != latent_dim:
            raise fail(
                f"model {opened.handle} encoder", f"latent points of {latent_dim} dimensions", z.shape[-1], "leave --init out"
            )
        return z

    return encode
