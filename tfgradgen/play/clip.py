"""An animation of images of a run, in memory, and its files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tfgradgen.core.checks import check_choice, check_int, check_real
from tfgradgen.core.files import path_of
from tfgradgen.io.animation import check_ending, encoded
from tfgradgen.io.images import make_grid
from tfgradgen.io.single import check_file, write_with_record
from tfgradgen.play.limits import FPS, LEAST_FPS, MOST_FPS, MOST_SCALE

SIDE = 256  # pixels to which a small image is enlarged by default
FOR_ROLES = ("generator", "classifier", "discriminator")


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of an animation, from `film` or `morph`.

    Attributes:
      images: uint8 [num_frames, height, width, channels].
      z: float32 [num_frames, latent_dim], their latent points.
      class_prob: float32 [num_frames], p(class) of each.
      captions: One per frame.
      title: Written above each frame.
      record: What reproduces it, JSON-serializable.
    """

    images: np.ndarray
    z: np.ndarray
    class_prob: np.ndarray
    captions: tuple[str, ...]
    title: str
    record: Mapping[str, Any]

    def frames(self, scale: int | None = None) -> list[Image.Image]:
        """Return the frames with title and caption, images enlarged by `scale`, by default to about 256 pixels."""
        scale = check_scale(scale, self.images.shape[1])
        size = self.images.shape[1] * scale
        return [
            make_grid(image[None], [caption], 1, size, self.title)
            for image, caption in zip(self.images, self.captions, strict=True)
        ]

    def save(self, path: str | os.PathLike[str], *, scale: int | None = None, fps: float = FPS, overwrite: bool = False) -> Any:
        """Write the animation, and its record beside it as PATH.json.

        Args:
          path: A file that ends in .gif, .webp or, where ffmpeg is installed, .mp4.
          scale: As in `frames`.
          fps: Frames per second, 0.1..50.
          overwrite: Whether to replace earlier files of these names.

        Returns:
          The path.

        Raises:
          UserError: The file cannot be written, or an argument is out of its range.
        """
        check_choice("overwrite", overwrite, (True, False))
        target = path_of("out", path)
        ending = check_ending(target)
        check_file(target, overwrite)
        data = encoded(self.frames(scale), check_fps(fps), ending)
        record = {**self.record, "frames_per_second": fps, "scale": check_scale(scale, self.images.shape[1])}
        return write_with_record(target, data, record, overwrite)


def check_fps(fps: Any) -> float:
    """Return `fps` if it is in 0.1..50, which GIF can hold and its viewers show; raise `UserError` otherwise."""
    return check_real("fps", fps, LEAST_FPS, MOST_FPS, inclusive_low=True, inclusive_high=True)


def check_scale(scale: Any, height: int) -> int:
    """Return `scale`, by default what makes an image of `height` about 256 pixels high; raise `UserError` if it is invalid."""
    return max(1, round(SIDE / height)) if scale is None else check_int("scale", scale, 1, MOST_SCALE)


def origin_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a run's record that say what its images are: class, kernel, seed, models and versions."""
    models = {role: record[role].get("sha256", "") for role in FOR_ROLES if role in record}
    return {
        "label": record["label"]["name"],
        "kernel": record["kernel"],
        "seed": record["seed"],
        "temperature": record["arguments"].get("temperature", 1.0),
        "models_sha256": models,
        "versions": dict(record["versions"]),
    }
