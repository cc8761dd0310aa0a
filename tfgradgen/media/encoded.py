"""Files of a medium by TensorFlow ops alone, so that a server without Python writes them. `Medium` writes those of a run.

TensorFlow has no encoder for GIF. A GIF need not be compressed: its codes can keep a size of 8 bits, if a code that clears the
decoder's table comes so often that the table stays small (CompuServe, GIF89a specification, appendix F).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Tensor
from tfgradgen.core.lazy import tf
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium
from tfgradgen.media.sound import FULL, PAUSE, Sound
from tfgradgen.media.video import Video

LEVELS = 5  # of each of three colours
GREYS = LEVELS**3  # of clips with one channel
CLEAR, END = 0x80, 0x81  # codes of GIF that follow 7 bits of colours
MAX_SIDE = 2**16 - 1  # pixels
RUN = 126  # codes of 8 bits that may follow a clear code; after one more, codes have 9 bits
# Thresholds of ordered dithering (Bayer 1973), [8, 8] in (0, 1).
BAYER = np.array([[0.0]])
for _ in range(3):
    BAYER = np.block([[4 * BAYER, 4 * BAYER + 2], [4 * BAYER + 3, 4 * BAYER + 1]])
BAYER = ((BAYER + 0.5) / BAYER.size).astype(np.float32)


class Encoder(NamedTuple):
    """How a graph writes the files of one kind of medium.

    Attributes:
      dtype: Name of the type of what is stored.
      stored_fn: Values [B, *shape] in [-1, 1] -> what `Medium.stored` gives for them.
      files_fn: (stored [B, *shape], rate) -> the content of a file of each, string [B].
      sheet_fn: (stored [B, columns**2, *shape], columns, rate) -> one for all of each row, stored [B, ...].
    """

    dtype: str
    stored_fn: Callable[[Tensor], Tensor]
    files_fn: Callable[[Tensor, float], Tensor]
    sheet_fn: Callable[[Tensor, int, float], Tensor]


def encoder_of(medium: Medium) -> Encoder:
    """Return the encoder for the files of `medium`."""
    return _ENCODERS[medium.kind]


def bytes_name(medium: Medium) -> str:
    """Return the name of the output with files of `medium`. TensorFlow Serving gives outputs named *_bytes in base64."""
    return f"{medium.kind}_bytes"


def to_uint8(values: Tensor) -> Tensor:
    """Do as `media.image.to_uint8`, in a graph."""
    return tf.saturate_cast(tf.round((values + 1.0) * 127.5), tf.uint8)


def to_int16(values: Tensor) -> Tensor:
    """Do as `Sound.stored`, in a graph."""
    return tf.cast(tf.clip_by_value(tf.round(values * FULL), -FULL, FULL), tf.int16)


def encode_png(images: Tensor, rate: float = 0.0) -> Tensor:
    """Return `images` uint8 [B, height, width, 1, 3 or 4 channels] as PNG files, string [B]."""
    return tf.io.encode_png(images)


def encode_wav(sounds: Tensor, rate: float) -> Tensor:
    """Return `sounds` int16 [B, samples] as WAV files with one channel, string [B]."""

    def file_of(sound: Tensor) -> Tensor:
        # The op multiplies by 2^15, which gives the same integers back.
        return tf.audio.encode_wav(tf.cast(sound, tf.float32)[:, None] / 2.0**15, max(1, round(rate)))

    return tf.map_fn(file_of, sounds, fn_output_signature=tf.TensorSpec([], tf.string))


def encode_gif(clips: Tensor, rate: float) -> Tensor:
    """Return `clips` uint8 [B, frames, height, width, 1, 3 or 4 channels] as GIF files that repeat for ever, string [B].

    All but B are static. Colours have `LEVELS` levels a channel, greys `GREYS`, with ordered dithering; a fourth channel
    is left out. GIF has steps of a hundredth of a second, and viewers slow down anything below two of them.

    Raises:
      UserError: A side has more than `MAX_SIDE` pixels.
    """
    frames, height, width = clips.shape[1:4]
    if max(height, width) > MAX_SIDE:
        raise fail(
            "clips", f"at most {MAX_SIDE} pixels a side, as GIF has them", f"{height} x {width}", "choose another --generator"
        )
    count, whole = tf.shape(clips)[0], height * width // RUN
    pixels = tf.reshape(_dithered(clips), [count, frames, height * width])
    parts = []
    if whole:
        runs = tf.reshape(pixels[..., : whole * RUN], [count, frames, whole, RUN])
        prefix = tf.broadcast_to(np.array([RUN + 1, CLEAR], np.uint8), [count, frames, whole, 2])
        parts.append(tf.reshape(tf.concat([prefix, runs], -1), [count, frames, whole * (RUN + 2)]))
    rest = height * width - whole * RUN
    if rest:
        prefix = tf.broadcast_to(np.array([rest + 1, CLEAR], np.uint8), [count, frames, 2])
        parts += [prefix, pixels[..., whole * RUN :]]

    delay = max(round(100 / rate), 2)
    begin = [*b"\x21\xf9\x04\x04", *_two(delay), 0, 0, 0x2C, *_two(0), *_two(0), *_two(width), *_two(height), 0, 7]
    each = [tf.broadcast_to(np.array(some, np.uint8), [count, frames, len(some)]) for some in (begin, [1, END, 0])]
    body = tf.concat([each[0], *parts, each[1]], -1)
    palette = _palette(clips.shape[-1])
    head = [*b"GIF89a", *_two(width), *_two(height), 0xF6, 0, 0, *palette, *b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"]
    ends = [tf.broadcast_to(np.array(some, np.uint8), [count, len(some)]) for some in (head, [0x3B])]
    return _as_text(tf.concat([ends[0], tf.reshape(body, [count, frames * body.shape[-1]]), ends[1]], -1))


def _two(number: int) -> tuple[int, int]:
    """Return the two bytes of a number, the lower one first."""
    return number & 0xFF, number >> 8


def _palette(channels: int) -> list[int]:
    """Return 128 colours, red, green and blue of each; the last three are not used."""
    if channels == 1:
        colours = np.repeat(np.arange(GREYS)[:, None], 3, 1) * 255.0 / (GREYS - 1)
    else:
        colours = np.indices((LEVELS,) * 3).reshape(3, -1).T * 255.0 / (LEVELS - 1)
    padded = np.pad(np.rint(colours).astype(int), [(0, 128 - len(colours)), (0, 0)])
    return padded.ravel().tolist()  # type: ignore[no-any-return]


def _dithered(clips: Tensor) -> Tensor:
    """Return the index in `_palette` of each pixel, uint8 [B, frames, height, width]."""
    height, width, channels = clips.shape[2:]
    levels = GREYS if channels == 1 else LEVELS
    threshold = np.tile(BAYER, (-(-height // 8), -(-width // 8)))[:height, :width, None]
    # The highest value is the highest level itself: all thresholds are below 1.
    level = tf.cast(tf.floor(tf.cast(clips[..., :3], tf.float32) * ((levels - 1) / 255.0) + threshold), tf.int32)
    level = tf.minimum(level, levels - 1)
    weights = [1] if channels == 1 else [LEVELS**2, LEVELS, 1]
    return tf.cast(tf.reduce_sum(level * weights, -1), tf.uint8)


def _as_text(values: Tensor) -> Tensor:
    """Return the bytes [B, n] uint8 as strings [B]."""
    table = tf.constant(np.array([bytes([k]) for k in range(256)], object))  # of objects: others lose the byte 0
    return tf.strings.reduce_join(tf.gather(table, tf.cast(values, tf.int32)), -1)


def tiled(images: Tensor, columns: int, rate: float = 0.0) -> Tensor:
    """Return images or clips [B, columns**2, ..., height, width, channels] as the tiles of one, a layout without axis 1."""
    *between, height, width, channels = images.shape[2:]
    num = len(between)
    parts = tf.reshape(images, [-1, columns, columns, *images.shape[2:]])
    parts = tf.transpose(parts, [0, *range(3, 3 + num), 1, 3 + num, 2, 4 + num, 5 + num])
    return tf.reshape(parts, [-1, *between, columns * height, columns * width, channels])


def in_a_row(sounds: Tensor, columns: int, rate: float) -> Tensor:
    """Return sounds [B, columns**2, samples] one after another, with a pause after each, [B, n]."""
    padded = tf.pad(sounds, [(0, 0), (0, 0), (0, round(PAUSE * rate))])
    return tf.reshape(padded, [-1, columns**2 * padded.shape[2]])


_ENCODERS = {
    Image.kind: Encoder("uint8", to_uint8, encode_png, tiled),
    Sound.kind: Encoder("int16", to_int16, encode_wav, in_a_row),
    Video.kind: Encoder("uint8", to_uint8, encode_gif, tiled),
}
