"""Film strips of labelled actions: reading, windows of frames, and how training changes them.

A data set is a folder or .tar with `train/<action>/<name>.jpg` and `val/<action>/<name>.jpg`: strips of square frames side by
side, 25 a second.
"""

import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from tfgradgen.core.parsing import parsing

ACTIONS = ("one_hand_wave", "two_hand_wave", "jumping_jack", "bend")
FRAMES, SIZE = 16, 64
STRIDE = 3  # of the original frames; 16 of them show most of a bend
RATE = 25 / STRIDE  # frames a second
MAX_FRAMES = 1000
BORDER = 8  # pixels around a frame, mirrored, into which a shifted view may reach
KINDS = 6  # of clips that show no action, see `spoiled`


class Strip(NamedTuple):
    """One recording: uint8 frames [T, 64, 64, 3] and the number of its action."""

    frames: np.ndarray
    action: int


def as_frames(image, size=SIZE):
    """Return uint8 frames [T, size, size, 3] of a strip, a Pillow image; fail if its size is that of none."""
    width, height = image.size
    if height != size or width % size or not FRAMES <= width // size <= MAX_FRAMES:
        raise SystemExit(
            f"strip: expected {FRAMES} to {MAX_FRAMES} frames of {size} x {size} pixels side by side, "
            f"got an image of {width} x {height}; cut it into such frames."
        )
    pixels = np.asarray(image.convert("RGB"))
    return pixels.reshape(size, -1, size, 3).swapaxes(0, 1).copy()


def files(data):
    """Yield (path inside of the data set, bytes) of each .jpg or .png of a folder or .tar, sorted by path."""
    data = Path(data)
    if data.is_dir():
        for path in sorted([*data.rglob("*.jpg"), *data.rglob("*.png")]):
            yield path.relative_to(data).parts, path.read_bytes()
    else:
        with parsing(str(data), "a folder or .tar of strips", "give one"), tarfile.open(data) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = archive.extractfile(member) if member.name.endswith((".jpg", ".png")) else None
                if file is not None:
                    yield Path(member.name).parts, file.read()


def load(data, split, actions=ACTIONS):
    """Return the strips of `split` ('train' or 'val') of the actions, in the order of their paths."""
    strips = []
    for parts, content in files(data):
        if len(parts) >= 3 and parts[-3] == split and parts[-2] in actions:
            with parsing("/".join(parts), "an image", "take it away, or give another"):
                image = Image.open(io.BytesIO(content)).convert("RGB")
            strips.append(Strip(as_frames(image), actions.index(parts[-2])))
    if {strip.action for strip in strips} != set(range(len(actions))):
        raise SystemExit(f"data: expected strips in {data}/{split}/ for each of {', '.join(actions)}, got too few; give more.")
    return strips


def indices(length, start, stride):
    """Return the frames [16] of a window: `stride` apart, rounded to whole ones."""
    return np.minimum(np.round(start + stride * np.arange(FRAMES)).astype(int), length - 1)


class Windows:
    """Random windows of strips, as many of each action; equal (seed, step) give equal windows.

    Args:
      strips: A list of `Strip`.
      speeds: Least and largest factor of the speed; windows never reach beyond a strip.
    """

    def __init__(self, strips, speeds=(1.0, 1.0)):
        self.strips, self.speeds = strips, speeds
        self.by_action = [[s for s in strips if s.action == k] for k in range(1 + max(s.action for s in strips))]

    def batch(self, count, seed, step):
        """Return uint8 clips [count, 16, 64, 64, 3] and actions [count]."""
        rng = np.random.default_rng((seed, step))
        labels = rng.permutation(np.arange(count) % len(self.by_action))
        return np.stack([self.one(rng, label) for label in labels]), labels.astype("int32")

    def one(self, rng, label):
        frames = self.by_action[label][rng.integers(len(self.by_action[label]))].frames
        most = (len(frames) - 1) / (FRAMES - 1)
        stride = min(STRIDE * rng.uniform(*self.speeds), most)
        return frames[indices(len(frames), rng.uniform(0, len(frames) - 1 - stride * (FRAMES - 1)), stride)]

    def every(self, step):
        """Return all windows at the original speed that begin at multiples of `step` frames, and their actions."""
        reach = STRIDE * (FRAMES - 1)
        found = [
            (s.frames[indices(len(s.frames), start, STRIDE)], s.action)
            for s in self.strips
            for start in range(0, len(s.frames) - reach, step)
        ]
        return np.stack([clip for clip, _ in found]), np.array([action for _, action in found], "int32")


def as_clip(pixels):
    """Map uint8 pixels to float32 in [-1, 1]."""
    return tf.cast(pixels, tf.float32) / 127.5 - 1.0


def as_pixels(clip):
    """Map clips in [-1, 1] to uint8 pixels."""
    return np.asarray(tf.cast(tf.round((tf.clip_by_value(clip, -1.0, 1.0) + 1.0) * 127.5), tf.uint8))


def folded(clip):
    """Join clips and frames: [B, T, ...] -> [B T, ...]."""
    return tf.reshape(clip, [-1, *clip.shape[2:]])


def moved(clip, shift, zoom, mirror=False):
    """Shift each clip by up to `shift` pixels and enlarge or shrink it by up to 1 + `zoom`; mirror half of them if asked."""
    batch, frames = tf.shape(clip)[0], clip.shape[1]
    side = SIZE + 2 * BORDER
    padded = tf.pad(folded(clip), [[0, 0], [BORDER, BORDER], [BORDER, BORDER], [0, 0]], "REFLECT")
    centre = (side - 1) / 2 + tf.random.uniform([batch, 2], -shift, shift)
    half = (SIZE - 1) / 2 * tf.exp(tf.random.uniform([batch, 1], -1.0, 1.0) * np.log1p(zoom))
    if mirror:
        half = tf.concat([half, half * tf.where(tf.random.uniform([batch, 1], 0.0, 1.0) < 0.5, 1.0, -1.0)], 1)
    boxes = tf.repeat(tf.concat([centre - half, centre + half], 1) / (side - 1), frames, axis=0)
    views = tf.image.crop_and_resize(padded, boxes, tf.range(batch * frames), [SIZE, SIZE])
    return tf.reshape(views, tf.shape(clip))


def recoloured(clip, strength):
    """Change the colours of each clip: a random matrix near the identity, brightness, and sometimes no colour at all."""
    batch = tf.shape(clip)[0]
    matrix = tf.eye(3) + strength * tf.random.normal([batch, 3, 3]) * 0.5
    grey = tf.cast(tf.random.uniform([batch, 1, 1], 0.0, 1.0) < 0.5 * strength, tf.float32)
    matrix = (1 - grey) * matrix + grey * tf.ones([3, 3]) / 3
    matrix *= tf.exp(strength * tf.random.normal([batch, 1, 1]) * 0.7)
    shape = tf.shape(clip)
    flat = tf.matmul(tf.reshape(clip, [batch, -1, 3]), matrix) + strength * tf.random.normal([batch, 1, 3]) * 0.5
    return tf.clip_by_value(tf.reshape(flat, shape), -1.0, 1.0)


def varied(clip, shift=5.0, zoom=0.15, strength=0.3, noise=0.05):
    """Change clips as training does: mirror, shift, size, colours and noise, alike for all frames of a clip but the noise."""
    clip = recoloured(moved(clip, shift, zoom, mirror=True), strength)
    level = noise * tf.random.uniform(
        [tf.shape(clip)[0], 1, 1, 1, 1], 0.0, 1.0
    )  # the noise itself is the same for all, which is cheaper
    return tf.clip_by_value(clip + level * tf.random.normal(clip.shape[1:]), -1.0, 1.0)


def spoiled(clip):
    """Return clips that show no action, of six kinds in turn, made from clips that show one.

    The kinds: one frame repeated; the frames in a random order; the frames of two clips alternately; two clips over each
    other; a blurred clip of noise; the squares of the frames in a random order.
    """
    batch, frames = tf.shape(clip)[0], clip.shape[1]
    stranger = tf.roll(clip, 1, 0)
    still = tf.repeat(clip[:, frames // 2 : frames // 2 + 1], frames, axis=1)
    order = tf.argsort(tf.random.uniform([batch, frames], 0.0, 1.0), axis=1)
    shuffled = tf.gather(clip, order, batch_dims=1)
    turns = tf.where(tf.reshape(tf.range(frames) % 2 == 0, [1, frames, 1, 1, 1]), clip, stranger)
    over = 0.5 * (clip + stranger)
    coarse = tf.random.normal([batch, frames // 4, SIZE // 8, SIZE // 8, 3])
    blobs = tf.repeat(tf.repeat(tf.repeat(coarse, 4, 1), 8, 2), 8, 3) * 0.5 + tf.reduce_mean(clip, [1, 2, 3], keepdims=True)
    squares = tf.reshape(clip, [batch, frames, 4, SIZE // 4, 4, SIZE // 4, 3])
    squares = tf.transpose(squares, [0, 2, 4, 1, 3, 5, 6])
    squares = tf.reshape(squares, [batch, 16, frames, SIZE // 4, SIZE // 4, 3])
    squares = tf.gather(squares, tf.argsort(tf.random.uniform([batch, 16], 0.0, 1.0), axis=1), batch_dims=1)
    squares = tf.reshape(squares, [batch, 4, 4, frames, SIZE // 4, SIZE // 4, 3])
    squares = tf.reshape(tf.transpose(squares, [0, 3, 1, 4, 2, 5, 6]), tf.shape(clip))
    kinds = tf.stack([still, shuffled, turns, over, tf.clip_by_value(blobs, -1.0, 1.0), squares])
    return tf.gather_nd(kinds, tf.stack([tf.range(batch) % KINDS, tf.range(batch)], 1))


def as_strips(clips):
    """Return clips [N, T, H, W, 3] as one image [N H, T W, 3]: a row a clip."""
    count, frames, height, width, channels = clips.shape
    return clips.transpose(0, 2, 1, 3, 4).reshape(count * height, frames * width, channels)
