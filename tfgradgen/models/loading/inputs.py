"""Identification of the inputs of a function: the latent point, the image or sound, the class, the truncation."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.core.contracts import IMAGE_CHANNELS
from tfgradgen.core.text import printable
from tfgradgen.media.sound import Sound
from tfgradgen.models.loading.settings import GeneratorSettings, ModelSettings

EXTRAS = ("truncation", "y", "labels", "z")  # further inputs for which callers have a value
HEARING = ("classifier", "judge", "discriminator")  # roles in which a model may take sounds
CLASS_NAMES = ("y", "labels")  # names of the class input in public generators

_CLASS_LIKE = re.compile(r"label|class|one_?hot|categor|condition", re.IGNORECASE)
_SETTING_LIKE = re.compile(r"trunc|(^|_)psi|seed|alpha|fade|temperature|scale|strength|sigma|(^|_)lod|train", re.IGNORECASE)
_LATENT_LIKE = re.compile(r"z(_?in(put)?)?|noise\w*|latent\w*|random\w*", re.IGNORECASE)

Specs = Mapping[str, tf.TensorSpec]


class Inputs(NamedTuple):
    """The inputs of a function that suits a role.

    Attributes:
      main: Name of the input for latent points, images or sounds.
      class_name: Name of a generator's class input; '' if it has none.
      is_guess: Whether the class input was identified by shapes or names only.
      is_last_resort: Whether any other function is to be preferred: its input may be something else than a sound.
    """

    main: str
    class_name: str = ""
    is_guess: bool = False
    is_last_resort: bool = False


class Misfit(NamedTuple):
    """Why a function does not suit a role.

    Attributes:
      got: Its inputs or outputs.
      remedy: What the user can do.
      is_near: Whether the function would be suitable after that, so that it is worth reporting even if there are others.
    """

    got: str
    remedy: str
    is_near: bool = True


def inputs_of(role: str, inputs: Specs, given: ModelSettings) -> Inputs | Misfit:
    """Identify `inputs` for a `role`: 'generator', 'encoder', 'discriminator', 'classifier' or 'judge'."""
    inputs = {name: spec for name, spec in inputs.items() if not is_switch(spec)}
    if not inputs:
        return Misfit("no input", "give another signature", is_near=False)
    if role == "generator":
        return _of_generator(inputs, given if isinstance(given, GeneratorSettings) else GeneratorSettings())
    return _of_observer(role, inputs)


def is_switch(spec: tf.TensorSpec) -> bool:
    """Return whether an input is a single boolean, such as `training`. It always gets False."""
    return bool(spec.dtype == tf.bool and spec.shape.rank == 0)


def width_of(spec: tf.TensorSpec) -> int | None:
    """Return the number of values in one row of an input; None if the shape does not fix it."""
    dims = _dims(spec)
    return None if dims is None or None in dims else math.prod(n for n in dims if n)


def takes_numbers(spec: tf.TensorSpec) -> bool:
    """Return whether a class input takes one class number per row instead of a one-hot row."""
    return spec.shape.rank is not None and width_of(spec) == 1


def shaped(rows: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Reshape `rows` [B] or [B, n] to the shape of an input: [B, 1, 1, n], [B, n, 1, 1], [B, 1] or unchanged."""
    dims = _dims(spec)
    if dims is None or len(dims) == len(rows.shape) - 1:
        return rows
    return tf.reshape(rows, [-1, *(rows.shape[-1] if n is None else n for n in dims)])


def listed(inputs: Specs) -> str:
    """Format inputs as text."""
    return ", ".join(f"{printable(name)} {shown(spec)}" for name, spec in inputs.items())


def shown(spec: tf.TensorSpec) -> str:
    """Format a spec as `float32 [?, 120]`, or `float32 ?` if the rank is unknown."""
    shape = "?" if spec.shape.rank is None else "[" + ", ".join("?" if n is None else str(n) for n in spec.shape) + "]"
    return f"{spec.dtype.name} {shape}"


def _dims(spec: tf.TensorSpec) -> list[int | None] | None:
    return None if spec.shape.rank is None else list(spec.shape[1:])


def _of_generator(inputs: Specs, given: GeneratorSettings) -> Inputs | Misfit:
    wanted = given.class_input
    if wanted is not None and wanted not in inputs:
        return Misfit(f"inputs {listed(inputs)}", "give one of these as --generator_class_input=NAME")
    rest = {name: spec for name, spec in inputs.items() if name not in ("truncation", wanted)}
    class_name = wanted or ""
    if not wanted and len(rest) > 1:
        class_name = next((name for name in CLASS_NAMES if name in rest), "")
        rest.pop(class_name, None)
    if len(rest) == 2 and not class_name:
        pair = _latent_and_class(rest, given)
        if pair is None and (setting := _setting_of(rest)):
            remedy = "export it with a fixed value for that, or name the class input with --generator_class_input=NAME"
            return Misfit(
                f"inputs {listed(inputs)}, of which {printable(setting)} is neither a latent point nor a class", remedy
            )
        if pair is None:
            return Misfit(
                f"inputs {listed(inputs)}, any of which may be the class",
                "name the class input with --generator_class_input=NAME",
            )
        return Inputs(*pair, is_guess=True)
    if len(rest) != 1:
        is_near = any(_is_latent(spec, given) for spec in inputs.values())
        return Misfit(f"inputs {listed(inputs)}", "export a function of a latent point and at most a class", is_near)
    ((main, spec),) = rest.items()
    return Inputs(main, class_name) if _is_latent(spec, given) else _no_latent(main, spec)


def _no_latent(name: str, spec: tf.TensorSpec) -> Misfit:
    got = f"an input {printable(name)} {shown(spec)}"
    width, rank = width_of(spec), spec.shape.rank
    if not spec.dtype.is_floating:
        return Misfit(f"{got}, not a float latent point", "export it with a float32 latent point", is_near=False)
    if width is not None and rank is not None and rank > 2:
        return Misfit(got, f"give --latent_dim={width} if its values are independent normals", is_near=rank > 2)
    return Misfit(f"{got}, not a latent point [?, n]", "export a function of a latent point [?, n]", is_near=False)


def _is_latent(spec: tf.TensorSpec, given: GeneratorSettings) -> bool:
    """Return whether an input may be a latent point: [?, n], also with axes of length 1, or latent_dim values."""
    dims = _dims(spec)
    if not spec.dtype.is_floating or dims == []:
        return False
    if dims is None or sum(n != 1 for n in dims) <= 1:
        return True
    return given.latent_dim is not None and given.latent_dim == width_of(spec)


def _may_be_class(name: str, inputs: Specs) -> bool:
    """Return whether an input may be the class: it has one value per row, and its name is not that of another setting."""
    spec, others = inputs[name], [each for other, each in inputs.items() if other != name]
    if _SETTING_LIKE.search(name) and not _CLASS_LIKE.search(name):
        return False
    if spec.shape.rank in (None, 0):
        return spec.shape.rank is None
    rows = spec.shape[0]
    return rows is None or any(other.shape.rank and other.shape[0] == rows for other in others)


def _setting_of(inputs: Specs) -> str:
    """Return the first input that is neither the class nor a latent point; '' if there is none."""
    narrow = (name for name, spec in inputs.items() if width_of(spec) == 1 or not spec.dtype.is_floating)
    return next((name for name in narrow if not _may_be_class(name, inputs)), "")


def _latent_and_class(inputs: Specs, given: GeneratorSettings) -> tuple[str, str] | None:
    """Return (latent point, class) of two inputs, by the first rule that fits only one order; None if no rule does."""
    first, second = inputs
    pairs = [
        (z, c)
        for z, c in ((first, second), (second, first))
        if _is_latent(inputs[z], given)
        and _may_be_class(c, inputs)
        and (len(_dims(inputs[c]) or ()) <= 1 or width_of(inputs[c]) == 1)
    ]
    rules: tuple[Callable[[str, str], Any], ...] = (
        lambda z, c: not inputs[c].dtype.is_floating,
        # Names take precedence over a width of 1, because a latent point may have one coordinate.
        lambda z, c: _CLASS_LIKE.search(c) and not _CLASS_LIKE.search(z),
        lambda z, c: _LATENT_LIKE.fullmatch(z) and not _LATENT_LIKE.fullmatch(c),
        lambda z, c: takes_numbers(inputs[c]) and not takes_numbers(inputs[z]),
        lambda z, c: None not in (given.num_classes, width_of(inputs[z])) and width_of(inputs[c]) == given.num_classes,
        lambda z, c: None not in (given.latent_dim, width_of(inputs[c])) and width_of(inputs[z]) == given.latent_dim,
    )
    for rule in rules:
        fitting = [pair for pair in pairs if rule(*pair)]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _of_observer(role: str, inputs: Specs) -> Inputs | Misfit:
    fits = [name for name, spec in inputs.items() if _is_image(spec) and name not in ("truncation", "y")]
    if role in HEARING and len(inputs) == 1 and not fits:
        ((name, spec),) = inputs.items()
        if spec.dtype.is_floating and spec.shape.rank == 1:  # one waveform, without a batch axis
            return Inputs(name)
        if spec.dtype.is_floating and spec.shape.rank and Sound.takes(list(spec.shape[1:])):
            return Inputs(name, is_last_resort=True)
    named = [name for name in fits if name in ("x", "images", "inputs")]
    fits = named if len(fits) > 1 else fits
    allowed = (*fits[:1], *(EXTRAS if role in ("discriminator", "encoder") else ()))
    if len(fits) == 1 and all(name in allowed for name in inputs):
        return Inputs(fits[0])
    if len(inputs) == 1:
        return _no_image(*next(iter(inputs.items())))
    return Misfit(f"inputs {listed(inputs)}", "export a function of an image alone", is_near=bool(fits))


def _no_image(name: str, spec: tf.TensorSpec) -> Misfit:
    got, shape = f"an input {printable(name)} {shown(spec)}", spec.shape
    if spec.dtype == tf.string:
        return Misfit(f"{got}, for the bytes of image files", "export a function of a float32 tensor of pixels")
    if shape.rank == 3 and _has_channels(shape):
        return Misfit(f"{got}, an image without a batch axis", "export it with one, as [?, height, width, channels]")
    return Misfit(f"{got}, not an image [?, height, width, channels]", "export a function of such images", is_near=False)


def _is_image(spec: tf.TensorSpec) -> bool:
    """Return whether an input may be an image: [?, height, width, channels] or [?, height, width], floats or integers.

    Clips are [?, frames, height, width, channels].
    """
    if not (spec.dtype.is_floating or spec.dtype.is_integer):
        return False
    rank = spec.shape.rank
    return rank in (None, 4, 5) or (rank == 3 and not _has_channels(spec.shape) and 1 not in spec.shape[1:])


def _has_channels(shape: Iterable[int | None]) -> bool:
    return list(shape)[-1] in IMAGE_CHANNELS
