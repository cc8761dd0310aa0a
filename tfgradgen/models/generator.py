"""A generator: a model that draws pictures, brought to one latent prior and one image range."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.checks import check_choice, check_int, fail
from tfgradgen.models.conditional import ClassFn, class_fn, class_number, num_coordinates
from tfgradgen.models.encoder import encoder_of
from tfgradgen.models.families import Use, use_of
from tfgradgen.models.imagenet import imagenet_labels
from tfgradgen.models.metadata import Label, parse_labels, parse_range
from tfgradgen.models.priors import TRANSPORTS
from tfgradgen.models.ranges import BYTES, SYMMETRIC, UNIT, from_range
from tfgradgen.models.roles import Bound, bind, in_batches
from tfgradgen.models.saved_model import open_saved_model, try_call
from tfgradgen.models.settings import PRIORS, GeneratorSettings, settings_of
from tfgradgen.text import printable

MAX_LATENT_DIM = 2**20  # what is more is a slip, and would fill the memory
NUM_PROBED = 16  # prior draws whose pictures tell the range of a model that nothing else tells


class Classes(NamedTuple):
    """Of a class-conditional generator. mode: where the class is from (`GeneratorSettings.generator_class`). labels: its
    classes. fn_of: class number -> its function of z."""

    mode: str
    labels: tuple[Label, ...]
    fn_of: Callable[[int], Callable[[Any], Any]]


@dataclass(frozen=True, eq=False)
class Generator:
    """`generator(z)`: z [B, latent_dim] float32, z ~ Normal(0, I) -> image [B, height, width, channels] in [-1, 1].

    image_shape: (height, width, channels); (num_samples,) of a generator of sounds, whose waveforms stand for pictures.
    image_range: what the model itself gives, before it is mapped to [-1, 1].
    prior: law of the model's own latent point, an exact transport of z; truncation scales it, None where the model takes none.
    classes: of a class-conditional model; its further coordinates of z come last. encode_fn: picture [1, H, W, 3] in [-1, 1] ->
    z [1, latent_dim]; None where the model has no encoder. signature, tags: which of its `signatures`.
    assumed: what neither the model, its card, its family nor the caller told. sha256: of the files ('' if not from files).
    """

    fn: Callable[[Any], Any]
    latent_dim: int
    image_shape: tuple[int, ...]
    image_range: tuple[float, float] = SYMMETRIC
    path: str = ""
    sha256: str = ""
    assumed: tuple[str, ...] = ()
    module: Any = None
    prior: str = "normal"
    truncation: float | None = None
    classes: Classes | None = None
    encode_fn: Callable[[Any], Any] | None = None
    signature: str = ""
    tags: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()

    @property
    def generator_class(self) -> str | None:
        """Where a class-conditional generator's class is from; None for an unconditional one."""
        return self.classes.mode if self.classes else None

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        # Some models lose their static shape in graph mode; what follows needs it.
        image = tf.ensure_shape(tf.cast(self.fn(z), tf.float32), [None, *self.image_shape])
        return from_range(image, self.image_range)

    def for_label(self, label: Label) -> "Generator":
        """The generator for chains of `label`: with that class where it takes the target's, else itself.

        Raises:
          UserError: it does not know the class.
        """
        if self.classes is None or self.classes.mode != "target":
            return self
        return replace(self, fn=self.classes.fn_of(class_number(label, self.classes.labels, self.path)))


def load_generator(path: str | Path, **settings: Any) -> Generator:
    """Loads `path` as a generator of pictures from latent points.

    Args:
      path: a folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle; TF2 or TF1-hub format.
      settings: fields of `GeneratorSettings`; by default from model.json, the model's family, its signature or a look at its
        pictures. What had to be guessed is noted in `assumed`.

    Raises:
      UserError: no model there, no usable function, an unknown prior, or an output that is no float picture.
    """
    given = settings_of(GeneratorSettings, settings)
    opened = open_saved_model(path, given.tags, "gen", given.allow_unknown_ops)
    use, assumed = use_of(opened, "generator")
    bound, card = bind(opened, "generator", use, given.signature), opened.metadata
    prior = given.prior or card.get("prior")
    if prior is None and not use.is_known:
        assumed.append("prior")
    prior = check_choice(f"model {path} prior", prior or use.prior, PRIORS)
    dim = _latent_dim(bound, given, card, str(path))
    truncation = _truncation(bound, given, str(path))
    classes = _classes(bound, (given, card, use), str(path), lambda f: _of_latent(bound, dim, prior, truncation, f))
    more = num_coordinates(classes.mode, len(classes.labels)) if classes else 0
    fn = classes.fn_of(0) if classes else _of_latent(bound, dim, prior, truncation)
    image = try_call(fn, tf.random.stateless_normal([NUM_PROBED, dim + more], [0, 0]), (4, 2), str(path))
    bounds = given.image_range or card.get("image_range") or use.image_range
    if bounds is None:
        bounds = _guess_range(image.numpy())
        assumed.append("image_range")
    return Generator(
        fn,
        dim + more,
        tuple(image.shape[1:]),
        parse_range(bounds, str(path)),
        str(path),
        opened.sha256,
        tuple(assumed),
        opened.module,
        prior,
        truncation,
        classes,
        encoder_of(opened, dim + more),
        bound.name,
        tuple(map(printable, opened.tags)),
        opened.listed(),
    )


def _of_latent(
    bound: Bound, dim: int, prior: str, truncation: float | None, classes_fn: ClassFn | None = None
) -> Callable[[Any], Any]:
    """The model as a function of z [B, dim and the class's coordinates] -> its picture, in its own range."""
    transport_fn, scale = TRANSPORTS[prior], 1.0 if truncation is None else truncation

    def fn(z: tf.Tensor) -> tf.Tensor:
        inputs = {bound.main: scale * transport_fn(z[:, :dim])}
        for name in bound.extras:
            inputs[name] = tf.constant(scale) if name == "truncation" else classes_fn(z[:, dim:])  # type: ignore[misc]
        return bound.fn(inputs)

    return in_batches(fn, bound)


def _latent_dim(bound: Bound, given: GeneratorSettings, card: Mapping[str, Any], where: str) -> int:
    own = bound.spec.shape[-1] if bound.spec.shape.rank else None
    said = card.get("latent_dim") if given.latent_dim is None else given.latent_dim
    dim = own if said is None else said
    if dim is None:
        raise fail(f"model {where}", "a known latent_dim", "none in model.json or its signature", "give latent_dim")
    check_int("latent_dim", dim, 1, MAX_LATENT_DIM)
    if own not in (None, dim):
        raise fail(f"model {where} latent_dim", f"{own}, as its signature says", dim, "leave latent_dim out")
    return dim


def _truncation(bound: Bound, given: GeneratorSettings, where: str) -> float | None:
    if "truncation" in bound.extras:
        return 1.0 if given.truncation is None else float(given.truncation)
    if given.truncation is not None:
        raise fail("truncation", f"none for {where}, which takes none", given.truncation, "leave it out")
    return None


def _classes(
    bound: Bound,
    sources: tuple[GeneratorSettings, Mapping[str, Any], Use],
    where: str,
    with_class: Callable[[ClassFn], Callable[[Any], Any]],
) -> Classes | None:
    """Of a generator with a class input, None without one."""
    given, card, use = sources
    spec = next((spec for name, spec in bound.extras.items() if name != "truncation"), None)
    if spec is None:
        if given.generator_class is not None:
            raise fail("generator_class", f"none for {where}, which takes no class", given.generator_class, "leave it out")
        return None
    mode, takes_numbers = given.generator_class or "target", spec.dtype.is_integer
    num_classes = use.num_classes if takes_numbers else spec.shape[-1]
    if "labels" in card:
        labels = parse_labels(card["labels"], f"labels of {where}")
    elif num_classes == 1000:
        labels = imagenet_labels(1000)
    elif num_classes:
        labels = tuple(Label(str(k)) for k in range(num_classes))
    else:
        raise fail(f"model {where}", "a known number of classes", "none", "list its labels in a model.json in its folder")
    if mode == "latent" and takes_numbers:
        raise fail(
            "generator_class",
            "target or uniform for a generator of class numbers",
            "latent, which mixes classes",
            "give --generator_class=uniform",
        )
    return Classes(mode, labels, lambda index: with_class(class_fn(mode, len(labels), takes_numbers, index)))


def _guess_range(pixels: np.ndarray) -> tuple[float, float]:
    """The narrowest usual range that holds the pictures of some prior draws; (-1, 1) where none does."""
    low, high = float(pixels.min()), float(pixels.max())
    fitting = (bounds for bounds in (UNIT, SYMMETRIC, BYTES) if bounds[0] - 1e-3 <= low and high <= bounds[1] + 1e-3)
    return next(fitting, SYMMETRIC)
