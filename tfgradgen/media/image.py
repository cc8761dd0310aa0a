"""Images."""

import io
from typing import Any

import numpy as np
from PIL import Image as Picture

from tfgradgen.core.contracts import Tensor
from tfgradgen.media.medium import Dims, Medium
from tfgradgen.media.resize import resize
from tfgradgen.media.similarity import ms_ssim_pairs


class Image(Medium):
    """Images [height, width, channels]: stored as uint8, shown as they are."""

    kind, noun, plural = "image", "image", "images"
    axes = ("height", "width", "channels")
    dtype, bits, half_step = np.uint8, 8, 0.5 / 127.5
    ending, mime = ".png", "image/png"
    is_small = False
    distance_name = "ms_ssim"

    @classmethod
    def takes(cls, dims: Dims) -> bool:
        """Return whether `dims` are those of images, or of grey ones without an axis of channels."""
        return len(dims) == 3 or (len(dims) == 2 and 1 not in dims)

    @classmethod
    def canonical(cls, values: Any) -> Any:
        return values[..., None] if len(values.shape) == 3 else values

    def fitted(self, values: Tensor, rate: float | None) -> Tensor:
        """Resize `values`; see `resize`."""
        height, width = self.shape[:2]
        return resize(values, height or values.shape[1], width or values.shape[2])

    def stored(self, values: Any) -> np.ndarray:
        return to_uint8(values)

    def values(self, stored: np.ndarray) -> np.ndarray:
        return from_uint8(stored)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        return stored

    def file(self, one: np.ndarray) -> bytes:
        return as_png(picture(one))

    def distances(self, stored: np.ndarray) -> np.ndarray | None:
        return ms_ssim_pairs(stored)


def to_uint8(image: Any) -> np.ndarray:
    """Convert `image` [..., height, width, channels] in [-1, 1] to uint8; values outside of the range are clipped."""
    rounded: np.ndarray = np.clip(np.rint((np.asarray(image, np.float32) + 1.0) * 127.5), 0, 255)
    return rounded.astype(np.uint8)


def from_uint8(stored: np.ndarray) -> np.ndarray:
    """Return what uint8 values stand for, float32 in [-1, 1]."""
    values: np.ndarray = stored.astype(np.float32) / 127.5 - 1.0
    return values


def picture(pixels: np.ndarray) -> Picture.Image:
    """Return the image of `pixels`, uint8 [height, width, channels]."""
    return Picture.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def as_png(image: Picture.Image) -> bytes:
    """Return `image` as the content of a PNG file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
