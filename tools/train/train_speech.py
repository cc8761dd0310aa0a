"""Trains and exports saved_models/speech: generator, classifier and judge of spoken words; resumes after an interruption.

    python -m tools.train.train_speech --data=RECORDINGS --work=DIR [--only=judge,teacher,...] [--classes=a,b]

RECORDINGS is a folder or .tar with `train/<word>/<speaker>_<nn>.wav` and `val/...`, where each speaker says each word. The
stages, in this order: `generator` (an appearance model, fitted in a minute), `judge`, `teacher` and `first` (classifiers of
recordings), `classifier` (`first`, trained further with the generator's sounds that it and the teacher have labelled),
`export`. DIR keeps their checkpoints, logs and weights; a stage with weights is skipped.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from tools.command import run
from tools.train import photographs, sounds, source_filter
from tools.train.appearance import fit_appearance
from tools.train.calibration import fit, fit_to_targets
from tools.train.lessons import Epochs, LossModel, fit_averaged
from tools.train.sound_networks import (
    LATENT_DIM,
    RANK,
    SHARPNESS,
    Speaker,
    SpeechClassifier,
    SpeechGenerator,
    SpeechJudge,
    SpeechTeacher,
)

STAGES = ("generator", "judge", "teacher", "first", "classifier", "export")
NETWORKS = {"judge": SpeechJudge, "teacher": SpeechTeacher, "first": SpeechClassifier, "classifier": SpeechClassifier}
EPOCHS = {"judge": 7, "teacher": 7, "first": 7, "classifier": 5}
STEPS_PER_EPOCH = 50
SEEDS = {"teacher": 0, "judge": 1, "first": 2, "classifier": 5, "calibration": 6, "draws": 7}
PARTS = (52, 12, 0)  # of a batch: recordings, sounds that are no word, draws of the generator
PARTS_WITH_DRAWS = (18, 6, 40)
NUM_DRAWS, NUM_HELD_OUT = 5_000, 800  # draws to learn from, and to calibrate on
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


class Studio:
    """The recordings, the folder `work`, and the stages of training."""

    def __init__(self, data, work, classes=None):
        self.data, self.work = data, Path(work)
        self.names = tuple(sounds.word_names(data, photographs.as_names(classes)))
        self.work.mkdir(parents=True, exist_ok=True)
        self.waves, self.labels, speakers = sounds.load(data, "train", self.names)
        self.held_out, self.held_out_labels, _ = sounds.load(data, "val", self.names)
        self.speakers = sorted(set(speakers))
        self.spoken_by = np.array([self.speakers.index(name) for name in speakers], "int32")

    def folder(self, stage):
        folder = self.work / stage
        folder.mkdir(exist_ok=True)
        return folder

    def is_finished(self, stage):
        return (self.work / stage / "final.weights.h5").exists()

    def network(self, stage, trained_stage=None):
        """Return a classifier of recordings, with the weights of `trained_stage` if given."""
        network = NETWORKS[stage](len(self.names), 1)
        network(np.zeros((2, sounds.SAMPLES), "float32"))
        if trained_stage:
            photographs.load_weights(network, self.work / trained_stage / "final.weights.h5")
        return network

    def generator(self, trained=False):
        """Return a generator, with its weights if it is `trained`."""
        generator = SpeechGenerator(len(self.names), len(self.speakers), RANK)
        if trained:
            photographs.load_weights(generator, self.work / "generator" / "final.weights.h5")
        return generator

    def fit_generator(self):
        """Fit the appearance model that is the generator."""
        parameters, generator = np.stack([source_filter.analysed(wave) for wave in self.waves]), self.generator()
        content = generator.latent_dim - len(self.names) - len(self.speakers)
        fitted = fit_appearance(parameters, self.labels, self.spoken_by, content, generator.rank)
        for name, value in fitted.items():
            weight = getattr(generator, name)
            weight.assign(value.reshape(weight.shape))
        generator.save_weights(self.folder("generator") / "final.weights.h5")

    def train_classifier(self, stage):
        """Train a classifier of recordings; the stage `classifier` goes on from `first`, with labelled draws too."""
        keras.utils.set_random_seed(SEEDS[stage])
        with_draws = stage == "classifier"
        network = self.network(stage, "first" if with_draws else None)
        draws = self.labelled_draws(NUM_DRAWS, SEEDS["draws"]) if with_draws else None
        parts = PARTS_WITH_DRAWS if with_draws else PARTS
        batches = Sounds(self.waves, self.labels, len(self.names), parts, STEPS_PER_EPOCH, SEEDS[stage], draws)
        fit_averaged(
            SoundLesson(network),
            batches,
            EPOCHS[stage],
            self.folder(stage),
            network.RATE / (3 if with_draws else 1),
            num_norm_batches=NORM_BATCHES,
        )
        network.temperature.assign(1.0)  # not that of `first`
        network.other_bias.assign(0.0)
        if with_draws:
            waves, targets = self.labelled_draws(NUM_HELD_OUT, SEEDS["calibration"])
            temperature, bias = fit_to_targets(self.held_out_logits(network, waves.astype("float32")), targets)
            network.temperature.assign(temperature)
            network.other_bias.assign(bias)
        else:
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

    def labelled_draws(self, count, seed):
        """Return prior draws (waves float16, targets): p(word) by the teacher times that by `first`, the rest "other"."""
        speaker, rng = Speaker(self.generator(trained=True)), np.random.default_rng(seed)
        judges = [self.network(stage, stage).opinion for stage in ("teacher", "first")]
        waves, targets = [], []
        for _ in range(count // 100):
            wave = np.asarray(speaker(rng.standard_normal((100, speaker.generator.latent_dim), "float32")))
            both = np.prod([np.asarray(ops.softmax(judge(wave))) for judge in judges], axis=0)
            both[:, -1] = 1 - both[:, :-1].sum(1)
            waves.append(wave.astype("float16"))
            targets.append(both.astype("float32"))
        return np.concatenate(waves), np.concatenate(targets)


def main(data, work, only=None, classes=None, out="saved_models/speech", licence=None):
    """Run the stages that are not finished, or those of `only`, and export the three models to `out`."""
    studio = Studio(data, work, classes)
    for stage in photographs.as_names(only) or STAGES:
        if stage not in STAGES:
            raise SystemExit(f"only: expected some of {', '.join(STAGES)}, got {stage!r}; give some of these.")
        if stage == "export":
            publish(studio, Path(out), licence)
        elif not studio.is_finished(stage):
            if stage in NETWORKS:
                studio.train_classifier(stage)
            else:
                studio.fit_generator()


LICENCE = """Trained on the Free Spoken Digit Dataset (Zohar Jackson and others), licence CC BY-SA 4.0. This model has the same
licence. The recordings are not distributed with it."""
SOUND = f"float32 [B, {sounds.SAMPLES}], mono, {sounds.SAMPLES / sounds.RATE} s at {sounds.RATE} Hz"
VIEWS = "varied speed, place, tone, loudness and noise, and gaps; AdamW with a cosine schedule, EMA 0.995"
BUILT = {
    "generator": """An appearance model (Cootes et al. 1998; `tools/train/appearance.py`), fitted by
`python -m tools.train.train_speech` to the source-filter parameters of {recordings:,} recordings of {speakers} speakers: for
each of {frames} frames the spectral envelope in {bands} mel bands, the periodic share in {shares} bands, and the pitch. The
recordings of a word are aligned, so that each is a course through the word's own time and what is heard at each moment of it.
The first {words} coordinates of z choose the word by softmax({sharpness} z) and the next {speakers} the speaker, inside; the
rest are coefficients of {content} principal directions, a set for each word, of the differences from the mean of word and
speaker. From outside the generator is unconditional. A vocoder without trained weights makes the sound
(`tools/train/source_filter.py`): pulses and a fixed noise through a minimum-phase filter.""",
    "classifier": """A residual network of SiLU units on a log mel spectrogram, which is part of the graph, in Keras 3
(`tools/train/sound_networks.py`), trained by `python -m tools.train.train_speech` (stages `first` and `classifier`): on
recordings, and on sounds that are no word, for "other" (reversed, cut, shuffled and mixed recordings, noise, tones); {views}.
Then the training continued with {draws:,} prior draws of the generator, too: the target of a draw is p(word) by this network
times p(word) by a teacher, a network of another shape that learned from recordings alone, and the rest is "other". Temperature
and the weight of "other" are fitted to {held_out:,} further draws. At export, batch normalization is folded into the
convolutions.""",
    "judge": """A plain network of ReLU units and max-pooling on a log mel spectrogram, which is part of the graph, in Keras 3
(`tools/train/sound_networks.py`), trained by `python -m tools.train.train_speech` (stage `judge`): on recordings, and on sounds
that are no word, for "other" (reversed, cut, shuffled and mixed recordings, noise, tones); {views}. It is independent: its
starting weights, shape, windows and bands differ from those of the classifier and the teacher, it never heard a generated
sound, and no sampler uses it. At export, batch normalization is folded into the convolutions.""",
}


def publish(studio, out, licence):
    """Export the three networks with their cards; tools/cards/check_sounds.py adds the measured numbers."""
    from tools.train.export import export, write_card

    sound = {"kind": "sound", "sample_rate": sounds.RATE, "image_range": [-1, 1]}
    generator = studio.generator(trained=True)
    speaker = Speaker(generator)
    export(speaker, speaker, (generator.latent_dim,), out / "generator", sound | {"latent_dim": LATENT_DIM, "prior": "normal"})
    interface = {
        "signature": f"callable, and `serving_default`: `input` float32 [B, {LATENT_DIM}] (z) -> sound {SOUND}",
        "range": "[-1, 1]",
        "prior": "z ~ Normal(0, I)",
        "words it was trained on": ", ".join(studio.names),
    }
    numbers = {
        "views": VIEWS,
        "draws": NUM_DRAWS,
        "held_out": NUM_HELD_OUT,
        "bands": source_filter.BANDS,
        "frames": source_filter.FRAMES,
        "recordings": len(studio.waves),
        "speakers": len(studio.speakers),
        "words": len(studio.names),
        "sharpness": SHARPNESS,
        "shares": source_filter.PERIODIC,
        "content": LATENT_DIM - len(studio.names) - len(studio.speakers),
    }
    write_card(out / "generator", "Generator of speech", interface, BUILT["generator"].format(**numbers), licence or LICENCE)
    labels = [{"name": name} for name in studio.names] + [{"name": "other", "background": True}]
    for name in ("classifier", "judge"):
        network = studio.network(name, name).compact()
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
    run(main)
