"""Clips without sound."""

import io
from typing import Any

import numpy as np
from PIL import Image as Picture

from tfgradgen.core.contracts import Tensor
from tfgradgen.core.lazy import tf
from tfgradgen.media.image import from_uint8, picture, to_uint8
from tfgradgen.media.medium import Dims, Medium, num_columns
from tfgradgen.media.resize import resize
from tfgradgen.media.similarity import ms_ssim_pairs

STRIP = 4  # frames of a film strip
GAP = 2  # pixels between two of them, and between two clips of the joined file
MAX_SIDE = 4096  # pixels of the joined file


class Video(Medium):
    """Clips [frames, height, width, channels]: stored as uint8, shown as film strips of a few frames."""

    kind, noun, plural = "video", "clip", "clips"
    axes = ("frames", "height", "width", "channels")
    dtype, bits, half_step = np.uint8, 8, 0.5 / 127.5
    rate_name, usual_rate = "frame_rate", 12.5
    ending, mime = ".gif", "image/gif"
    joined_name = "clips.gif"
    free_size = 16
    distance_name = "ms_ssim"

    @classmethod
    def takes(cls, dims: Dims) -> bool:
        return len(dims) == 4

    @classmethod
    def canonical(cls, values: Any) -> Any:
        return values

    def fitted(self, values: Tensor, rate: float | None) -> Tensor:
        """Resize the frames of `values`, and interpolate linearly in time."""
        frames, height, width = self.shape[:3]
        given, own = rate or self.used_rate, self.used_rate
        size = values.shape[1:4]
        height, width = height or size[1], width or size[2]
        if (height, width) != tuple(size[1:]):
            flat = resize(tf.reshape(values, [-1, *values.shape[2:]]), height, width)
            values = tf.reshape(flat, [-1, size[0], height, width, values.shape[4]])
        matrix = time_matrix(size[0], given, frames or max(1, round(size[0] * own / given)), own)
        return values if matrix is None else tf.einsum("of,bfhwc->bohwc", matrix, values)

    def stored(self, values: Any) -> np.ndarray:
        return to_uint8(values)

    def values(self, stored: np.ndarray) -> np.ndarray:
        return from_uint8(stored)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        """Return film strips of at most `STRIP` frames, evenly spaced from the first to the last."""
        num_frames = stored.shape[1]
        shown = np.unique(np.rint(np.linspace(0, num_frames - 1, STRIP)).astype(int))
        gap = np.full((*stored.shape[:1], stored.shape[2], GAP, stored.shape[4]), 255, np.uint8)
        parts = [part for k in shown for part in (stored[:, k], gap)]
        return np.concatenate(parts[:-1], 2)

    def file(self, one: np.ndarray) -> bytes:
        return as_gif(one, self.used_rate)

    def joined(self, stored: np.ndarray) -> bytes:
        """Return all beside one another in a square, row by row."""
        return as_gif(self._sheet(stored), self.used_rate)

    def frames(self, stored: np.ndarray) -> list[Picture.Image]:
        return as_pictures(stored[0] if len(stored) == 1 else self._sheet(stored))

    def _sheet(self, stored: np.ndarray) -> np.ndarray:
        count, frames, height, width, channels = stored.shape
        columns = num_columns(count)
        rows = -(-count // columns)
        sheet = np.full((frames, rows * (height + GAP), columns * (width + GAP), channels), 255, np.uint8)
        for k, clip in enumerate(stored):
            y, x = k // columns * (height + GAP), k % columns * (width + GAP)
            sheet[:, y : y + height, x : x + width] = clip
        step = -(-max(sheet.shape[1:3]) // MAX_SIDE)  # a run of thousands of chains
        return sheet[:, ::step, ::step]

    def distances(self, stored: np.ndarray) -> np.ndarray | None:
        """Return the mean over frames of the structural similarity of all pairs."""
        found = [ms_ssim_pairs(stored[:, k]) for k in sorted({0, stored.shape[1] // 2, stored.shape[1] - 1})]
        return None if found[0] is None else np.mean(found, 0)  # type: ignore[arg-type]


def time_matrix(size: int, rate: float, new_size: int, new_rate: float) -> np.ndarray | None:
    """Return the matrix [new_size, size] that interpolates frames linearly in time; None if nothing is to be done.

    The middles of both clips are at the same time. Before its first and after its last frame a clip stands still. For a lower
    rate the triangle of the interpolation is widened by the ratio of the rates, against aliasing. Rows sum to 1.
    """
    if (size, rate) == (new_size, new_rate):
        return None
    times = (np.arange(new_size) - (new_size - 1) / 2) / new_rate
    centres = np.clip(times * rate + (size - 1) / 2, 0, size - 1)
    scale = max(1.0, rate / new_rate)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(size)[None] - centres[:, None]) / scale)
    normalized: np.ndarray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return normalized


def as_pictures(frames: np.ndarray) -> list[Picture.Image]:
    """Return `frames` uint8 [frames, height, width, 1 to 4 channels] as images without transparency."""
    return [picture(frame[..., :3] if frame.shape[-1] == 4 else frame) for frame in frames]


def as_gif(frames: np.ndarray, rate: float) -> bytes:
    """Return `frames` uint8 [frames, height, width, channels] as the content of a GIF file that repeats for ever.

    GIF has steps of a hundredth of a second, and viewers slow down anything below two of them.
    """
    first, *others = as_pictures(frames)
    duration = max(round(100 / rate), 2) * 10  # milliseconds
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return stream.getvalue()
