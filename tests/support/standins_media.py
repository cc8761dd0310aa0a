"""Stand-ins of public models of sounds and clips: the interface of the real one, small random weights.

WaveGAN (Donahue et al. 2019): z uniform in [-1, 1] of 100 -> 16,384 samples at 16 kHz, with an axis of one channel. GANSynth
(Engel et al. 2019; Magenta publishes checkpoints, so a user exports it): z of 256 and the number of one of 61 pitches, in
batches of 8 -> pictures [8, 128, 1024, 2] of log-magnitude and instantaneous frequency, and from these 64,000 samples at 16
kHz, with an axis of one channel. MoCoGAN (Tulyakov et al. 2018): clips of 16 frames. I3D (deepmind/i3d-kinetics-400/1): TF1,
clips in [0, 1] -> 400 logits; here of 24 pixels a side. MoViNet (tensorflow/movinet): TF2, clips of any size in [0, 1] -> 600
logits.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.support import toy
from tests.support.standins_writing import Signature, Weights, placeholder, write_hub_module

I3D_SIDE = 24
NUM_TONES = 24
NOTES, NUM_PITCHES, LOWEST_PITCH = 8, 61, 24  # of GANSynth: a batch, and its pitches as MIDI numbers


def wavegan(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    time = np.arange(16384) / 16_000
    tones = np.sin(2 * np.pi * np.geomspace(100, 6000, NUM_TONES)[:, None] * time).astype(np.float32)
    loudness = tf.constant(rng.standard_normal((100, NUM_TONES)).astype(np.float32) / 5)

    def generate(z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.matmul(tf.nn.relu(tf.matmul(z, loudness)), tones) / 4)[..., None]

    return toy.save(folder, generate, [None, 100], signature=True)


def gansynth(folder: Path, shrunk: int = 1) -> Path:
    """A TF1 module: a note of eight partials whose loudness z chooses, as pictures `data` and as `waves`.

    With `shrunk` the pictures have so many times fewer rows and columns, and the note is shorter by its square.
    """
    frames, bins, hop = 128 // shrunk, 1024 // shrunk, 512 // shrunk

    def graph(weights: Weights) -> dict[str, Signature]:
        noises, labels = placeholder("noises", NOTES, 256), placeholder("labels", NOTES, dtype=tf.int32)
        hertz = 440.0 * 2.0 ** ((tf.cast(labels, tf.float32) + LOWEST_PITCH - 69.0) / 12.0)
        scale, partials = tf.linspace(0.0, 8000.0, bins), hertz[:, None] * tf.range(1.0, 9.0)
        near = tf.exp(-tf.square((scale - partials[:, :, None]) / (40.0 * shrunk)))
        loud = tf.reduce_sum(tf.sigmoid(weights.dense("loudness", noises, 8))[:, :, None] * near, 1)
        level = tf.tanh(loud[:, None] * tf.exp(-tf.range(float(frames)) / 40.0)[None, :, None]) * 2.0 - 1.0
        turns = tf.maximum(tf.round(scale / hertz[:, None]), 1.0) * hertz[:, None] * (hop / 16000.0)
        frequency = tf.repeat((2.0 * (turns - tf.round(turns)))[:, None], frames, 1)
        phase = np.pi * tf.cumsum(frequency, 1)
        size = tf.pow(10.0, 3.0 * (level - 1.0)) * 20_000.0 / shrunk
        spectrum = tf.pad(tf.complex(size * tf.cos(phase), size * tf.sin(phase)), [[0, 0], [0, 0], [0, 1]])
        window_fn = tf.signal.inverse_stft_window_fn(hop)
        waves = tf.signal.inverse_stft(spectrum, 4 * hop, hop, 4 * hop, window_fn)[:, : 64000 // shrunk**2, None]
        outputs = {"data": tf.stack([level, frequency], 3), "waves": tf.clip_by_value(waves, -1.0, 1.0)}
        return {"default": Signature({"noises": noises, "labels": labels}, outputs)}

    return write_hub_module(folder, [((), graph)], Weights(61, resource=False))


def mocogan(folder: Path, side: int = 16, card: dict[str, object] | None = None) -> Path:
    """A background that z chooses, and a bright bar that moves at a speed which z chooses."""
    background = tf.random.stateless_normal([8, 3], [1, 2])
    at, frame = tf.linspace(-1.0, 1.0, side), tf.linspace(-1.0, 1.0, 16)

    def generate(z: tf.Tensor) -> tf.Tensor:
        place = z[:, 8:9] * frame[None]
        bar = tf.exp(-tf.square((at[None, None] - place[..., None]) * 6.0))
        colour = tf.tanh(tf.matmul(z[:, :8], background) / 3)
        return tf.tanh(colour[:, None, None, None] + bar[:, :, None, :, None] * tf.ones([1, 1, side, 1, 1]))

    return toy.save(folder, generate, [None, 10], card)


def i3d(folder: Path) -> Path:
    def graph(weights: Weights) -> dict[str, Signature]:
        clip = placeholder("rgb_input", None, None, I3D_SIDE, I3D_SIDE, 3)
        moved = tf.reduce_mean(tf.abs(clip[:, 1:] - clip[:, :-1]), [1, 2, 3])
        logits = weights.dense("logits", tf.concat([tf.reduce_mean(clip, [1, 2, 3]), 10.0 * moved], 1), 400, 4.0)
        return {"default": Signature({"rgb_input": clip}, {"default": logits})}

    return write_hub_module(folder, [((), graph)], Weights(400, resource=True))


def movinet(folder: Path) -> Path:
    weights = tf.random.stateless_normal([3, 600], [3, 4])
    spec = tf.TensorSpec([None, None, None, None, 3], tf.float32, "image")
    return toy.save_signature(
        folder, lambda image: {"logits": 8.0 * tf.matmul(tf.reduce_mean(image, [1, 2, 3]), weights)}, spec
    )


def spoken_pair(folder: Path, classifier_rate: int = 8000) -> tuple[Path, Path]:
    """Three tones at 8 kHz, each as loud as its coordinate of z; the class is the loudest, `noise` the background."""
    hertz, names = (400.0, 900.0, 1700.0), ["seven", "eight", "nine", "noise"]
    tones = tf.sin(2 * np.pi * tf.constant(hertz)[:, None] * tf.range(640, dtype=tf.float32)[None] / 8000)
    size = 640 * classifier_rate // 8000
    own = tf.sin(2 * np.pi * tf.constant(hertz)[:, None] * tf.range(size, dtype=tf.float32)[None] / classifier_rate)

    def speak(z: tf.Tensor) -> tf.Tensor:
        return 0.3 * tf.matmul(tf.tanh(z), tones)

    def hear(waveform: tf.Tensor) -> tf.Tensor:
        heard = tf.matmul(waveform, own, transpose_b=True) * (20.0 / size)
        return tf.concat([heard, tf.zeros_like(heard[:, :1])], 1)

    def features(waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": tf.matmul(waveform, own, transpose_b=True)}

    card = {"kind": "sound", "sample_rate": 8000, "latent_dim": 3, "prior": "normal", "image_range": [-1, 1]}
    labels = [{"name": name, "background": name == "noise"} for name in names]
    of_classes = {"kind": "sound", "sample_rate": classifier_rate, "labels": labels, "output": "logits", "image_range": [-1, 1]}
    generator = toy.save(folder / "generator", speak, [None, 3], card)
    classifier = toy.save(folder / "classifier", hear, [None, size], of_classes)
    judge = tf.Module()
    inputs = [tf.TensorSpec([None, size], tf.float32, name="input")]
    judge.__call__ = tf.function(hear, input_signature=inputs)
    judge.features = tf.function(lambda input: features(input), input_signature=inputs)
    tf.saved_model.save(judge, str(folder / "judge"), signatures={"features": judge.features})
    (folder / "judge" / "model.json").write_text((folder / "classifier" / "model.json").read_text())
    return generator, classifier


def action_pair(folder: Path) -> tuple[Path, Path]:
    """Clips of 4 frames that one coordinate of z each makes red, green or blue, and brighter with time."""
    growing = tf.linspace(0.5, 1.0, 4)[None, :, None, None, None]

    def act(z: tf.Tensor) -> tf.Tensor:
        return tf.tanh(tf.reshape(tf.tile(z, [1, 4 * 64]), [-1, 4, 8, 8, 3])) * growing

    labels = [{"name": "jumping_jack"}, {"name": "bend"}, {"name": "other", "background": True}]
    card = {"kind": "video", "frame_rate": 12.5, "latent_dim": 3, "prior": "normal", "image_range": [-1, 1]}
    of_classes = {"kind": "video", "frame_rate": 12.5, "labels": labels, "output": "logits", "image_range": [-1, 1]}
    generator = toy.save(folder / "generator", act, [None, 3], card)
    see = lambda clip: 4.0 * tf.reduce_mean(clip, [1, 2, 3])  # noqa: E731
    return generator, toy.save(folder / "classifier", see, [None, 4, 8, 8, 3], of_classes)
