"""A generator: a SavedModel that draws pictures, brought to one latent prior and one image range."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfgradgen.checks import check_int, fail
from tfgradgen.models.metadata import check_prior, parse_range
from tfgradgen.models.saved_model import open_saved_model, try_call


@dataclass(frozen=True, eq=False)
class Generator:
    """`generator(z)`: z [B, latent_dim] float32, z ~ Normal(0, I) -> image [B, height, width, channels] in [-1, 1].

    image_shape: (height, width, channels). image_range: what the model itself gives, before it is mapped to [-1, 1].
    assumed: names of settings that neither model.json nor the caller gave. sha256: of the files ('' if not from files).
    """

    fn: Callable[[Any], Any]
    latent_dim: int
    image_shape: tuple[int, int, int]
    image_range: tuple[float, float] = (-1.0, 1.0)
    path: str = ""
    sha256: str = ""
    assumed: tuple[str, ...] = ()
    module: Any = None

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        low, high = self.image_range
        # Some models lose their static shape in graph mode; what follows needs it.
        image = tf.ensure_shape(tf.cast(self.fn(z), tf.float32), [None, *self.image_shape])
        return image if (low, high) == (-1.0, 1.0) else (image - low) * (2.0 / (high - low)) - 1.0


def load_generator(
    path: str | Path,
    latent_dim: int | None = None,
    image_range: tuple[float, float] | None = None,
    prior: str | None = None,
) -> Generator:
    """Loads the SavedModel folder `path` as a generator of one latent input z ~ Normal(0, I).

    Args:
      path: a folder with saved_model.pb: a TF2 callable of one tensor, or a signature with one input and one output.
      latent_dim: width of z; by default from model.json or the model's signature.
      image_range: (low, high) of its output; by default from model.json, else (-1, 1).
      prior: law of z; by default from model.json, else 'normal', the only one so far.
      What had to be guessed is noted in `assumed`.

    Raises:
      UserError: no model there, no usable function, an unknown prior, or an output that is no float picture.
    """
    opened = open_saved_model(path)
    card = opened.metadata
    settings = {"image_range": image_range, "prior": prior}
    given = {name: card.get(name) if value is None else value for name, value in settings.items()}
    check_prior(given["prior"] or "normal", str(path))
    known = latent_dim if latent_dim is not None else card.get("latent_dim")
    dim = known if known is not None else (opened.input_shape[-1] if opened.input_shape else None)
    if dim is None:
        raise fail(f"model {path}", "a known latent_dim", "none in model.json or its signature", "give latent_dim")
    check_int("latent_dim", dim, 1)
    bounds = parse_range((-1.0, 1.0) if given["image_range"] is None else given["image_range"], str(path))
    image = try_call(opened.fn, tf.zeros([2, dim]), 4, str(path))
    height, width, channels = image.shape[1:]
    return Generator(
        opened.fn,
        dim,
        (height, width, channels),
        bounds,
        str(path),
        opened.sha256,
        tuple(name for name, value in given.items() if value is None),
        opened.module,
    )
