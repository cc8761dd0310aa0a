"""The training of the models of spoken words: its parts, and all of it at a tiny size on tones for recordings."""

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
    """A vowel: harmonics of `pitch` under one resonance, float32 at 8 kHz."""
    time = np.arange(int(8000 * seconds)) / 8000
    harmonics = [k * pitch for k in range(1, int(3900 / pitch))]
    wave = sum(np.cos(2 * np.pi * f * time + f) / (1 + ((f - formant) / 200) ** 2) for f in harmonics)
    return tool("sounds").fitted(np.asarray(wave))


@pytest.mark.parametrize("pitch", [100.0, 180.0])
def test_analysis_finds_pitch_and_formant_and_synthesis_returns_them(pitch: float) -> None:
    source_filter = tool("source_filter")
    image = source_filter.analysed(spoken(pitch, 1500))
    middle = image[20:44]
    found = source_filter.PITCH * 2 ** (source_filter.OCTAVES * middle[:, 0, 2])
    np.testing.assert_allclose(found, pitch, rtol=0.02)
    assert middle[:, :16, 1].mean() > 0.9  # periodic
    centres = source_filter.mel_edges(source_filter.BANDS)[1:-1]
    assert abs(centres[middle[:, :, 0].mean(0).argmax()] - 1500) < 150
    again = source_filter.analysed(np.asarray(source_filter.Synthesis()(image[None]))[0])
    assert np.abs(again - image)[20:44, 2:].mean() < 0.06
    noise = source_filter.analysed(tool("sounds").fitted(np.random.default_rng(0).standard_normal(4000)))
    assert noise[20:44, :, 1].mean() < -0.6  # not periodic


def test_synthesis_has_the_gradient_of_finite_differences() -> None:
    source_filter = tool("source_filter")
    image = tf.constant(source_filter.analysed(spoken(120.0, 900)))[None]
    synthesis = source_filter.Synthesis()
    direction = tf.random.stateless_normal(image.shape, [1, 2]) * [1.0, 1.0, 0.0]
    weights = tf.random.stateless_normal([1, 6400], [3, 4])
    with tf.GradientTape() as tape:
        tape.watch(image)
        value = tf.reduce_sum(synthesis(tf.clip_by_value(image, -0.9, 0.9)) * weights)
    slope = tf.reduce_sum(tape.gradient(value, image) * direction)
    at = lambda t: tf.reduce_sum(synthesis(tf.clip_by_value(image + t * direction, -0.9, 0.9)) * weights)  # noqa: E731
    np.testing.assert_allclose(slope, (at(1e-3) - at(-1e-3)) / 2e-3, rtol=0.1)


def test_not_words_and_varied_keep_shape_and_range() -> None:
    sounds = tool("sounds")
    waves = np.stack([spoken(pitch, 1000) for pitch in (90.0, 130.0, 200.0)])
    rng = np.random.default_rng(0)
    for batch in (sounds.not_words(rng, waves, 40), sounds.varied(rng, waves)):
        assert batch.dtype == np.float32
        assert batch.shape[1:] == (6400,)
        assert np.abs(batch).max() <= 1.5
    assert sounds.fitted(np.ones(9000)).shape == (6400,)


@pytest.mark.slow
def test_all_stages_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, networks = tool("train_speech"), tool("sound_networks")
    for network in ("SpeechClassifier", "SpeechTeacher", "SpeechJudge", "SoundImageClassifier"):
        monkeypatch.setattr(getattr(networks, network), "CHANNELS", (4, 4, 4, 4))
    for name, value in (("BATCH_SIZE", 8), ("GAN_BATCH", 4), ("PARTS", (6, 2, 0)), ("PARTS_WITH_DRAWS", (3, 2, 3))):
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "STEPS", dict.fromkeys(train.STEPS, 2))
    monkeypatch.setattr(train, "EPOCHS", dict.fromkeys(train.EPOCHS, 1))
    monkeypatch.setattr(train, "NORM_BATCHES", 2)
    monkeypatch.setattr(train, "NUM_DRAWS", 100)
    monkeypatch.setattr(tool("speech_gan"), "NUM_DRAWS", 20)
    for lesson in (train.SoundLesson, train.ImageLesson, tool("speech_gan").SpeechGan):
        eagerly = lambda self, **settings: keras.Model.compile(self, run_eagerly=True, **{**settings, "jit_compile": False})  # noqa: E731
        monkeypatch.setattr(lesson, "compile", eagerly)
    for split, takes in (("train", 3), ("val", 2)):
        for word, formant in (("low", 700), ("high", 2200)):
            (tmp_path / "data" / split / word).mkdir(parents=True)
            for k in range(2 * takes):
                wave = (spoken(100 + 60 * (k % 2) + k, formant) * 32767).astype("int16")
                wavfile.write(tmp_path / "data" / split / word / f"{('ann', 'bob')[k % 2]}_{k}.wav", 8000, wave)
    settings = dict(data=str(tmp_path / "data"), work=tmp_path / "work", out=tmp_path / "out", widths=(8, 8, 8, 4, 4))
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
    train.main(**settings, only=["judge", "teacher", "first", "features", "generator", "classifier"])
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.h5")}
    check = tool("check_sounds")
    monkeypatch.setattr(check, "NUM_DRAWS", 40)
    monkeypatch.setattr(check, "NUM_OTHERS", 10)
    check.main(str(tmp_path / "data"), models=tmp_path / "out", sheet=tmp_path / "sheet.png", write=True)
    assert "judge's agreement with exact draws" in (tmp_path / "out" / "generator" / "MODEL.md").read_text()
    with pytest.raises(SystemExit, match="expected some of judge"):
        train.main(**settings, only="jugde")
