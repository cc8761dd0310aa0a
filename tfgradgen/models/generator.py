"""A generator: a model that makes images, brought to one latent prior and one image range."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import tensorflow as tf

from tfgradgen.core.checks import check_choice, check_int, fail
from tfgradgen.core.contracts import is_channels_first
from tfgradgen.core.text import printable
from tfgradgen.models.conditional import ClassFn, ClassForm, class_fn, class_labels, class_number, num_coordinates
from tfgradgen.models.encoder import encoder_of
from tfgradgen.models.loading.families import use_of
from tfgradgen.models.loading.inputs import shaped, shown, takes_numbers, width_of
from tfgradgen.models.loading.layout import channels_first_error, to_channels_last
from tfgradgen.models.loading.metadata import Label, parse_range
from tfgradgen.models.loading.ranges import BYTES, LEAST_USED, OVERSHOOT, SYMMETRIC, UNIT, from_range
from tfgradgen.models.loading.roles import Bound, bind, in_batches
from tfgradgen.models.loading.saved_model import Opened, open_saved_model, try_call
from tfgradgen.models.loading.settings import CHANNELS_FIRST, MAX_WIDTH, PRIORS, GeneratorSettings, settings_of, with_card
from tfgradgen.models.priors import TRANSPORTS
from tfgradgen.models.shipped import default_model

NUM_PROBED = 16  # prior draws whose images tell the range of a model that nothing else tells
MAX_CHANNELS = 4
CARD = ("class_input", "class_slice", "num_classes", "layout")  # settings that a model.json may give as a flag would


class Classes(NamedTuple):
    """Of a class-conditional generator. mode: where the class is from (`GeneratorSettings.generator_class`). labels: its
    classes. fn_of: class number -> its function of z. has_names: False where labels are mere numbers. place: what of the model
    takes the class, as a person reads it."""

    mode: str
    labels: tuple[Label, ...]
    fn_of: Callable[[int], Callable[[Any], Any]]
    has_names: bool = True
    place: str = ""


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
        return self.of_class(class_number(label, self.classes.labels, self.path))

    def of_class(self, number: int) -> "Generator":
        """The generator with its own class `number` for all images, whose z has the coordinates of mode 'target'."""
        return replace(self, fn=self.classes.fn_of(number)) if self.classes else self

    def with_class_names(self, labels: tuple[Label, ...]) -> "Generator":
        """The same, its classes named as those of a classifier, where nothing names them and there are as many."""
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
    signature: str | None = None,
    tags: tuple[str, ...] | None = None,
    allow_unknown_ops: bool = False,
    **unknown: NoReturn,
) -> Generator:
    """Loads a generator of images from latent points.

    What no argument says is taken from model.json, the model's family, its signature or its images. What had to be guessed is
    noted in `assumed`.

    Args:
      path: a folder with saved_model.pb or an archive of one, a TF-Hub URL or a Kaggle Models handle; TF2 or TF1-hub format. By
        default the generator that comes with the package.
      latent_dim: width of the model's latent point.
      prior: its law: 'normal', 'truncated_normal' (within two standard deviations) or 'uniform' (-1 to 1).
      image_range: (low, high) of the images that the model gives.
      truncation: of models that take one, in (0, 1].
      generator_class: where the class of a class-conditional generator is from: 'target', the class that is sampled; 'uniform',
        one more normal coordinate whose quantile picks a class; 'latent', a softmax of one more normal coordinate a class.
      class_input: name of the input that takes the class.
      class_slice: (start, stop), or 'START:STOP', of the coordinates of the model's own latent point that are a one-hot class.
      num_classes: of the class.
      layout: of the images' axes, 'channels_last' or 'channels_first'.
      signature: name of the function, NAME or NAME:OUTPUT.
      tags: of the meta graph.
      allow_unknown_ops: whether to load a model that holds operations that are not on the list of allowed ones.

    Raises:
      UserError: no model there, no usable function, an unknown prior, an output that is no image, or an unknown argument.
    """
    settings = {name: value for name, value in locals().items() if name not in ("path", "unknown")}
    given = settings_of(GeneratorSettings, settings | unknown)
    return _load(default_model("generator") if path is None else path, given)


def _load(path: str | Path, given: GeneratorSettings) -> Generator:
    where = str(path)
    opened = open_saved_model(path, given.tags, "gen", given.allow_unknown_ops)
    card = opened.metadata
    given = with_card(given, card, CARD, where)
    use, assumed = use_of(opened, "generator")
    told = given if given.latent_dim is not None else replace(given, latent_dim=_card_dim(card))
    bound = bind(opened, "generator", use, told)
    prior = given.prior or card.get("prior")
    if prior is None and not use.is_known:
        assumed.append("prior")
    prior = check_choice(f"model {path} prior", prior or use.prior, PRIORS)
    width, truncation = _latent_dim(bound, given, card, where), _truncation(bound, given, where)
    latent = _Latent(bound, width, prior, truncation, given.layout, _hot(width, given, where))
    classes = _classes(opened, latent, given, use.num_classes)
    more = num_coordinates(classes.mode, len(classes.labels)) if classes else 0
    fn = classes.fn_of(0) if classes else latent.fn()
    dim = latent.num_free + more
    image = try_call(fn, tf.random.stateless_normal([NUM_PROBED, dim], [0, 0]), (4, 2), where)
    _check_image(image, given, where)
    own_range = BYTES if bound.gives is not None and bound.gives.dtype == tf.uint8 else None
    bounds = given.image_range or card.get("image_range") or use.image_range or own_range
    if bounds is None:
        bounds = _guess_range(image.numpy())
        assumed.append("image_range")
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
    )


class _Latent(NamedTuple):
    """How z becomes the inputs of the model. dim: width of its own latent point. hot: (start, stop) of the coordinates there
    that are the class."""

    bound: Bound
    dim: int
    prior: str
    truncation: float | None
    layout: str | None
    hot: tuple[int, int] | None = None

    @property
    def num_free(self) -> int:
        """Coordinates that are not the class."""
        return self.dim - (self.hot[1] - self.hot[0] if self.hot else 0)

    @property
    def class_spec(self) -> tf.TensorSpec | None:
        if self.hot:
            return tf.TensorSpec([None, self.hot[1] - self.hot[0]], self.bound.spec.dtype)
        return self.bound.extras.get(self.bound.class_name)

    def fn(self, classes_fn: ClassFn | None = None) -> Callable[[Any], Any]:
        """The model as a function of z [B, num_free and the class's coordinates] -> its image, in its own range."""
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
            return _as_image(bound.fn(inputs), self.layout)

        return in_batches(fn, bound)


def _as_image(output: Any, layout: str | None) -> Any:
    """Integers as floats, grey images without the axis of their one channel with it, and channels last."""
    if not tf.is_tensor(output):
        return output  # `try_call` names it
    if output.dtype.is_integer:
        output = tf.cast(output, tf.float32)
    if output.shape.rank == 3:
        output = output[..., None]
    return to_channels_last(output) if layout == CHANNELS_FIRST and output.shape.rank == 4 else output


def _check_image(image: tf.Tensor, given: GeneratorSettings, where: str) -> None:
    dims = list(image.shape[1:])
    got = f"an output [?, {', '.join(map(str, dims))}]"
    if given.layout is None and is_channels_first(dims):
        raise channels_first_error(f"model {where}", "generator", got)
    if len(dims) == 3 and dims[2] > MAX_CHANNELS:
        remedy = "choose another output, or export it with its channels last"
        raise fail(f"model {where}", "images [?, height, width, channels] of 1, 3 or 4 channels", got, remedy)


def _card_dim(card: Any) -> int | None:
    said = card.get("latent_dim")
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None


def _latent_dim(bound: Bound, given: GeneratorSettings, card: Any, where: str) -> int:
    own = width_of(bound.spec)
    said = card.get("latent_dim") if given.latent_dim is None else given.latent_dim
    dim = own if said is None else said
    if dim is None:
        raise fail(f"model {where}", "a known latent_dim", "none in model.json or its signature", "give --latent_dim=N")
    check_int("latent_dim", dim, 1, MAX_WIDTH)
    if own not in (None, dim):
        raise fail(f"model {where} latent_dim", f"{own}, as its signature says", dim, "leave latent_dim out")
    return dim


def _truncation(bound: Bound, given: GeneratorSettings, where: str) -> float | None:
    if "truncation" in bound.extras and bound.class_name != "truncation":
        return 1.0 if given.truncation is None else float(given.truncation)
    if given.truncation is not None:
        raise fail("truncation", f"none for {where}, which takes none", given.truncation, "leave it out")
    return None


def _hot(dim: int, given: GeneratorSettings, where: str) -> tuple[int, int] | None:
    """(start, stop) of the class in a latent point of `dim` coordinates."""
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
    """Of a generator that takes a class, None of one that takes none. known: number of classes of its family, 0 if unknown."""
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
            "target or uniform for a generator of class numbers",
            "latent, which mixes classes",
            "give --generator_class=uniform",
        )

    def fn_of(index: int) -> Any:
        return latent.fn(class_fn(mode, len(labels), form.takes_numbers, index))

    return Classes(mode, labels, fn_of, has_names, place)


def _guess_range(pixels: np.ndarray) -> tuple[float, float]:
    """The narrowest usual range that holds the images of some prior draws, and of which they use a part; (-1, 1) where none
    does."""
    low, high = float(pixels.min()), float(pixels.max())

    def fits(bounds: tuple[float, float]) -> bool:
        width = bounds[1] - bounds[0]
        room = OVERSHOOT * width
        return bounds[0] - room <= low and high <= bounds[1] + room and high - low >= LEAST_USED * width

    return next(filter(fits, (UNIT, SYMMETRIC, BYTES)), SYMMETRIC)
