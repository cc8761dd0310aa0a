"""All media by their kind, and which of them a model has."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfgradgen.core.contracts import GeneratorLike
from tfgradgen.core.parsing import whole_number
from tfgradgen.media.image import Image
from tfgradgen.media.medium import MAX_RATE, MIN_RATE, Dims, Medium
from tfgradgen.media.sound import Sound
from tfgradgen.media.video import Video

# In the order in which they are asked whether they take the axes of a model that does not name its kind.
MEDIA: dict[str, type[Medium]] = {medium.kind: medium for medium in (Image, Sound, Video)}
MEDIUM = "medium"  # in run.json: the record of a medium; a run without it has images
DECODE_BATCH = 64
LARGEST = 1 << 28  # values of one


def kind_of(dims: Dims) -> str:
    """Return the kind of the first medium that takes `dims`, the axes after the batch; '' if none does."""
    return next((kind for kind, medium in MEDIA.items() if medium.takes(dims)), "")


def medium_of(generator: Any, dims: Dims) -> Medium:
    """Return the medium of a generator: its own attribute `medium`, or the first with as many axes as `dims`, those of one.

    Raises:
      ValueError: No medium has such axes.
    """
    own = getattr(generator, "medium", None)
    if isinstance(own, Medium):
        return own
    found = next((medium for medium in MEDIA.values() if len(medium.axes) == len(dims)), None)
    if found is None:
        raise ValueError(f"no medium has the axes {list(dims)}")
    return found(tuple(dims), getattr(generator, found.rate_name or "rate", None))


def medium_in(record: Mapping[str, Any], stored: np.ndarray | None = None) -> Medium:
    """Return the medium of a run from its run.json, which may come from outside.

    Args:
      record: The content of run.json.
      stored: What the run stored; gives the shape of a run of an earlier version, which is one of images.

    Raises:
      ValueError, TypeError, KeyError: The entry is damaged.
    """
    if MEDIUM not in record:
        return Image(() if stored is None else stored.shape[1:])
    said = record[MEDIUM]
    if not isinstance(said, dict) or said["kind"] not in MEDIA or not isinstance(said["shape"], list):
        raise ValueError("names no known medium")
    medium, rate = MEDIA[said["kind"]], said["rate"]
    shape = tuple(whole_number(n, 1) for n in said["shape"])
    if len(shape) != len(medium.axes) or int(np.prod([float(n) for n in shape])) > LARGEST:
        raise ValueError(f"has a shape {list(shape)}")
    if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not MIN_RATE <= rate <= MAX_RATE):
        raise ValueError("has a rate that is none")
    return medium(shape, rate if rate is None else float(rate))


def is_file_name(name: str) -> bool:
    """Return whether a run may have a file of this name for one of its chains, or for all of them."""
    return any(
        name == medium.joined_name or re.fullmatch(rf"{medium.noun}-\d{{1,4}}{re.escape(medium.ending)}", name, re.ASCII)
        for medium in MEDIA.values()
    )


def decoded(generator: GeneratorLike, z: np.ndarray, batch_size: int | None = None) -> tuple[Medium, np.ndarray]:
    """Return the medium of `generator`, and what it gives for `z` [B, latent_dim] as it is stored."""
    size = min(batch_size or DECODE_BATCH, DECODE_BATCH)
    batches = [np.asarray(generator(z[k : k + size])) for k in range(0, len(z), size)]
    medium = medium_of(generator, batches[0].shape[1:])
    return medium, np.concatenate([medium.stored(batch) for batch in batches])
