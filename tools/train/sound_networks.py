"""Networks of speech in Keras 3: classifiers of waveforms, and the generator."""

import keras
import numpy as np
from keras import ops

from tools.train.classifier_networks import PlainClassifier, ResidualClassifier
from tools.train.sounds import SAMPLES
from tools.train.source_filter import BANDS, FRAMES, PARAMETERS, Synthesis, mel_filters

LATENT_DIM = 64
RANK = 160  # directions that the words have in common
SHARPNESS = 6.0  # of the choice of word and speaker


class LogMel(keras.layers.Layer):
    """`wave [B, SAMPLES]` -> log mel spectrogram [B, SAMPLES / hop, bands, 1], scaled to about unit size.

    Windows of `blocks` times `hop` samples, by products with fixed matrices; `floor` is added to the power, where white noise
    of mean square 1 has power 1.
    """

    def __init__(self, hop=100, blocks=2, fft=256, bands=48, floor=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.hop, self.blocks, self.floor = hop, blocks, floor
        width, bins = hop * blocks, fft // 2 + 1
        window = np.hanning(width + 1)[:-1]
        turns = np.outer(np.arange(width), np.arange(bins)) / fft
        waves = np.concatenate([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], axis=1)
        self.waves = (waves * (window / np.sqrt(np.square(window).sum()))[:, None]).astype("float32")
        self.filters = mel_filters(bands, bins).astype("float32")
        self.built = True

    def call(self, wave):
        before = self.hop * (self.blocks - 1) // 2
        wave = ops.pad(wave, [[0, 0], [before, self.hop * (self.blocks - 1) - before]])
        frames = SAMPLES // self.hop
        pieces = ops.reshape(wave, (-1, frames + self.blocks - 1, self.hop))
        windows = ops.concatenate([pieces[:, k : k + frames] for k in range(self.blocks)], axis=-1)
        real, imaginary = ops.split(ops.matmul(windows, self.waves), 2, axis=-1)
        power = ops.matmul(ops.square(real) + ops.square(imaginary), self.filters)
        return (ops.log(power + self.floor)[..., None] + 6.0) / 3.0


class SpeechClassifier(ResidualClassifier):
    """`wave [B, SAMPLES]` in [-1, 1] -> logits: a small, smooth residual network on a log mel spectrogram."""

    CHANNELS = (24, 48, 96, 128)
    INPUT_SHAPE = (SAMPLES,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.front = LogMel()

    def taps(self, wave, training=False):
        return super().taps(self.front(wave), training)


class SpeechTeacher(SpeechClassifier):
    """It labels the generator's sounds: wider than the classifier, with longer windows and fewer bands."""

    CHANNELS = (32, 64, 96, 160)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.front = LogMel(hop=100, blocks=3, fft=512, bands=32, floor=1e-4)


class SpeechJudge(PlainClassifier):
    """The judge, unlike the other networks: plain convolutions, ReLU and max-pooling on other windows and bands."""

    CHANNELS = (32, 64, 96, 128)
    INPUT_SHAPE = (SAMPLES,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.front = LogMel(hop=80, blocks=3, fft=256, bands=40, floor=3e-5)

    def taps(self, wave, training=False):
        return super().taps(self.front(wave), training)


class SpeechGenerator(keras.Model):
    """`z [B, LATENT_DIM] -> parameters [B, FRAMES, PARAMETERS]` for `Synthesis`; z ~ Normal(0, I).

    The first coordinates choose the word and the next ones the speaker, both by softmax(sharpness z); the rest is content. The
    weights are those of `fit_appearance`.
    """

    def __init__(self, num_words, num_speakers, rank=RANK, **kwargs):
        super().__init__(**kwargs)
        self.num_words, self.num_speakers, self.latent_dim = num_words, num_speakers, LATENT_DIM
        content, size = LATENT_DIM - num_words - num_speakers, FRAMES * PARAMETERS + FRAMES
        add = lambda name, *shape: self.add_weight(shape=shape, name=name, initializer="zeros", trainable=False)  # noqa: E731
        self.means = add("means", num_words * num_speakers, size)
        self.directions = add("directions", num_words, content * rank)
        self.basis = add("basis", rank, size)
        self.rank = rank
        self.built = True

    def call(self, z):
        first, second = self.num_words, self.num_words + self.num_speakers
        word, speaker = ops.softmax(SHARPNESS * z[:, :first]), ops.softmax(SHARPNESS * z[:, first:second])
        cell = ops.reshape(word[:, :, None] * speaker[:, None], (-1, first * self.num_speakers))
        directions = ops.reshape(ops.matmul(word, self.directions), (-1, self.latent_dim - second, self.rank))
        common = ops.matmul(z[:, None, second:], directions)[:, 0]
        joined = ops.matmul(cell, self.means) + ops.matmul(common, self.basis)
        looks, clock = joined[:, : FRAMES * PARAMETERS], joined[:, FRAMES * PARAMETERS :]
        # What is heard in a frame is interpolated between two moments of the word's own time.
        at = ops.clip(clock, 0.0, FRAMES - 1.0)[:, :, None] - np.arange(FRAMES, dtype="float32")
        x = ops.matmul(ops.relu(1 - ops.abs(at)), ops.reshape(looks, (-1, FRAMES, PARAMETERS)))
        # Silence is -1; a softplus instead of a bound has a gradient everywhere.
        power = ops.softplus(20 * (x[..., :BANDS] + 1)) / 20 - 1
        return ops.concatenate([power, ops.clip(x[..., BANDS:-1], -1.0, 1.0), x[..., -1:]], axis=-1)


class Speaker(keras.Model):
    """`z [B, 64] -> wave [B, SAMPLES]` in [-1, 1]: what ships, a generator and the synthesis of its parameters."""

    def __init__(self, generator, **kwargs):
        super().__init__(**kwargs)
        self.generator, self.synthesis = generator, Synthesis()

    def call(self, z):
        return self.synthesis(self.generator(z))
