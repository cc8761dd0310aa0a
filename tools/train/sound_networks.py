"""Networks of speech in Keras 3: classifiers of waveforms and of source-filter images, and the generator."""

import keras
import numpy as np
from keras import ops

from tools.train.classifier_networks import PlainClassifier, ResidualClassifier
from tools.train.generator_network import ConditionalBatchNorm, UpConv, calibrate_norms
from tools.train.initializers import Normal
from tools.train.sounds import SAMPLES
from tools.train.source_filter import BANDS, FRAMES, Synthesis, knot_matrix, mel_filters

WIDTHS = (128, 96, 64, 40, 16)  # channels of the generator at 4, 8, 16, 32 and 64 frames
CLASS_EMBEDDING, SPEAKER_EMBEDDING = 32, 16
LATENT_DIM = 64


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
    INPUT = (SAMPLES,)

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
    """A stranger to all others: plain convolutions, ReLU and max-pooling on other windows and bands."""

    CHANNELS = (32, 64, 96, 128)
    INPUT = (SAMPLES,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.front = LogMel(hop=80, blocks=3, fft=256, bands=40, floor=3e-5)

    def taps(self, wave, training=False):
        return super().taps(self.front(wave), training)


class SoundImageClassifier(ResidualClassifier):
    """`image [B, FRAMES, BANDS, 3]` of a source-filter analysis -> logits; its feature maps serve the discriminator."""

    CHANNELS = (24, 48, 96, 128)
    INPUT = (FRAMES, BANDS, 3)


class SpeechGenerator(keras.Model):
    """`z [B, 64] -> image [B, FRAMES, BANDS, 3]` for `Synthesis`; z ~ Normal(0, I).

    The first coordinates choose the word and the next ones the speaker, both by softmax(sharpness z) over learnt embeddings;
    the rest is content. `widths` are the numbers of channels at 4, 8, 16, 32 and 64 frames.
    """

    def __init__(self, num_classes, num_speakers, sharpness=4.0, widths=WIDTHS, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.num_speakers, self.sharpness, self.widths = num_classes, num_speakers, sharpness, tuple(widths)
        self.latent_dim = LATENT_DIM
        self.of_class = keras.layers.Dense(CLASS_EMBEDDING, use_bias=False, kernel_initializer=Normal(1.0))
        self.of_speaker = keras.layers.Dense(SPEAKER_EMBEDDING, use_bias=False, kernel_initializer=Normal(1.0))
        self.stem = keras.layers.Dense(8 * widths[0], use_bias=False, kernel_initializer=Normal(0.09))
        self.ups = [UpConv(filters) for filters in widths[1:]]
        self.residual = keras.layers.Conv2D(widths[2], 3, padding="same", use_bias=False, kernel_initializer="he_normal")
        self.norms = [ConditionalBatchNorm() for _ in widths]
        self.residual_norm = ConditionalBatchNorm(initial_gain=0.3)
        small = keras.initializers.VarianceScaling(0.09)
        self.pitch = keras.layers.Dense(1, kernel_initializer=small)
        self.picture = keras.layers.Conv2D(2, 3, padding="same", kernel_initializer=small)
        self.to_frames = knot_matrix().astype("float32")

    def call(self, z, training=False):
        act = lambda v: ops.leaky_relu(v, 0.2)  # noqa: E731
        first, second = self.num_classes, self.num_classes + self.num_speakers
        word = self.of_class(ops.softmax(self.sharpness * z[:, :first]))
        speaker = self.of_speaker(ops.softmax(self.sharpness * z[:, first:second]))
        h = ops.concatenate([z[:, second:], word, speaker], axis=-1)
        x = ops.reshape(self.stem(h), (-1, 4, 2, self.widths[0]))
        x = act(self.norms[0]([x, h], training=training))
        pitch = None
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = act(norm([up(x), h], training=training))
            if x.shape[1] == 16:
                x = x + act(self.residual_norm([self.residual(x), h], training=training))
                pitch = ops.einsum("fk,bkc->bfc", self.to_frames, self.pitch(ops.mean(x, axis=2)))
        pitch = ops.tile(ops.tanh(pitch)[:, :, None], (1, 1, BANDS, 1))
        return ops.concatenate([ops.tanh(self.picture(x)), pitch], axis=-1)

    def calibrate(self, z_batches):
        """Set the inference statistics to the mean of the training-mode moments over `z_batches`, run eagerly."""
        calibrate_norms(self, [*self.norms, self.residual_norm], z_batches)


class Speaker(keras.Model):
    """`z [B, 64] -> wave [B, SAMPLES]` in [-1, 1]: what ships, a generator and the synthesis of its image."""

    def __init__(self, generator, **kwargs):
        super().__init__(**kwargs)
        self.generator, self.synthesis = generator, Synthesis()

    def call(self, z):
        return self.synthesis(self.generator(z))
