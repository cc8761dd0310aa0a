"""The function of a classifier: what its input takes, and how it is called with images, sounds or clips."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import is_channels_first
from tfgradgen.core.text import value_text
from tfgradgen.media.image import Image
from tfgradgen.media.registry import MEDIA, kind_of
from tfgradgen.models.loading.families import RoleSpec
from tfgradgen.models.loading.inputs import shown
from tfgradgen.models.loading.layout import channels_first_error, to_channels_first
from tfgradgen.models.loading.roles import BoundSignature, in_batches
from tfgradgen.models.loading.saved_model import Opened, try_call
from tfgradgen.models.loading.settings import CHANNELS_FIRST, ClassifierSettings, ModelSettings

NUM_PROBED = 8  # images of noise on which a model is tried
MAX_NUMBERS = 2**24  # values in one image; a larger input is surely a typo and would exhaust memory


def kind_taken(bound: BoundSignature, card: Mapping[str, Any], where: str) -> str:
    """Return the kind of medium that a function takes, as its model.json says or by the axes of its input."""
    rank, said = bound.spec.shape.rank, card.get("kind")
    if rank is None:
        return str(said or Image.kind)
    dims = list(bound.spec.shape[1:]) if rank > 1 else [None]
    if said and not MEDIA[said].takes(dims):
        expected = f"an input for {MEDIA[said].plural}, as its model.json says"
        raise fail(f"model {where}", expected, shown(bound.spec), "correct kind in its model.json, or choose another signature")
    return str(said or kind_of(dims))


def length_taken(bound: BoundSignature) -> tuple[int, ...]:
    """Return (samples,) of the sounds that a function takes; () for any length."""
    sizes = [n for n in (bound.spec.shape[1:] if bound.spec.shape.rank > 1 else ()) if n != 1]
    return () if None in sizes else tuple(sizes)


def frames_taken(bound: BoundSignature, given: ModelSettings) -> tuple[int | None, ...]:
    """Return (frames,) of the clips that a function takes, (None,) for any number; () if it takes no clips."""
    if bound.spec.shape.rank != 5:
        return ()
    return (bound.spec.shape[2 if given.layout == CHANNELS_FIRST else 1],)


def channels_taken(bound: BoundSignature, given: ModelSettings) -> int | None:
    """Return the number of channels of the input; None if the signature does not fix it."""
    shape = bound.spec.shape
    if shape.rank == 3:
        return 1
    return shape[1 if given.layout == CHANNELS_FIRST else -1] if shape.rank in (4, 5) else None


def seeing(bound: BoundSignature, given: ModelSettings, where: str) -> Callable[[Any], Any]:
    """Return a function of images [B, H, W, C] or clips in the size and range of the model: its scores [B, num_classes]."""
    spec, channels, is_first = bound.spec, channels_taken(bound, given), given.layout == CHANNELS_FIRST
    if given.layout is None and spec.shape.rank == 4 and is_channels_first(list(spec.shape[1:])):
        raise channels_first_error(f"model {where}", "classifier", f"its input {shown(spec)}")

    def see(image: tf.Tensor) -> tf.Tensor:
        if channels not in (None, image.shape[-1]):
            expected = f"images of {channels} channel{'s' if channels > 1 else ''}, as in its input {shown(spec)}"
            is_grey = (channels, image.shape[-1]) == (1, 3)
            remedy = "give --classifier_channels=grey to convert them" if is_grey else "use a generator that makes these"
            raise fail(f"model {where}", expected, image.shape[-1], remedy)
        if spec.dtype.is_integer:  # a cast alone would truncate
            image = tf.clip_by_value(tf.round(image), 0.0, 255.0)
        image = to_channels_first(image) if is_first else image
        return _as_row(bound.fn({bound.main: image[..., 0] if spec.shape.rank == 3 else image}))

    return in_batches(see, bound)


def _as_row(scores: Any) -> Any:
    """Reshape scores [B, K], [B] or [B, 1, 1, K] to [B, K]."""
    if not tf.is_tensor(scores):
        return scores  # `try_call` reports it
    if scores.shape.rank == 1:
        return scores[:, None]
    is_wide = scores.shape.rank == 4 and tuple(scores.shape[1:3]) == (1, 1)
    return tf.reshape(scores, [-1, scores.shape[3]]) if is_wide else scores


def hearing(bound: BoundSignature) -> Callable[[Any], Any]:
    """Return a function [B, samples] -> [B, num_classes]; of a model of one waveform, the mean over its frames."""
    shape = bound.spec.shape

    def hear_one(waveform: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(bound.fn({bound.main: waveform}), 0)

    def hear(waveforms: tf.Tensor) -> tf.Tensor:
        if shape.rank == 3 and len(waveforms.shape) == 2:
            waveforms = waveforms[..., None] if shape[2] == 1 else waveforms[:, None]
        return _as_row(bound.fn({bound.main: waveforms}))

    return (lambda waveforms: tf.map_fn(hear_one, waveforms)) if shape.rank == 1 else in_batches(hear, bound)


def size_taken(
    opened: Opened, given: ClassifierSettings, use: RoleSpec, bound: BoundSignature
) -> tuple[int | None, ...] | None:
    """Return (height, width) of the input, after the number of frames of clips; None if unknown."""
    shape = bound.spec.shape
    start = 1 + (shape.rank == 5) + (given.layout == CHANNELS_FIRST and shape.rank in (4, 5))
    own = shape[start : start + 2] if shape.rank in (3, 4, 5) and None not in tuple(shape[start : start + 2]) else None
    usual = (use.image_size, use.image_size) if use.image_size else None
    size: Any = given.image_size or opened.metadata.get("image_size") or own or usual
    if size is None:
        return None
    is_pair = isinstance(size, list | tuple | tf.TensorShape) and len(size) == 2
    if not is_pair or not all(isinstance(n, int) and n > 0 for n in size):
        raise fail(
            f"model {opened.handle} image_size", "two positive integers, height and width", value_text(size), "give both"
        )
    return (*frames_taken(bound, given), size[0], size[1])


def tried(
    fn: Callable[[Any], Any], kind: str, size: tuple[int | None, ...], bounds: Any, channels: int | None, where: str
) -> tf.Tensor:
    """Return the scores of noise."""
    rest = [MEDIA[kind].free_size if n is None else n for n in size or (None,)] + (
        [channels or 3] if MEDIA[kind].has_channels else []
    )
    if math.prod(rest) > MAX_NUMBERS:
        got = " x ".join(map(str, rest))
        raise fail(f"model {where}", f"an input of at most {MAX_NUMBERS:,} values", got, "give another image_size")
    return try_call(fn, tf.random.stateless_uniform([NUM_PROBED, *rest], [0, 0], *map(float, bounds)), 2, where)
