"""Each medium keeps what it stores, shows it, and converts it to what a classifier takes."""

import io
import math
import wave
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image as Picture
from scipy.signal import resample_poly

from tfgradgen.io.folders import is_ours
from tfgradgen.media.image import Image
from tfgradgen.media.medium import Medium
from tfgradgen.media.registry import MEDIA, MEDIUM, decoded, kind_of, medium_in, medium_of
from tfgradgen.media.resample import centred, resample
from tfgradgen.media.sound import Sound
from tfgradgen.media.video import Video, time_matrix

EACH: list[Medium] = [Image((8, 12, 3)), Sound((2000,), 8000.0), Video((5, 8, 12, 3), 12.5)]
of_each = pytest.mark.parametrize("medium", EACH, ids=lambda medium: medium.kind)


def some(medium: Medium, num: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (num, *medium.shape)).astype(np.float32)


@of_each
def test_what_is_stored_is_what_was_given_up_to_rounding(medium: Medium) -> None:
    values = some(medium)
    stored = medium.stored(values)
    assert (stored.dtype, stored.shape) == (medium.dtype, values.shape)
    assert np.abs(medium.values(stored) - values).max() <= medium.half_step * 1.01
    np.testing.assert_array_equal(medium.stored(medium.values(stored)), stored)
    np.testing.assert_array_equal(medium.stored(5 * np.sign(values)), medium.stored(np.sign(values)))
    medium.check_stored(stored)
    with pytest.raises(ValueError, match=r"instead of|channels"):
        medium.check_stored(stored[:, :-1])
    with pytest.raises(ValueError, match="instead of"):
        medium.check_stored(stored.astype(np.float32))


@of_each
def test_stills_and_distances(medium: Medium) -> None:
    stored = medium.stored(some(medium))
    stills = medium.pictures(stored)
    assert (stills.dtype, stills.ndim, len(stills)) == (np.uint8, 4, 3)
    assert medium.pictures(stored[:0]).shape == (0, *stills.shape[1:])
    pairs = medium.distances(stored)
    assert pairs is None or (pairs.shape == (3, 3) and np.isfinite(pairs).all())


@of_each
def test_a_medium_survives_run_json(medium: Medium) -> None:
    assert medium_in({MEDIUM: medium.record}) == medium
    assert kind_of(medium.shape) == medium.kind
    assert MEDIA[medium.kind].takes(medium.shape)


def test_a_run_without_a_medium_has_images() -> None:
    assert medium_in({}, np.zeros((2, 4, 6, 1), np.uint8)) == Image((4, 6, 1))


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"kind": "smell", "shape": [3], "rate": None},
        {"kind": "sound", "shape": [3]},
        {"kind": "sound", "shape": 3, "rate": 1},
        {"kind": "sound", "shape": [3, 3], "rate": 1},
        {"kind": "sound", "shape": [0], "rate": 1},
        {"kind": "sound", "shape": [1 << 40], "rate": 1},
        {"kind": "video", "shape": [1 << 20, 1 << 20, 1 << 20, 3], "rate": 1},
        {"kind": "sound", "shape": [3], "rate": "8000"},
        {"kind": "sound", "shape": [3], "rate": True},
        {"kind": "sound", "shape": [3], "rate": 1e300},
        {"kind": "sound", "shape": [3], "rate": float("nan")},
        {"kind": ["sound"], "shape": [3], "rate": 1},
    ],
)
def test_a_damaged_medium_is_refused(said: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        medium_in({MEDIUM: said})


def test_files_of_a_run_are_known_by_their_names() -> None:
    names = [medium.file_name(3, 16) for medium in EACH]
    assert names == ["image-03.png", "sound-03.wav", "clip-03.gif"]
    assert all(map(is_ours, [*names, "sounds.wav", "clips.gif"]))
    assert not any(
        map(is_ours, ["image-03.wav", "sound-3.mp3", "clip-12345.gif", "song.wav", "images.png", "sound-03.wav.exe"])
    )


def test_wav_files_play_what_is_stored() -> None:
    sound = Sound((2000,), 8000.0)
    stored = sound.stored(some(sound))
    with wave.open(io.BytesIO(sound.file(stored[1]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(9999), "<i2"), stored[1])
    with wave.open(io.BytesIO(sound.joined(stored))) as file:
        assert file.getnframes() == 3 * (2000 + 2000), "a pause of a quarter of a second after each"


def test_gif_files_move_at_the_rate() -> None:
    video = Video((5, 8, 12, 3), 12.5)
    stored = np.stack([np.full((3, 8, 12, 3), 50 * k, np.uint8) for k in range(5)], 1)
    for content, size in ((video.file(stored[0]), (12, 8)), (video.joined(stored), (28, 20))):
        with Picture.open(io.BytesIO(content)) as clip:
            assert (clip.n_frames, clip.size, clip.info["duration"], clip.info["loop"]) == (5, size, 80, 0)
            shades = []
            for k in range(5):
                clip.seek(k)
                shades.append(clip.convert("RGB").getpixel((1, 1))[0])
            np.testing.assert_allclose(shades, [0, 50, 100, 150, 200], atol=2)


def test_a_high_tone_is_drawn_above_a_low_one_and_later_to_the_right() -> None:
    time = np.arange(4000) / 8000
    low, high = (0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 2500))
    sound = Sound((4000,), 8000.0)
    first, then = np.where(time < 0.25, high, 0), np.where(time < 0.25, 0, low)
    stills = sound.pictures(sound.stored(np.stack([low, high, first + then]).astype(np.float32)))[..., 0]
    rows = [int(still[:, 60].argmin()) for still in stills[:2]]
    assert rows[1] < 20 < 40 < rows[0], "small rows are above; loud is dark"
    assert stills[2, rows[1], 30] < 80 < stills[2, rows[1], 100]
    assert stills[2, rows[0], 100] < 80 < stills[2, rows[0], 30]
    quiet = sound.pictures(np.zeros((1, 4000), np.int16))
    assert (quiet == 255).all(), "silence is white"


def test_log_spectral_distance_is_zero_only_for_equal_sounds() -> None:
    time = np.arange(2000) / 8000
    sounds = np.stack([0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 300, 310, 2500)]).astype(np.float32)
    sound = Sound((2000,), 8000.0)
    pairs = sound.distances(sound.stored(sounds))
    assert pairs is not None
    assert pairs[0, 1] == pytest.approx(0, abs=1e-6)
    assert 0 < pairs[0, 2] < pairs[0, 3]


@pytest.mark.parametrize(("rate", "new_rate"), [(8000, 16000), (16000, 8000), (44100, 16000), (11025, 16000), (16000, 22050)])
def test_resampling_is_that_of_scipy(rate: int, new_rate: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1001)).astype(np.float32)
    common = math.gcd(rate, new_rate)
    expected = resample_poly(x, new_rate // common, rate // common, axis=1)
    found = resample(tf.constant(x), rate, new_rate).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_resampling_does_not_fold_what_the_new_rate_cannot_hold() -> None:
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 5500 * time)[None].astype(np.float32)
    found = resample(tf.constant(tone), 16000, 8000).numpy()[0, 500:-500]
    assert np.sqrt(np.mean(found**2)) < 2e-3
    assert np.sqrt(np.mean(tone[0, ::2] ** 2)) > 0.7, "without a filter it would be there, at 2500 Hz"


def test_sounds_of_unknown_length_are_resampled() -> None:
    spec = tf.TensorSpec([None, None], tf.float32)
    fn = tf.function(lambda x: resample(x, 11025.0, 16000.0), input_signature=[spec])
    x = tf.random.stateless_normal([2, 777], [0, 1])
    np.testing.assert_allclose(fn(x), resample(x, 11025.0, 16000.0), atol=1e-6)


def test_lengths_are_cut_and_filled_at_both_ends() -> None:
    x = tf.reshape(tf.range(1.0, 7.0), [1, 6])
    np.testing.assert_array_equal(centred(x, 2)[0], [3, 4])
    np.testing.assert_array_equal(centred(x, 9)[0], [0, 1, 2, 3, 4, 5, 6, 0, 0])


def test_frames_are_interpolated_about_the_middle_of_the_clip() -> None:
    assert time_matrix(4, 12.5, 4, 12.5) is None
    ramp = np.arange(5.0)
    np.testing.assert_allclose(time_matrix(5, 10.0, 9, 20.0) @ ramp, np.arange(9) / 2, atol=1e-6)
    np.testing.assert_allclose(time_matrix(5, 10.0, 9, 10.0) @ ramp, [0, 0, 0, 1, 2, 3, 4, 4, 4], atol=1e-6)
    np.testing.assert_allclose(time_matrix(9, 10.0, 3, 10.0) @ np.arange(9.0), [3, 4, 5], atol=1e-6)
    slow = time_matrix(16, 20.0, 4, 5.0)
    np.testing.assert_allclose(slow.sum(1), 1, atol=1e-6)
    flicker = np.tile([1.0, -1.0], 8)
    assert np.abs(slow @ flicker).max() < 0.1, "no aliasing: every fourth frame alone would be 1"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (Image((6, 8, 3)), Image((12, 4, 3))),
        (Sound((640,), 8000.0), Sound((2000,), 16000.0)),
        (Sound((640,), 16000.0), Sound((None,), 8000.0)),
        (Video((4, 6, 8, 3), 12.5), Video((7, 12, 4, 3), 25.0)),
        (Video((4, 6, 8, 3), 12.5), Video((None, 12, 4, 3), 25.0)),
    ],
)
def test_conversions_have_gradients_under_graph_mode_and_xla(given: Medium, taken: Medium) -> None:
    values = tf.constant(some(given, 2))
    weights: list[tf.Tensor] = []

    def slope(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            fitted = taken.fitted(x, given.rate)
            if not weights:
                weights.append(tf.cos(tf.reshape(tf.range(math.prod(fitted.shape), dtype=tf.float32), fitted.shape)))
            value = tf.reduce_sum(weights[0] * fitted)
        return tape.gradient(value, x)

    fitted = taken.fitted(values, given.rate)
    assert all(expected in (None, found) for expected, found in zip(taken.shape, fitted.shape[1:], strict=True))
    eager = slope(values)
    for xla in (False, True):
        found = tf.function(slope, jit_compile=xla, autograph=False)(values)
        np.testing.assert_allclose(found, eager, atol=1e-4)
    # The conversion is linear: its gradient is the same everywhere, and gives the value.
    value = tf.reduce_sum(weights[0] * fitted)
    np.testing.assert_allclose(tf.reduce_sum(eager * values), value, atol=1e-3)


class Curve(Medium):
    """A fourth medium, in a file of its own: curves of points in the plane."""

    kind, noun, plural = "curve", "curve", "curves"
    axes = ("points", "coordinates")
    dtype, bits, half_step = np.int16, 16, 0.5 / 1000
    usual_range, has_channels = True, False
    ending, mime = ".csv", "text/csv"
    distance_name = "ms_ssim"

    @classmethod
    def takes(cls, dims: Any) -> bool:
        return len(dims) == 2 and dims[1] == 2

    @classmethod
    def canonical(cls, values: Any) -> Any:
        return values

    def fitted(self, values: Any, rate: float | None) -> Any:
        return values

    def stored(self, values: Any) -> np.ndarray:
        return np.rint(1000 * np.clip(values, -1, 1)).astype(np.int16)

    def values(self, stored: np.ndarray) -> np.ndarray:
        return (stored / 1000).astype(np.float32)

    def pictures(self, stored: np.ndarray) -> np.ndarray:
        stills = np.full((len(stored), 16, 16, 1), 255, np.uint8)
        for still, points in zip(stills, self.values(stored), strict=True):
            x, y = np.clip(np.rint(7.5 * points + 7.5), 0, 15).astype(int).T
            still[15 - y, x] = 0
        return stills

    def file(self, one: np.ndarray) -> bytes:
        return "\n".join(f"{x},{y}" for x, y in one.tolist()).encode()

    def distances(self, stored: np.ndarray) -> np.ndarray | None:
        return None


class CurveGenerator:
    latent_dim = 2

    def __call__(self, z: Any) -> tf.Tensor:
        at = tf.linspace(-0.9, 0.9, 12)
        return tf.stack([tf.tile(at[None], [tf.shape(z)[0], 1]), tf.tanh(z[:, :1] * at + z[:, 1:])], 2)


class Rising:
    num_classes = 2

    def __call__(self, curve: tf.Tensor) -> tf.Tensor:
        rise = 3.0 * (curve[:, -1, 1] - curve[:, 0, 1])
        return tf.stack([tf.zeros_like(rise), rise], 1)


def test_a_fourth_medium_is_one_class_and_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import tfgradgen as tg

    monkeypatch.setitem(MEDIA, "curve", Curve)
    generator = CurveGenerator()
    assert medium_of(generator, (12, 2)) == Curve((12, 2))
    assert decoded(generator, np.zeros((2, 2), np.float32))[1].shape == (2, 12, 2)
    result = tg.sample(tg.ClassPosterior(generator, Rising(), 1), "rejection", num_results=3, num_chains=4)
    assert result.issues == []
    assert "ok       curves: 4 independent, exact draws of the posterior" in result.summary()
    assert (result.media.dtype, result.media.shape, result.images.shape) == (np.int16, (4, 12, 2), (4, 16, 16, 1))
    result.save(tmp_path / "run")
    assert (tmp_path / "run" / "curve-0.csv").read_text().count("\n") == 11
    again = tg.load_run(tmp_path / "run")
    np.testing.assert_array_equal(again.media, result.media)
    assert again.medium == Curve((12, 2))
