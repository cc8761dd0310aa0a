"""Models of sounds and clips, foreign ones too: which medium they have, at which rate, and what is said if two do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tfgradgen as tg
from tests.support import standins_media, toy
from tests.support.standins_classifiers import yamnet
from tfgradgen.core.checks import UserError
from tfgradgen.media.sound import Sound
from tfgradgen.media.video import Video


def test_wavegan_with_yamnet(tmp_path: Path) -> None:
    generator = tg.load_generator(standins_media.wavegan(tmp_path / "wavegan"), prior="uniform")
    assert generator.medium == Sound((16384,), 16000.0)
    assert set(generator.assumed) == {"image_range", "rate"}
    (tmp_path / "google").mkdir()
    classifier = tg.load_classifier(yamnet(tmp_path / "google" / "yamnet"))
    assert (classifier.medium, classifier.num_classes) == (Sound((None,), 16000.0), 521)
    result = tg.sample(tg.ClassPosterior(generator, classifier, "Speech"), "rejection", num_results=1, num_chains=2)
    assert (result.media.dtype, result.media.shape) == (np.int16, (2, 16384))
    assert np.abs(result.media).max() > 1000


def test_the_interface_of_gansynth(tmp_path: Path) -> None:
    """Two outputs and a pitch: what is missing is said, one thing at a time; the pictures are no images."""
    folder = standins_media.gansynth(tmp_path / "gansynth")
    with pytest.raises(
        UserError, match=r"a known number of classes for its class input labels int32 \[8\].* give num_classes=N"
    ):
        tg.load_generator(folder)
    with pytest.raises(
        UserError, match=r"1, 3 or 4 channels, got an output \[\?, 128, 1024, 2\]; choose .* signature=NAME:OUTPUT"
    ):
        tg.load_generator(folder, signature="default:data", num_classes=standins_media.NUM_PITCHES)
    generator = tg.load_generator(folder, signature="default:waves", num_classes=standins_media.NUM_PITCHES)
    assert (generator.medium, generator.latent_dim) == (Sound((64000,), 16000.0), 256)
    assert set(generator.assumed) == {"prior", "image_range", "rate"}
    note = np.asarray(generator.of_class(45)(tf.zeros([1, 256])))[0]  # MIDI number 69
    strength = np.abs(np.fft.rfft(note))[np.arange(4000) * 4]  # at whole hertz
    partials = np.arange(1, 8) * 440
    assert strength[partials].min() > 20 * np.median(strength), "a note of 440 Hz"


def test_a_note_of_gansynth_is_drawn(tmp_path: Path) -> None:
    """A further coordinate of z chooses the pitch; the batch of eight is filled up."""
    folder = standins_media.gansynth(tmp_path / "gansynth", shrunk=8)
    settings = {"signature": "default:waves", "num_classes": standins_media.NUM_PITCHES, "generator_class": "uniform"}
    generator = tg.load_generator(folder, prior="normal", rate=16000, **settings)
    assert generator.latent_dim == 257
    classifier = tg.load_classifier(standins_media.spoken_pair(tmp_path)[1])
    result = tg.sample(tg.ClassPosterior(generator, classifier, "eight"), "rejection", num_results=1, num_chains=3)
    assert (result.medium, result.media.shape) == (Sound((1000,), 16000.0), (3, 1000))
    assert np.abs(result.media).max() > 300
    assert result.record["generator"]["signature"] == "default"


def test_clips_with_an_i3d(tmp_path: Path) -> None:
    generator = tg.load_generator(standins_media.mocogan(tmp_path / "mocogan"), rate=12.5)
    assert generator.medium == Video((16, 16, 16, 3), 12.5)
    assert set(generator.assumed) == {"prior", "image_range"}
    folder = tmp_path / "deepmind" / "i3d-kinetics-400"
    folder.parent.mkdir()
    classifier = tg.load_classifier(standins_media.i3d(folder))
    side = standins_media.I3D_SIDE
    assert (classifier.medium, classifier.image_range) == (Video((None, side, side, 3), 25.0), (0, 1))
    assert classifier.num_classes == 400
    own = classifier.for_generator(generator)
    assert own.as_input(generator(tf.zeros([2, 10]))).shape == (2, 32, side, side, 3), "twice as many frames at twice the rate"
    result = tg.sample(tg.ClassPosterior(generator, classifier, 7), "mala", num_results=2, num_burnin_steps=2, num_chains=2)
    assert result.media.shape == (2, 16, 16, 16, 3)


def test_clips_with_a_movinet_of_any_size(tmp_path: Path) -> None:
    folder = tmp_path / "tensorflow" / "movinet" / "a0"
    folder.parent.mkdir(parents=True)
    classifier = tg.load_classifier(standins_media.movinet(folder), image_size=(12, 12), labels=[str(k) for k in range(600)])
    assert (classifier.medium, classifier.image_range) == (Video((None, 12, 12, 3), 5.0), (0, 1))
    generator = tg.load_generator(standins_media.mocogan(tmp_path / "mocogan", card={"kind": "video", "frame_rate": 10}))
    assert classifier.for_generator(generator).as_input(generator(tf.zeros([2, 10]))).shape == (2, 8, 12, 12, 3)
    posterior = tg.ClassPosterior(generator, classifier, 3)
    assert posterior.classifier is posterior.copy(label=4).classifier, "one classifier, so one compiled graph"
    assert posterior.unnormalized_log_prob(tf.zeros([2, 10])).shape == (2,)


@pytest.mark.parametrize("shape", [[None, 40], [None, 40, 1], [None, 1, 40], [None, None]])
def test_classifiers_of_sounds(shape: list[int | None], tmp_path: Path) -> None:
    """They get the same samples, whatever axes they have for them."""
    wave = tf.cos(0.3 * tf.range(40.0))

    def hear(x: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(x, [tf.shape(x)[0], -1])
        return tf.stack([tf.zeros_like(flat[:, 0]), tf.linalg.matvec(flat[:, :40], wave)], 1)

    card = {"sample_rate": 8000, "output": "logits", "labels": ["a", "b"], "image_range": [-1, 1]}
    classifier = tg.load_classifier(toy.save(tmp_path / "c", hear, shape, card))
    assert (classifier.kind, classifier.rate) == ("sound", 8000.0)
    sound = tf.random.stateless_uniform([3, 40], [0, 0], -1.0, 1.0)
    np.testing.assert_allclose(classifier(sound)[:, 1], tf.linalg.matvec(sound, wave), atol=1e-5)
    assert classifier.assumed == ()


def test_grey_clips_of_channels_first(tmp_path: Path) -> None:
    clip = lambda z: tf.tanh(tf.reshape(tf.tile(z, [1, 40]), [-1, 1, 5, 4, 6]))  # noqa: E731
    folder = toy.save(tmp_path / "g", clip, [None, 3], {"layout": "channels_first", "prior": "normal", "image_range": [-1, 1]})
    assert tg.load_generator(folder).medium == Video((5, 4, 6, 1), 12.5)


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ({"kind": "smell"}, "one of image, sound, video, got 'smell'"),
        ({"kind": 3}, "kind of what it gives or takes"),
        ({"kind": "video"}, "clips .*as its model.json says, got an output"),
        ({"sample_rate": 0.5}, "a number of at least 1"),
        ({"sample_rate": 1e12}, "a number of at least 1"),
        ({"sample_rate": "8000"}, "samples per second"),
        ({"frame_rate": True}, "frames per second"),
    ],
)
def test_wrong_cards_of_generators(card: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = toy.save(tmp_path / "g", lambda z: tf.tile(z, [1, 10]), [None, 3], card)
    with pytest.raises(UserError, match=text) as error:
        tg.load_generator(folder)
    assert "\n" not in str(error.value)


def test_a_rate_far_from_the_classifiers_is_refused_by_its_name(tmp_path: Path) -> None:
    """Resampling would make a sound of 40 samples 16,000 times as long, and then cut it."""
    labels = {"output": "logits", "labels": ["a", "b"], "image_range": [-1, 1]}
    hear = lambda x: tf.stack([x[:, 0], x[:, 1]], 1)  # noqa: E731
    classifier = tg.load_classifier(toy.save(tmp_path / "c", hear, [None, 40], labels | {"sample_rate": 16000}))
    card = {"prior": "normal", "image_range": [-1, 1]}
    for rate, is_refused in ((1, True), (159, True), (160, False)):
        speak = toy.save(tmp_path / f"g{rate}", lambda z: tf.tile(z, [1, 10]), [None, 4], card | {"sample_rate": rate})
        generator = tg.load_generator(speak)
        if is_refused:
            with pytest.raises(UserError, match=f"rate of the generator: .* at most 100 times .* got {rate} per"):
                classifier.for_generator(generator)
        else:
            assert classifier.for_generator(generator).source_rate == rate


def test_a_rate_for_images_is_refused(toy_pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"rate: expected none for .* a model of images"):
        tg.load_generator(toy_pair[0], rate=8000)
    with pytest.raises(UserError, match="rate: expected a number of at least 1"):
        tg.load_generator(toy_pair[0], rate=-1)


def test_another_medium_than_the_classifier_takes(toy_pair: tuple[Path, Path], tmp_path: Path) -> None:
    speaker, _ = standins_media.spoken_pair(tmp_path)
    posterior = tg.ClassPosterior(tg.load_generator(speaker), tg.load_classifier(toy_pair[1]), 0)
    with pytest.raises(UserError, match=r"expected images \[batch, height, width, channels\], got shape \(2, 640\)"):
        posterior.class_log_prob(tf.zeros([2, 3]))


def test_a_classifier_hears_at_its_own_rate(tmp_path: Path) -> None:
    """At twice the rate it gives nearly the same probabilities; without resampling it would hear tones an octave up."""
    same = tg.load_classifier(standins_media.spoken_pair(tmp_path / "same")[1])
    generator, other = (
        load(path)
        for load, path in zip(
            (tg.load_generator, tg.load_classifier), standins_media.spoken_pair(tmp_path / "other", 16000), strict=True
        )
    )
    z = tf.random.stateless_normal([16, 3], [0, 0])
    sound = generator(z)
    expected = tf.nn.softmax(same(sound))
    own = other.for_generator(generator)
    assert own.source_rate == 8000
    np.testing.assert_allclose(tf.nn.softmax(own(sound)), expected, atol=0.02)
    assert np.abs(tf.nn.softmax(other(sound)) - expected).max() > 0.2, "negative control: as if the sound were of its rate"
