"""Files that a graph writes are read back by others, with the sizes, times and values that went in."""

import io
import wave
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image as Picture

from tfgradgen.core.checks import UserError
from tfgradgen.media.encoded import BAYER, LEVELS, RUN, encode_gif, encode_wav, encoder_of, in_a_row, tiled
from tfgradgen.media.image import Image
from tfgradgen.media.sound import PAUSE, Sound
from tfgradgen.media.video import Video


def in_graph(fn: Any, values: np.ndarray, *settings: Any) -> np.ndarray:
    """The result of `fn` on a batch of unknown size, in graph mode."""
    spec = tf.TensorSpec([None, *values.shape[1:]], values.dtype)
    found: np.ndarray = tf.function(lambda given: fn(given, *settings), [spec], autograph=False)(values).numpy()
    return found


def frames_of(gif: bytes) -> tuple[np.ndarray, list[int], Any]:
    """Frames uint8 [frames, height, width, 3], their durations in milliseconds, and the number of repetitions."""
    with Picture.open(io.BytesIO(gif)) as file:
        frames, durations = [], []
        for k in range(file.n_frames):
            file.seek(k)
            frames.append(np.asarray(file.convert("RGB")))
            durations.append(file.info["duration"])
        return np.stack(frames), durations, file.info["loop"]


@pytest.mark.parametrize(("height", "width", "channels"), [(7, 18, 3), (16, 24, 3), (5, 3, 4), (9, 31, 1)])
def test_a_clip_is_a_gif_that_pillow_reads(height: int, width: int, channels: int) -> None:
    """Of 7 x 18 pixels a frame is one run of codes; others end within one."""
    assert (height * width == RUN) == (height == 7)
    clips = np.random.default_rng(0).integers(0, 256, [2, 3, height, width, channels]).astype(np.uint8)
    for gif, clip in zip(in_graph(encode_gif, clips, 12.5), clips, strict=True):
        frames, durations, loop = frames_of(gif)
        assert frames.shape == (3, height, width, 3)
        assert (durations, loop) == ([80] * 3, 0)
        step = 255 / (124 if channels == 1 else LEVELS - 1)
        error = np.abs(frames - clip[..., :3].astype(float))
        assert error.max() < step + 1
        assert error.max() > step / 2, "dithered, not rounded"


@pytest.mark.parametrize("channels", [1, 3])
def test_dithering_keeps_a_colour_on_average(channels: int) -> None:
    """Over the 8 x 8 pixels of the thresholds, to a 64th of a level."""
    assert sorted((BAYER * 64 - 0.5).ravel().round(4).tolist()) == list(range(64))
    values = np.array([0, 1, 40, 63, 64, 128, 200, 254, 255], np.uint8)
    clips = np.broadcast_to(values[:, None, None, None, None], [len(values), 1, 16, 16, channels])
    for value, gif in zip(values, in_graph(encode_gif, clips, 25.0), strict=True):
        frames, _, _ = frames_of(gif)
        step = 255 / (124 if channels == 1 else LEVELS - 1)
        assert abs(frames.mean() - value) <= step / 64 + 0.5
        assert value not in (0, 255) or (frames == value).all()


def test_a_gif_of_one_frame_that_is_fast_and_wide() -> None:
    clips = np.zeros([1, 1, 2, 700, 3], np.uint8)
    frames, durations, _ = frames_of(in_graph(encode_gif, clips, 1000.0)[0])
    assert frames.shape == (1, 2, 700, 3)
    assert durations == [20]


def test_a_clip_that_is_too_wide_for_a_gif_is_one_line() -> None:
    with pytest.raises(UserError, match="clips: expected at most 65535 pixels a side, as GIF has them, got 1 x 65536"):
        encode_gif(tf.zeros([1, 1, 1, 2**16, 1], tf.uint8), 10.0)


def test_a_sound_is_a_wav_with_its_samples() -> None:
    sounds = np.random.default_rng(0).integers(-32767, 32768, [3, 500]).astype(np.int16)
    sounds[0, :3] = [-32767, 0, 32767]
    for content, sound in zip(in_graph(encode_wav, sounds, 8000.4), sounds, strict=True):
        with wave.open(io.BytesIO(content)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
            assert np.array_equal(np.frombuffer(file.readframes(500), "<i2"), sound)


@pytest.mark.parametrize("medium", [Image((4, 4, 3)), Sound((48,)), Video((1, 4, 4, 3))], ids=lambda medium: medium.kind)
def test_a_graph_stores_as_a_run_does(medium: Any) -> None:
    values = np.linspace(-1.2, 1.2, 5 * 48, dtype=np.float32).reshape(5, *medium.shape)
    encoder = encoder_of(medium)
    stored = in_graph(encoder.stored_fn, values)
    assert stored.dtype == np.dtype(medium.dtype) == np.dtype(encoder.dtype)
    assert np.array_equal(stored, medium.stored(values))


def test_sheets_hold_their_parts_row_by_row() -> None:
    clips = np.random.default_rng(0).integers(0, 256, [2, 4, 3, 5, 6, 3]).astype(np.uint8)
    sheets = in_graph(tiled, clips, 2)
    assert sheets.shape == (2, 3, 10, 12, 3)
    for k in range(4):
        y, x = 5 * (k // 2), 6 * (k % 2)
        assert np.array_equal(sheets[:, :, y : y + 5, x : x + 6], clips[:, k])
    assert np.array_equal(in_graph(tiled, clips[:, :, 0], 2), sheets[:, 0]), "images, too"
    sounds = np.arange(24, dtype=np.int16).reshape(1, 4, 6)
    (row,) = in_graph(in_a_row, sounds, 2, 8.0)
    assert np.array_equal(row, np.pad(sounds[0], [(0, 0), (0, round(8 * PAUSE))]).ravel())
