"""Generators with a common interface: z ~ Normal(0, I) to images, sounds or clips in [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import check_choice, check_int, fail
from tfgradgen.core.contracts import is_channels_first
from tfgradgen.core.text import printable
from tfgradgen.media.medium import CHANNELS, Medium
from tfgradgen.media.registry import MEDIA, kind_of
from tfgradgen.models.conditional import ClassFn, ClassForm, class_fn, class_labels, class_number, num_coordinates
from tfgradgen.models.encoder import encoder_of
from tfgradgen.models.loading.families import resolve_role
from tfgradgen.models.loading.inputs import shaped, shown, takes_numbers, width_of
from tfgradgen.models.loading.layout import channels_first_error, to_channels_last
from tfgradgen.models.loading.metadata import Label, parse_range
from tfgradgen.models.loading.ranges import BYTES, LEAST_USED, OVERSHOOT, SYMMETRIC, UNIT, from_range
from tfgradgen.models.loading.rates import rate_of
from tfgradgen.models.loading.roles import BoundSignature, bind_signature, in_batches
from tfgradgen.models.loading.saved_model import Opened, open_saved_model, try_call
from tfgradgen.models.loading.settings import CHANNELS_FIRST, MAX_WIDTH, PRIORS, GeneratorSettings, settings_of, with_card
from tfgradgen.models.priors import TRANSPORTS
from tfgradgen.models.shipped import PHOTOGRAPHS, shipped_model

NUM_PROBED = 16  # prior draws whose images are used to guess an unknown image range
CARD = ("class_input", "class_slice", "num_classes", "layout")  # settings that a model.json may give instead of a flag


class Classes(NamedTuple):
    """The classes of a class-conditional generator.

    Attributes:
      mode: Source of the class (`GeneratorSettings.generator_class`).
      labels: The classes.
      fn_of: Class number -> function of z.
      has_names: False if the labels are only numbers.
      place: Description of the input that takes the class.
    """

    mode: str
    labels: tuple[Label, ...]
    fn_of: Callable[[int], Callable[[Any], Any]]
    has_names: bool = True
    place: str = ""


@dataclass(frozen=True, eq=False)
class Generator:
    """`generator(z)`: z [B, latent_dim] float32, z ~ Normal(0, I) -> image [B, height, width, channels] in [-1, 1].

    In place of images it may give sounds [B, samples] or clips [B, frames, height, width, channels]: see `medium`.

    Attributes:
      fn: z -> image in the model's own range.
      latent_dim: Dimension of z, including the extra coordinates for the class, which come last.
      image_shape: Shape of one image (height, width, channels), sound or clip.
      image_range: (low, high) of the model's own images, before they are mapped to [-1, 1].
      path: Where the model was loaded from.
      sha256: Digest of its files; '' if it has none.
      assumed: Names of the settings that were guessed.
      module: The loaded SavedModel.
      prior: Distribution of the model's own latent point, an exact transport of z.
      truncation: Scale of that latent point; None if the model has no such input.
      classes: Classes of a class-conditional model; None for others.
      encode_fn: image [1, H, W, 3] in [-1, 1] -> z [1, latent_dim]; None if the model has no encoder.
      signature: The signature in use, one of `signatures`.
      tags: Tags of the meta graph in use.
      signatures: All signatures, as text.
      kind: Kind of medium (`media.registry.MEDIA`); '' for the one with as many axes.
      rate: Samples per second of its sounds, or frames per second of its clips; None for images.
      given: The settings with which `load_generator` made it; None for one made otherwise.
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
    kind: str = ""
    rate: float | None = None
    given: dict[str, Any] | None = None

    @property
    def medium(self) -> Medium:
        """What it gives."""
        return MEDIA[self.kind or kind_of(self.image_shape)](self.image_shape, self.rate)

    @property
    def generator_class(self) -> str | None:
        """Source of the class of a class-conditional generator; None for an unconditional one."""
        return self.classes.mode if self.classes else None

    def __call__(self, z: tf.Tensor) -> tf.Tensor:
        # Some models lose their static shape in graph mode, but later code needs it.
        image = tf.ensure_shape(tf.cast(self.fn(z), tf.float32), [None, *self.image_shape])
        return from_range(image, self.image_range)

    def for_label(self, label: Label) -> "Generator":
        """Return the generator for chains of `label`: with that class in mode 'target', otherwise this one.

        Raises:
          UserError: The generator does not have the class.
        """
        if self.classes is None or self.classes.mode != "target":
            return self
        return self.of_class(class_number(label, self.classes.labels, self.path))

    def of_class(self, number: int) -> "Generator":
        """Return the generator with class `number` for all images; its z has no extra coordinates, as in mode 'target'."""
        return replace(self, fn=self.classes.fn_of(number), given=None) if self.classes else self

    def with_class_names(self, labels: tuple[Label, ...]) -> "Generator":
        """Return the generator with the class names of a classifier, if it has none and the numbers of classes agree."""
        if self.classes is None or self.classes.has_names or len(labels) != len(self.classes.labels):
            return self
        classes = self.classes._replace(labels=labels, has_names=True)
        return replace(self, classes=classes, assumed=(*self.assumed, "class_names"))


def load_generator(
    path: str | Path | None = None,
    *,
    latent_dim: int | None = None,
    prior: str | None = None,
    image_range: tuple[float, float] | None = None,
    truncation: float | None = None,
    generator_class: str | None = None,
    class_input: str | None = None,
    class_slice: str | tuple[int | None, int | None] | None = None,
    num_classes: int | None = None,
    layout: str | None = None,
    rate: float | None = None,
    signature: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    models: str = PHOTOGRAPHS,
    **unknown: NoReturn,
) -> Generator:
    """Load a generator of images, sounds or clips from latent points.

    Settings that are not given come from model.json, the family of the model, its signature or its images. Guessed settings
    are listed in `assumed`.

    Args:
      path: A folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle, in TF2 or TF1-hub
        format. By default the generator that comes with the package.
      latent_dim: Dimension of the model's own latent point.
      prior: Its distribution: 'normal', 'truncated_normal' (at two standard deviations) or 'uniform' (-1 to 1).
      image_range: (low, high) of the model's images.
      truncation: In (0, 1], for models with this input.
      generator_class: Source of the class of a class-conditional generator. 'target': the class that is sampled. 'uniform': an
        extra normal coordinate, whose quantile chooses the class. 'latent': the softmax of one extra normal coordinate per
        class.
      class_input: Name of the input that takes the class.
      class_slice: (start, stop), or 'START:STOP', of the coordinates of the model's own latent point that are a one-hot class.
      num_classes: Number of classes of a class-conditional generator.
      layout: Order of the axes of the images, 'channels_last' or 'channels_first'.
      rate: Samples per second of its sounds, or frames per second of its clips.
      signature: The signature to call, NAME or NAME:OUTPUT.
      tags: Tags of the meta graph to load.
      allow_unknown_ops: Whether to load a model with ops that are not on the list of allowed ones.
      models: Without `path`, the set of models that come with the package: 'photographs', 'speech' or 'actions'.

    Raises:
      UserError: The model does not load or has no suitable signature, its output is not an image, sound or clip, the prior is
        unknown, or an argument is unknown.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "models", "unknown")}
    given = settings_of(GeneratorSettings, settings | unknown)
    made = _load(shipped_model("generator", models) if path is None else path, given)
    return replace(made, given={name: value for name, value in settings.items() if value is not None})


def _load(path: str | Path, given: GeneratorSettings) -> Generator:
    where = str(path)
    opened = open_saved_model(path, given.tags, "gen", given.allow_unknown_ops)
    card = opened.metadata
    given = with_card(given, card, CARD, where)
    kind = card.get("kind", "")
    use, assumed = resolve_role(opened, "generator")
    wanted = given if given.latent_dim is not None else replace(given, latent_dim=_card_dim(card))
    bound = bind_signature(opened, "generator", use, wanted)
    prior = given.prior or card.get("prior")
    if prior is None and not use.is_known:
        assumed.append("prior")
    prior = check_choice(f"model {path} prior", prior or use.prior, PRIORS)
    width, truncation = _latent_dim(bound, given, card, where), _truncation(bound, given, where)
    latent = _Latent(bound, width, prior, truncation, given.layout, kind, _hot(width, given, where))
    classes = _classes(opened, latent, given, use.num_classes)
    more = num_coordinates(classes.mode, len(classes.labels)) if classes else 0
    fn = classes.fn_of(0) if classes else latent.fn()
    dim = latent.num_free + more
    ranks = tuple(len(medium.axes) + 1 for medium in MEDIA.values())
    image = try_call(fn, tf.random.stateless_normal([NUM_PROBED, dim], [0, 0]), ranks, where)
    medium = _medium(image, kind, given, where)
    rate, is_guess = rate_of(medium, given.rate, card, use, where)
    own_range = BYTES if bound.gives is not None and bound.gives.dtype == tf.uint8 else None
    bounds = given.image_range or card.get("image_range") or use.image_range or own_range
    if bounds is None:
        bounds = SYMMETRIC if medium.usual_range else _guess_range(image.numpy())
        assumed.append("image_range")
    if is_guess:
        assumed.append("rate")
    if classes and bound.class_is_guess:
        assumed.append("class_input")
    return Generator(
        fn,
        dim,
        tuple(image.shape[1:]),
        parse_range(bounds, where),
        where,
        opened.sha256,
        tuple(assumed),
        opened.module,
        prior,
        truncation,
        classes,
        encoder_of(opened, dim),
        bound.name,
        tuple(map(printable, opened.tags)),
        opened.listed(),
        medium.kind,
        rate,
    )


class _Latent(NamedTuple):
    """The map from z to the inputs of the model.

    Attributes:
      bound: The signature in use.
      dim: Dimension of the model's own latent point.
      prior: Its distribution.
      truncation: Its scale; None for 1.
      layout: Order of the axes of the images.
      kind: Kind of medium, if its model.json names it.
      hot: (start, stop) of the coordinates of the latent point that are a one-hot class; None if there are none.
    """

    bound: BoundSignature
    dim: int
    prior: str
    truncation: float | None
    layout: str | None
    kind: str = ""
    hot: tuple[int, int] | None = None

    @property
    def num_free(self) -> int:
        """Number of coordinates that are not the class."""
        return self.dim - (self.hot[1] - self.hot[0] if self.hot else 0)

    @property
    def class_spec(self) -> tf.TensorSpec | None:
        if self.hot:
            return tf.TensorSpec([None, self.hot[1] - self.hot[0]], self.bound.spec.dtype)
        return self.bound.extras.get(self.bound.class_name)

    def fn(self, classes_fn: ClassFn | None = None) -> Callable[[Any], Any]:
        """Return the model as a function of z [B, num_free + extra class coordinates] -> image in its own range."""
        transport_fn, scale = TRANSPORTS[self.prior], 1.0 if self.truncation is None else self.truncation
        bound, free = self.bound, self.num_free

        def fn(z: tf.Tensor) -> tf.Tensor:
            point = scale * transport_fn(z[:, :free])
            if self.hot and classes_fn:
                start = self.hot[0]
                point = tf.concat([point[:, :start], tf.cast(classes_fn(z[:, free:]), point.dtype), point[:, start:]], 1)
            inputs = {bound.main: shaped(point, bound.spec)}
            if "truncation" in bound.extras:
                inputs["truncation"] = tf.constant(scale)
            if bound.class_name and classes_fn:
                inputs[bound.class_name] = shaped(classes_fn(z[:, free:]), bound.extras[bound.class_name])
            return _canonical(bound.fn(inputs), self.layout, self.kind)

        return in_batches(fn, bound)


def _canonical(output: Any, layout: str | None, kind: str) -> Any:
    """Convert an output to float, with the axes of its medium, channels last."""
    if not tf.is_tensor(output):
        return output  # `try_call` reports it
    if output.dtype.is_integer:
        output = tf.cast(output, tf.float32)
    dims = list(output.shape[1:]) if output.shape.rank else []
    kind = kind if kind and MEDIA[kind].takes(dims) else kind_of(dims)
    if not kind:
        return output
    is_first = layout == CHANNELS_FIRST and MEDIA[kind].has_channels and len(dims) == len(MEDIA[kind].axes)
    return to_channels_last(output) if is_first else MEDIA[kind].canonical(output)


def _medium(image: tf.Tensor, kind: str, given: GeneratorSettings, where: str) -> Medium:
    """Return the medium of an output, of which model.json may name the `kind`.

    Raises:
      UserError: It is of another kind, or its channels come first or are too many.
    """
    dims = list(image.shape[1:])
    got = f"an output [?, {', '.join(map(str, dims))}]"
    found = MEDIA[kind or kind_of(dims)](tuple(dims))
    if not found.takes(dims) or len(found.axes) != len(dims):
        expected = f"{found.plural} [?, {', '.join(found.axes)}], as its model.json says"
        raise fail(f"model {where}", expected, got, "correct kind in its model.json, or choose another output")
    if given.layout is None and is_channels_first(dims):
        raise channels_first_error(f"model {where}", "generator", got)
    if found.has_channels and dims[-1] not in CHANNELS:
        remedy = "choose another output, as signature=NAME:OUTPUT, or export it with its channels last"
        expected = f"{found.plural} [?, {', '.join(found.axes)}] with 1, 3 or 4 channels"
        raise fail(f"model {where}", expected, got, remedy)
    return found


def _card_dim(card: Any) -> int | None:
    said = card.get("latent_dim")
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None


def _latent_dim(bound: BoundSignature, given: GeneratorSettings, card: Any, where: str) -> int:
    own = width_of(bound.spec)
    said = card.get("latent_dim") if given.latent_dim is None else given.latent_dim
    dim = own if said is None else said
    if dim is None:
        raise fail(f"model {where}", "a known latent_dim", "none in model.json or its signature", "give --latent_dim=N")
    check_int("latent_dim", dim, 1, MAX_WIDTH)
    if own not in (None, dim):
        raise fail(f"model {where} latent_dim", f"{own}, as in its signature", dim, "leave latent_dim out")
    return dim


def _truncation(bound: BoundSignature, given: GeneratorSettings, where: str) -> float | None:
    if "truncation" in bound.extras and bound.class_name != "truncation":
        return 1.0 if given.truncation is None else float(given.truncation)
    if given.truncation is not None:
        raise fail("truncation", f"none for {where}, which has no such input", given.truncation, "leave it out")
    return None


def _hot(dim: int, given: GeneratorSettings, where: str) -> tuple[int, int] | None:
    """Return (start, stop) of the class in a latent point with `dim` coordinates."""
    if given.class_slice is None:
        return None
    start, stop, _ = slice(*given.class_slice).indices(dim)
    first, last = given.class_slice
    is_inside = all(n is None or -dim <= n <= dim for n in (first, last))
    if not is_inside or not 0 < stop - start < dim:
        shown_slice = ":".join("" if n is None else str(n) for n in given.class_slice)
        expected = f"a part of the {dim} coordinates of z"
        raise fail(
            f"model {where} class_slice", expected, shown_slice, f"give --generator_class_slice=START:STOP within 0:{dim}"
        )
    return start, stop


def _classes(opened: Opened, latent: _Latent, given: GeneratorSettings, known: int) -> Classes | None:
    """Return the classes of a class-conditional generator, otherwise None; `known` is the number in its family, or 0."""
    spec, where = latent.class_spec, opened.handle
    if spec is None:
        for name in ("generator_class", "num_classes"):
            if getattr(given, name) is not None:
                raise fail(name, f"none for {where}, which takes no class", getattr(given, name), "leave it out")
        return None
    mode = given.generator_class or "target"
    form = ClassForm(takes_numbers(spec), None if takes_numbers(spec) else width_of(spec))
    name = printable(latent.bound.class_name)
    place = f"coordinates {latent.hot[0]}:{latent.hot[1]} of z" if latent.hot else f"{name} {shown(spec)}"
    labels, has_names = class_labels(opened, form, given.num_classes or known, place)
    if mode == "latent" and (form.takes_numbers or spec.dtype.is_integer):
        raise fail(
            "generator_class",
            "target or uniform for a generator that takes class numbers",
            "latent, which mixes classes",
            "give --generator_class=uniform",
        )

    def fn_of(index: int) -> Any:
        return latent.fn(class_fn(mode, len(labels), form.takes_numbers, index))

    return Classes(mode, labels, fn_of, has_names, place)


def _guess_range(pixels: np.ndarray) -> tuple[float, float]:
    """Guess the image range: the narrowest common range that contains `pixels` and is not nearly unused, else (-1, 1)."""
    low, high = float(pixels.min()), float(pixels.max())

    def fits(bounds: tuple[float, float]) -> bool:
        width = bounds[1] - bounds[0]
        room = OVERSHOOT * width
        return bounds[0] - room <= low and high <= bounds[1] + room and high - low >= LEAST_USED * width

    return next(filter(fits, (UNIT, SYMMETRIC, BYTES)), SYMMETRIC)
