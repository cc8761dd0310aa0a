"""Trains and exports saved_models/speech: generator, classifier and judge of spoken words; resumes after an interruption.

    python -m tools.train.train_speech --data=RECORDINGS --work=DIR [--only=judge,teacher,...] [--classes=a,b]

RECORDINGS is a folder or .tar with `train/<word>/<speaker>_<nn>.wav` and `val/...`. The stages, in this order: `judge`,
`teacher` and `first` (classifiers of recordings), `features` (of source-filter images, for the discriminator), `generator`,
`classifier` (`first`, trained on with the generator's sounds that it and the teacher have labelled), `export`. DIR keeps their
checkpoints, logs and weights; a stage with weights is skipped. `--effort` scales the number of steps of all stages.
"""

import csv
from pathlib import Path

import fire
import keras
import numpy as np
from keras import ops

from tools.train import photographs, sounds, source_filter, speech_gan
from tools.train.calibration import fit
from tools.train.lessons import Epochs, LossModel, fit_averaged
from tools.train.sound_networks import (
    LATENT_DIM,
    SoundImageClassifier,
    Speaker,
    SpeechClassifier,
    SpeechGenerator,
    SpeechJudge,
    SpeechTeacher,
)
from tools.train.train_generator import calibrate

STAGES = ("judge", "teacher", "first", "features", "generator", "classifier", "export")
NETWORKS = {"judge": SpeechJudge, "teacher": SpeechTeacher, "first": SpeechClassifier, "classifier": SpeechClassifier}
EPOCHS = {"judge": 7, "teacher": 7, "first": 7, "features": 6, "generator": 16, "classifier": 4}
STEPS = {"judge": 50, "teacher": 50, "first": 50, "features": 50, "generator": 150, "classifier": 100}  # of an epoch
SEEDS = {"teacher": 0, "judge": 1, "first": 2, "features": 3, "generator": 4, "classifier": 5, "calibration": 6, "draws": 7}
BATCH_SIZE, GAN_BATCH = 64, 32
PARTS = (52, 12, 0)  # of a batch: recordings, sounds that are no word, draws of the generator
PARTS_WITH_DRAWS = (24, 8, 32)
NUM_DRAWS = 10_000
NORM_BATCHES = 50  # for the statistics of batch normalization
NUM_OTHERS = 300  # held-out sounds that are no word, for calibration


class Sounds(Epochs):
    """Batches (wave [B, SAMPLES], target [B, words + 1]) of (seed, epoch, index); the last target is "other"."""

    def __init__(self, waves, labels, num_classes, parts, steps, seed, draws=None, **kwargs):
        super().__init__(steps, **kwargs)
        self.waves, self.labels, self.num_classes, self.parts = waves, labels, num_classes, parts
        self.seed, self.draws = seed, draws

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        rows = rng.integers(len(self.waves), size=self.parts[0])
        waves = np.concatenate([self.waves[rows], sounds.not_words(rng, self.waves, self.parts[1])])
        labels = np.concatenate([self.labels[rows], np.full(self.parts[1], self.num_classes)])
        waves, target = sounds.varied(rng, waves), np.eye(self.num_classes + 1, dtype="float32")[labels]
        if self.draws:
            rows = rng.integers(len(self.draws[0]), size=self.parts[2])
            waves = np.concatenate([waves, self.draws[0][rows].astype("float32")])
            target = np.concatenate([target, self.draws[1][rows]])
        return ((waves, target),)


class SoundLesson(LossModel):
    """A model for `fit` on `Sounds` with the cross-entropy."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.built = True

    def call(self, data, training=False):
        wave = ops.reshape(data[0], (-1, sounds.SAMPLES))
        logits = self.network(wave, training=training)
        return ops.mean(keras.losses.categorical_crossentropy(data[1], logits, from_logits=True))


class ImageLesson(LossModel):
    """A model for `fit` on `ImageBatches` with the cross-entropy on varied images."""

    def __init__(self, network, seed=5, **kwargs):
        super().__init__(**kwargs)
        self.network, self.seed_generator = network, keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, data, training=False):
        image = ops.reshape(data[0], (BATCH_SIZE, *self.network.INPUT))
        image = speech_gan.varied_images(image, photographs.uniform(self.seed_generator, (BATCH_SIZE, 9)))
        logits = self.network(image, training=training)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(data[1], logits, from_logits=True))


class Studio:
    """The recordings, the folder `work`, and the stages of training."""

    def __init__(self, data, work, classes=None, effort=1.0, widths=None):
        self.data, self.work, self.effort, self.widths = data, Path(work), effort, widths
        self.names = tuple(sounds.word_names(data, photographs.as_names(classes)))
        self.work.mkdir(parents=True, exist_ok=True)
        self.waves, self.labels, speakers = sounds.load(data, "train", self.names)
        self.held_out, self.held_out_labels, _ = sounds.load(data, "val", self.names)
        self.speakers = sorted(set(speakers))
        self.joint = self.labels * len(self.speakers) + np.array([self.speakers.index(name) for name in speakers], "int32")

    def folder(self, stage):
        folder = self.work / stage
        folder.mkdir(exist_ok=True)
        return folder

    def size(self, stage):
        """Return the numbers of epochs of a stage and of steps of an epoch."""
        return max(1, round(EPOCHS[stage] * self.effort)), max(1, round(STEPS[stage] * min(1, self.effort * 10)))

    def is_finished(self, stage):
        return (self.work / stage / "final.weights.h5").exists()

    def network(self, stage, trained_stage=None):
        """Return a classifier of recordings, with the weights of `trained_stage` if given."""
        network = NETWORKS[stage](len(self.names), 1)
        network(np.zeros((2, sounds.SAMPLES), "float32"))
        if trained_stage:
            photographs.load_weights(network, self.work / trained_stage / "final.weights.h5")
        return network

    def images(self):
        """Return the source-filter images of the recordings, computed once."""
        path = self.work / "images.npy"
        if not path.exists():
            images = np.stack([source_filter.analysed(wave) for wave in self.waves])
            with path.with_suffix(".part").open("wb") as file:
                np.save(file, images)
            path.with_suffix(".part").replace(path)
        return np.load(path)

    def image_classifier(self, trained=False):
        network = SoundImageClassifier(len(self.names) * len(self.speakers))
        network(np.zeros((2, *network.INPUT), "float32"))
        if trained:
            photographs.load_weights(network, self.work / "features" / "final.weights.h5")
        return network

    def generator(self, trained=False):
        generator = SpeechGenerator(len(self.names), len(self.speakers), **({"widths": self.widths} if self.widths else {}))
        generator(np.zeros((2, generator.latent_dim), "float32"))
        if trained:
            photographs.load_weights(generator, self.work / "generator" / "final.weights.h5")
        return generator

    def train_classifier(self, stage):
        """Train a classifier of recordings; the stage `classifier` goes on from `first`, with labelled draws too."""
        keras.utils.set_random_seed(SEEDS[stage])
        epochs, steps = self.size(stage)
        with_draws = stage == "classifier"
        network = self.network(stage, "first" if with_draws else None)
        draws = self.labelled_draws() if with_draws else None
        parts = PARTS_WITH_DRAWS if with_draws else PARTS
        batches = Sounds(self.waves, self.labels, len(self.names), parts, steps, SEEDS[stage], draws)
        fit_averaged(
            SoundLesson(network),
            batches,
            epochs,
            self.folder(stage),
            network.RATE / (3 if with_draws else 1),
            num_norm_batches=NORM_BATCHES,
        )
        self.calibrate(network)
        network.save_weights(self.folder(stage) / "final.weights.h5")
        logits, labels = self.held_out_logits(network, self.held_out), self.held_out_labels
        words = np.mean(logits.argmax(1) == labels)
        print(f"{stage}: accuracy {words:.3f} on {len(labels)} held-out recordings", flush=True)

    def held_out_logits(self, network, waves):
        return np.concatenate([np.asarray(network.opinion(waves[i : i + 100])) for i in range(0, len(waves), 100)])

    def calibrate(self, network):
        """Fit temperature and the weight of "other" to held-out recordings, and to sounds made from them."""
        others = sounds.not_words(np.random.default_rng(SEEDS["calibration"]), self.held_out, NUM_OTHERS)
        logits = self.held_out_logits(network, np.concatenate([self.held_out, others]))
        labels = np.concatenate([self.held_out_labels, np.full(len(others), len(self.names))])
        temperature, bias = fit(logits, labels, has_other=True)
        network.temperature.assign(temperature)
        network.other_bias.assign(bias)

    def num_draws(self):
        """Return the number of prior draws that the classifier learns from."""
        return max(1, round(NUM_DRAWS * min(1, self.effort)) // 100) * 100

    def labelled_draws(self):
        """Return prior draws (waves float16, targets): p(word) by the teacher times that by `first`, the rest "other"."""
        speaker, rng = Speaker(self.generator(trained=True)), np.random.default_rng(SEEDS["draws"])
        judges = [self.network(stage, stage).opinion for stage in ("teacher", "first")]
        waves, targets = [], []
        for _ in range(self.num_draws() // 100):
            wave = np.asarray(speaker(rng.standard_normal((100, speaker.generator.latent_dim), "float32")))
            both = np.prod([np.asarray(ops.softmax(judge(wave))) for judge in judges], axis=0)
            both[:, -1] = 1 - both[:, :-1].sum(1)
            waves.append(wave.astype("float16"))
            targets.append(both.astype("float32"))
        return np.concatenate(waves), np.concatenate(targets)

    def train_features(self):
        """Train the classifier of (word, speaker) from source-filter images."""
        keras.utils.set_random_seed(SEEDS["features"])
        epochs, steps = self.size("features")
        network, folder = self.image_classifier(), self.folder("features")
        batches = speech_gan.ImageBatches(self.images(), self.joint, BATCH_SIZE, steps, SEEDS["features"], paired=False)
        fit_averaged(ImageLesson(network), batches, epochs, folder, network.RATE, num_norm_batches=NORM_BATCHES)
        network.save_weights(folder / "final.weights.h5")

    def train_generator(self, batch_size=GAN_BATCH):
        """Train the generator; its weights with the lowest KID are kept."""
        keras.utils.set_random_seed(SEEDS["generator"])
        epochs, steps = self.size("generator")
        images, folder, taps = self.images(), self.folder("generator"), speech_gan.Taps(self.image_classifier(trained=True))
        gan = speech_gan.SpeechGan(
            self.generator(),
            taps,
            len(self.names) * len(self.speakers),
            batch_size,
            total_steps=epochs * steps,
            high_pass=2.0,
        )
        gan.set_feature_scales(gan.feature_scales_of(images[:: max(1, len(images) // 128)]))
        rate = keras.optimizers.schedules.PolynomialDecay(4e-4, epochs * steps, end_learning_rate=1e-4)
        adam = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99, epsilon=1e-8, use_ema=True, ema_momentum=0.998)
        gan.compile(optimizer=adam, jit_compile=False)
        adam.build(gan.trainable_variables)
        batches = speech_gan.ImageBatches(images, self.joint, batch_size, steps, SEEDS["generator"], paired=True)
        batches.num_seen_fn = lambda: round(float(gan.step_count.numpy()))
        gan.fit(
            batches,
            epochs=epochs,
            verbose=2,
            callbacks=[
                keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True, delete_checkpoint=False),
                keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
                speech_gan.Watch(taps, images[:: max(1, len(images) // 600)], folder, calibrate),
                keras.callbacks.TerminateOnNaN(),
            ],
        )
        photographs.load_weights(gan.generator, folder / "best.weights.h5")
        calibrate(gan.generator, seed=2, num_batches=32)
        gan.generator.save_weights(folder / "final.weights.h5")


def main(data, work, only=None, classes=None, effort=1.0, widths=None, out="saved_models/speech", licence=None):
    """Run the stages that are not finished, or those of `only`, and export the three models to `out`."""
    studio = Studio(data, work, classes, effort, widths)
    for stage in photographs.as_names(only) or STAGES:
        if stage not in STAGES:
            raise SystemExit(f"only: expected some of {', '.join(STAGES)}, got {stage!r}; name stages.")
        if stage == "export":
            publish(studio, Path(out), licence)
        elif not studio.is_finished(stage):
            if stage in NETWORKS:
                studio.train_classifier(stage)
            else:
                getattr(studio, f"train_{stage}")()


LICENCE = """Trained on the Free Spoken Digit Dataset (Zohar Jackson and others), licence CC BY-SA 4.0. This model has the same
licence. The recordings are not distributed with it."""
SOUND = f"float32 [B, {sounds.SAMPLES}], mono, {sounds.SAMPLES / sounds.RATE} s at {sounds.RATE} Hz"
VIEWS = "varied speed, place, tone, loudness and noise, and gaps; AdamW with a cosine schedule, EMA 0.995"
BUILT = {
    "generator": """A Projected GAN in Keras 3 makes an image of source and filter (`tools/train/sound_networks.py`,
`tools/train/speech_gan.py`): the spectral envelope in {bands} mel bands, the periodic share and the pitch of {frames} frames. A
vocoder without trained weights makes the sound (`tools/train/source_filter.py`): pulses and a fixed noise through a
minimum-phase filter. Trained by `python -m tools.train.train_speech` on such images of {recordings:,} recordings of
{speakers} speakers; the frozen features are those of a classifier of (word, speaker) of the images. The checkpoint with the
lowest KID of its EMA weights is shipped: that after {images:,} images. The first {words} coordinates of z choose the word by
softmax({sharpness} z) over learnt embeddings and the next {speakers} the speaker, inside; from outside the generator is
unconditional.""",
    "classifier": """A residual network of SiLU units on a log mel spectrogram, which is part of the graph, in Keras 3
(`tools/train/sound_networks.py`), trained by `python -m tools.train.train_speech` (stages `first` and `classifier`): on
recordings, and on sounds that are no word, for "other" (reversed, cut, shuffled and mixed recordings, noise, tones); {views}.
Then it was trained on with {draws:,} prior draws of the generator, too: the target of a draw is p(word) by itself times p(word)
by a teacher, a network of another shape that learned from recordings alone, and the rest is "other".""",
    "judge": """A plain network of ReLU units and max-pooling on a log mel spectrogram, which is part of the graph, in Keras 3
(`tools/train/sound_networks.py`), trained by `python -m tools.train.train_speech` (stage `judge`): on recordings, and on sounds
that are no word, for "other" (reversed, cut, shuffled and mixed recordings, noise, tones); {views}. It is a stranger: its
starting weights, shape, windows and bands differ from those of the classifier and the teacher, it never heard a generated
sound, and no sampler sees it.""",
}


def publish(studio, out, licence):
    """Export the three networks with their cards; tools/cards/check_sounds.py adds the measured numbers."""
    from tools.train.export import export, write_card

    sound = {"kind": "sound", "sample_rate": sounds.RATE, "image_range": [-1, 1]}
    generator = studio.generator(trained=True)
    speaker = Speaker(generator)
    with (studio.work / "generator" / "log.csv").open() as file:
        best = min(csv.DictReader(file), key=lambda row: float(row["kid"]))
    export(speaker, speaker, (generator.latent_dim,), out / "generator", sound | {"latent_dim": LATENT_DIM, "prior": "normal"})
    interface = {
        "signature": f"callable, and `serving_default`: `input` float32 [B, {LATENT_DIM}] (z) -> sound {SOUND}",
        "range": "[-1, 1]",
        "prior": "z ~ Normal(0, I)",
        "words it was trained on": ", ".join(studio.names),
    }
    numbers = {
        "views": VIEWS,
        "draws": studio.num_draws(),
        "bands": source_filter.BANDS,
        "frames": source_filter.FRAMES,
        "recordings": len(studio.waves),
        "speakers": len(studio.speakers),
        "words": len(studio.names),
        "sharpness": generator.sharpness,
        "images": int(best["epoch"]) * studio.size("generator")[1] * GAN_BATCH,
    }
    write_card(out / "generator", "Generator of speech", interface, BUILT["generator"].format(**numbers), licence or LICENCE)
    labels = [{"name": name} for name in studio.names] + [{"name": "other", "background": True}]
    for name in ("classifier", "judge"):
        network = studio.network(name, name)
        further = {"features": network.features}
        export(network, network.opinion, (sounds.SAMPLES,), out / name, sound | {"output": "logits", "labels": labels}, further)
        interface = {
            "signature": f"callable, and `serving_default`: `input` {SOUND} -> logits float32 [B, {len(labels)}]",
            "further signature": "`features`: the same input -> float32 [B, D], the mean of the last feature map",
            "range": "[-1, 1]",
            "classes": ", ".join(label["name"] for label in labels),
        }
        write_card(out / name, f"{name.capitalize()} of speech", interface, BUILT[name].format(**numbers), licence or LICENCE)
    print(f"exported to {out}; python -m tools.cards.check_sounds --write measures the numbers of the cards")


if __name__ == "__main__":
    fire.Fire(main)
