"""Which of a function's inputs is what: the latent point, the image or sound, the class, the truncation."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfgradgen.core.contracts import IMAGE_CHANNELS
from tfgradgen.core.text import printable
from tfgradgen.models.loading.settings import GeneratorSettings, ModelSettings

EXTRAS = ("truncation", "y", "labels", "z")  # inputs beside the main one that a caller here knows how to fill
CLASS_NAMES = ("y", "labels")  # of the class input of public generators

_CLASS_LIKE = re.compile(r"label|class|one_?hot|categor|condition", re.IGNORECASE)
_SETTING_LIKE = re.compile(r"trunc|(^|_)psi|seed|alpha|fade|temperature|scale|strength|sigma|(^|_)lod|train", re.IGNORECASE)
_LATENT_LIKE = re.compile(r"z(_?in(put)?)?|noise\w*|latent\w*|random\w*", re.IGNORECASE)

Specs = Mapping[str, tf.TensorSpec]


class Inputs(NamedTuple):
    """main: name of the input of latent points, images or sounds. class_name: of a generator's class input, '' without one.
    is_guess: whether shapes or names alone tell which input is the class."""

    main: str
    class_name: str = ""
    is_guess: bool = False


class Misfit(NamedTuple):
    """Why a function cannot serve. got: what it takes or gives. remedy: what the user can do. is_near: whether the function
    would serve after that, or in another form, so that it is worth naming although there are others."""

    got: str
    remedy: str
    is_near: bool = True


def inputs_of(role: str, inputs: Specs, given: ModelSettings) -> Inputs | Misfit:
    """What each of `inputs` is to a `role`: 'generator', 'encoder', 'discriminator', 'classifier' or 'judge'."""
    inputs = {name: spec for name, spec in inputs.items() if not is_switch(spec)}
    if not inputs:
        return Misfit("no input", "give another signature", is_near=False)
    if role == "generator":
        return _of_generator(inputs, given if isinstance(given, GeneratorSettings) else GeneratorSettings())
    return _of_observer(role, inputs)


def is_switch(spec: tf.TensorSpec) -> bool:
    """Whether an input is a single truth value, as `training` is; it is always given False."""
    return bool(spec.dtype == tf.bool and spec.shape.rank == 0)


def width_of(spec: tf.TensorSpec) -> int | None:
    """How many numbers one row of an input holds; None where its shape does not say."""
    dims = _dims(spec)
    return None if dims is None or None in dims else math.prod(n for n in dims if n)


def takes_numbers(spec: tf.TensorSpec) -> bool:
    """Whether a class input takes one class number a row, not a one-hot row."""
    return spec.shape.rank is not None and width_of(spec) == 1


def shaped(rows: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """`rows` [B] or [B, n] in the shape of an input: [B, 1, 1, n], [B, n, 1, 1], [B, 1] or as they are."""
    dims = _dims(spec)
    if dims is None or len(dims) == len(rows.shape) - 1:
        return rows
    return tf.reshape(rows, [-1, *(rows.shape[-1] if n is None else n for n in dims)])


def listed(inputs: Specs) -> str:
    """The inputs as a person reads them."""
    return ", ".join(f"{printable(name)} {shown(spec)}" for name, spec in inputs.items())


def shown(spec: tf.TensorSpec) -> str:
    """As `float32 [?, 120]`; `float32 ?` where the rank is not known."""
    shape = "?" if spec.shape.rank is None else "[" + ", ".join("?" if n is None else str(n) for n in spec.shape) + "]"
    return f"{spec.dtype.name} {shape}"


def _dims(spec: tf.TensorSpec) -> list[int | None] | None:
    return None if spec.shape.rank is None else list(spec.shape[1:])


def _of_generator(inputs: Specs, given: GeneratorSettings) -> Inputs | Misfit:
    wanted = given.class_input
    if wanted is not None and wanted not in inputs:
        return Misfit(f"inputs {listed(inputs)}", "give the --generator_class_input=NAME of one of those")
    rest = {name: spec for name, spec in inputs.items() if name not in ("truncation", wanted)}
    class_name = wanted or ""
    if not wanted and len(rest) > 1:
        class_name = next((name for name in CLASS_NAMES if name in rest), "")
        rest.pop(class_name, None)
    if len(rest) == 2 and not class_name:
        pair = _told_apart(rest, given)
        if pair is None and (setting := _setting_of(rest)):
            remedy = "export it with a value for that, or say which is the class with --generator_class_input=NAME"
            return Misfit(
                f"inputs {listed(inputs)}, of which {printable(setting)} is neither a latent point nor a class", remedy
            )
        if pair is None:
            return Misfit(
                f"inputs {listed(inputs)}, any of which may be the class",
                "say which is with --generator_class_input=NAME",
            )
        return Inputs(*pair, is_guess=True)
    if len(rest) != 1:
        is_near = any(_is_latent(spec, given) for spec in inputs.values())
        return Misfit(f"inputs {listed(inputs)}", "export a function of a latent point, and a class at most", is_near)
    ((main, spec),) = rest.items()
    return Inputs(main, class_name) if _is_latent(spec, given) else _no_latent(main, spec)


def _no_latent(name: str, spec: tf.TensorSpec) -> Misfit:
    got = f"an input {printable(name)} {shown(spec)}"
    width, rank = width_of(spec), spec.shape.rank
    if not spec.dtype.is_floating:
        return Misfit(f"{got}, no latent point of floats", "export it with a float32 latent point", is_near=False)
    if width is not None and rank is not None and rank > 2:
        return Misfit(got, f"give --latent_dim={width} if normals fill it", is_near=rank > 2)
    return Misfit(f"{got}, no latent point [?, n]", "export a function of a latent point [?, n]", is_near=False)


def _is_latent(spec: tf.TensorSpec, given: GeneratorSettings) -> bool:
    """Whether independent normals fill it: [?, n], also with axes of length 1, or of any shape with latent_dim numbers."""
    dims = _dims(spec)
    if not spec.dtype.is_floating or dims == []:
        return False
    if dims is None or sum(n != 1 for n in dims) <= 1:
        return True
    return given.latent_dim is not None and given.latent_dim == width_of(spec)


def _may_be_class(name: str, inputs: Specs) -> bool:
    """Whether an input may be the class of each row: not one value for all rows, nor one with a name of another setting."""
    spec, others = inputs[name], [each for other, each in inputs.items() if other != name]
    if _SETTING_LIKE.search(name) and not _CLASS_LIKE.search(name):
        return False
    if spec.shape.rank in (None, 0):
        return spec.shape.rank is None
    rows = spec.shape[0]
    return rows is None or any(other.shape.rank and other.shape[0] == rows for other in others)


def _setting_of(inputs: Specs) -> str:
    """The first that is neither the class nor a latent point, '' without one."""
    narrow = (name for name, spec in inputs.items() if width_of(spec) == 1 or not spec.dtype.is_floating)
    return next((name for name in narrow if not _may_be_class(name, inputs)), "")


def _told_apart(inputs: Specs, given: GeneratorSettings) -> tuple[str, str] | None:
    """(latent point, class) of two inputs, by the first rule that leaves one way to see them; None where none does."""
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
        # What a person named takes precedence over what a width of 1 suggests: a latent point may be as narrow.
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
    if role in ("classifier", "judge") and len(inputs) == 1 and not fits:
        fits = [name for name, spec in inputs.items() if spec.dtype.is_floating and spec.shape.rank == 1]  # a waveform
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
        return Misfit(f"{got}, the bytes of image files", "export a function of a float32 tensor of pixels")
    if shape.rank == 3 and _has_channels(shape):
        return Misfit(f"{got}, an image without a batch axis", "export it with one, as [?, height, width, channels]")
    return Misfit(f"{got}, no image [?, height, width, channels]", "export a function of such images", is_near=False)


def _is_image(spec: tf.TensorSpec) -> bool:
    """[?, height, width, channels] of floats or integers, also without the last axis."""
    if not (spec.dtype.is_floating or spec.dtype.is_integer):
        return False
    rank = spec.shape.rank
    return rank in (None, 4) or (rank == 3 and not _has_channels(spec.shape))


def _has_channels(shape: Iterable[int | None]) -> bool:
    return list(shape)[-1] in IMAGE_CHANNELS
