"""The training of the models of spoken words: its parts, and the whole at a tiny size with tones as recordings."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.io import wavfile

from tests.support.tooling import tool
from tfgradgen.models.loading.allowlist import check_ops
from tfgradgen.models.loading.metadata import read_metadata


def spoken(pitch: float, formant: float, seconds: float = 0.5) -> np.ndarray:
    """Return a vowel: harmonics of `pitch` under one resonance, float32 at 8 kHz."""
    time = np.arange(int(8000 * seconds)) / 8000
    harmonics = [k * pitch for k in range(1, int(3900 / pitch))]
    wave = sum(np.cos(2 * np.pi * f * time + f) / (1 + ((f - formant) / 200) ** 2) for f in harmonics)
    return tool("sounds").fitted(np.asarray(wave))


@pytest.mark.parametrize("pitch", [100.0, 180.0])
def test_analysis_finds_pitch_and_formant_and_synthesis_returns_them(pitch: float) -> None:
    source_filter = tool("source_filter")
    bands = source_filter.BANDS
    parameters = source_filter.analysed(spoken(pitch, 1500))
    middle = parameters[20:44]
    np.testing.assert_allclose(source_filter.PITCH * 2 ** (source_filter.OCTAVES * middle[:, -1]), pitch, rtol=0.02)
    assert middle[:, bands : bands + 2].mean() > 0.9  # periodic
    centres = source_filter.mel_edges(bands)[1:-1]
    assert abs(centres[middle[:, :bands].mean(0).argmax()] - 1500) < 150
    again = source_filter.analysed(np.asarray(source_filter.Synthesis()(parameters[None]))[0])
    assert np.abs(again - parameters)[20:44, 2:].mean() < 0.06
    noise = source_filter.analysed(tool("sounds").fitted(np.random.default_rng(0).standard_normal(4000)))
    assert noise[20:44, bands:-1].mean() < -0.6  # not periodic


@pytest.mark.parametrize(("part", "step"), [(slice(0, 32), 1e-2), (slice(32, 36), 1e-2), (slice(36, 37), 3e-5)])
def test_synthesis_has_the_gradient_of_finite_differences(part: slice, step: float) -> None:
    source_filter = tool("source_filter")
    parameters = tf.constant(np.clip(source_filter.analysed(spoken(120.0, 900)), -0.9, 0.9))[None]
    synthesis = source_filter.Synthesis()
    mask = np.zeros(source_filter.PARAMETERS, "float32")
    mask[part] = 1
    direction = tf.random.stateless_normal(parameters.shape, [1, 2]) * mask
    weights = tf.random.stateless_normal([1, 6400], [3, 4])
    value = lambda x: tf.reduce_sum(synthesis(x) * weights)  # noqa: E731
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        result = value(parameters)
    slope = tf.reduce_sum(tape.gradient(result, parameters) * direction)
    finite = (value(parameters + step * direction) - value(parameters - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, finite, rtol=0.08)  # float32 rounds the phase of the pulses


def test_alignment_finds_the_time_of_a_word_that_was_stretched() -> None:
    appearance, source_filter = tool("appearance"), tool("source_filter")
    rng = np.random.default_rng(0)
    word = np.full((64, source_filter.PARAMETERS), -1.0)
    knots = rng.uniform(-0.3, 1, (8, source_filter.PARAMETERS))
    at = np.linspace(0, 7, 44)
    word[10:54] = np.stack([np.interp(at, np.arange(8), row) for row in knots.T], axis=1)
    bend = lambda t, by: np.where((t > 10) & (t < 53), t + by * np.sin((t - 10) / 43 * np.pi), t)  # noqa: E731
    time = np.arange(64.0)
    takes = [np.stack([np.interp(bend(time, by), time, row) for row in word.T], axis=1) for by in (-3, -1, 0, 1, 3)]
    clocks, looks = appearance.align(np.stack(takes))
    linear = np.stack([appearance.looks_of(take, appearance.linear_clock(take)) for take in takes])
    assert looks.std(0)[14:50].mean() < 0.5 * linear.std(0)[14:50].mean()  # the recordings agree once they are aligned
    assert (np.diff(clocks, axis=1) > -1e-6).all()


def test_a_generator_returns_the_mean_of_its_cell_at_its_own_time() -> None:
    networks, source_filter = tool("sound_networks"), tool("source_filter")
    generator = networks.SpeechGenerator(2, 2, rank=3)
    frames, width = source_filter.FRAMES, source_filter.PARAMETERS
    looks = np.random.default_rng(0).uniform(-0.5, 0.5, (4, frames, width))
    means = np.concatenate([looks.reshape(4, -1), np.tile(np.arange(frames)[::-1], (4, 1))], axis=1)
    generator.means.assign(means.astype("float32"))
    z = np.zeros((1, generator.latent_dim), "float32")
    z[0, [0, 3]] = 20  # the first word, the second speaker
    np.testing.assert_allclose(generator(z)[0, :, 32:], looks[1, ::-1, 32:], atol=1e-4)
    assert np.isfinite(generator(100 * np.ones_like(z))).all()


def test_not_words_and_varied_keep_shape_and_range() -> None:
    sounds = tool("sounds")
    waves = np.stack([spoken(pitch, 1000) for pitch in (90.0, 130.0, 200.0)])
    rng = np.random.default_rng(0)
    for batch in (sounds.not_words(rng, waves, 40), sounds.varied(rng, waves)):
        assert batch.dtype == np.float32
        assert batch.shape[1:] == (6400,)
        assert np.abs(batch).max() <= 1.5
    assert sounds.fitted(np.ones(9000)).shape == (6400,)


def test_calibration_on_targets_undoes_a_wrong_temperature_and_bias() -> None:
    calibration = tool("calibration")
    logits = 2 * np.random.default_rng(0).standard_normal((400, 4))
    wrong = 1.5 * logits
    wrong[:, -1] += 3
    temperature, bias = calibration.fit_to_targets(wrong, np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None]))
    assert abs(temperature - 1.5) < 0.15
    assert abs(bias + 3) < 0.3


@pytest.mark.slow
def test_all_stages_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, networks = tool("train_speech"), tool("sound_networks")
    for network in ("SpeechClassifier", "SpeechTeacher", "SpeechJudge"):
        monkeypatch.setattr(getattr(networks, network), "CHANNELS", (4, 4))
    sizes = {
        "RANK": 5,
        "PARTS": (6, 2, 0),
        "PARTS_WITH_DRAWS": (3, 2, 3),
        "STEPS_PER_EPOCH": 2,
        "NORM_BATCHES": 2,
        "NUM_OTHERS": 20,
    }
    for name, value in {**sizes, "NUM_DRAWS": 100, "NUM_HELD_OUT": 100, "EPOCHS": dict.fromkeys(train.EPOCHS, 1)}.items():
        monkeypatch.setattr(train, name, value)
    eagerly = lambda self, **settings: keras.Model.compile(self, run_eagerly=True, **settings)  # noqa: E731
    monkeypatch.setattr(train.SoundLesson, "compile", eagerly)
    for split, takes in (("train", 3), ("val", 2)):
        for word, formant in (("low", 700), ("high", 2200)):
            (tmp_path / "data" / split / word).mkdir(parents=True)
            for k in range(2 * takes):
                wave = (spoken(100 + 60 * (k % 2) + k, formant, 0.4 + 0.03 * k) * 32767).astype("int16")
                wavfile.write(tmp_path / "data" / split / word / f"{('ann', 'bob')[k % 2]}_{k}.wav", 8000, wave)
    settings = dict(data=str(tmp_path / "data"), work=tmp_path / "work", out=tmp_path / "out")
    train.main(**settings)
    labels = [{"name": "high"}, {"name": "low"}, {"name": "other", "background": True}]
    for name, size in (("generator", 64), ("classifier", 6400), ("judge", 6400)):
        check_ops(tmp_path / "out" / name)
        card = read_metadata(tmp_path / "out" / name)
        assert card["kind"] == "sound"
        assert card["sample_rate"] == 8000
        assert card.get("labels", labels) == labels
        result = tf.saved_model.load(str(tmp_path / "out" / name))(tf.zeros([2, size]))
        assert result.shape == ((2, 6400) if name == "generator" else (2, 3))
        assert np.isfinite(result).all()
        assert name != "generator" or np.abs(result).max() <= 1
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.h5")}
    train.main(**settings, only=train.STAGES[:-1])
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.h5")}
    check = tool("check_sounds")
    monkeypatch.setattr(check, "NUM_DRAWS", 40)
    monkeypatch.setattr(check, "NUM_OTHERS", 10)
    check.main(str(tmp_path / "data"), models=tmp_path / "out", sheet=tmp_path / "sheet.png", write=True)
    assert "judge's agreement with exact draws" in (tmp_path / "out" / "generator" / "MODEL.md").read_text()
    with pytest.raises(SystemExit, match="expected some of generator"):
        train.main(**settings, only="jugde")
