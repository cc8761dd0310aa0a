"""Trains and exports saved_models/generator; resumes after an interruption.

    python -m tools.train.train_generator --data=FOLDER --features=FEATURES --work=DIR [--classes=a,b] [--emphasis=a]
    python -m tools.train.train_generator ... --features=FEATURES,lite1 --start=saved_models/generator --images=384_000

FOLDER is a folder or .tar with `train/<name>/*.JPEG` and `val/<name>/*.JPEG`. FEATURES are the frozen features of the
discriminator, one or several: SqueezeNet as an .npz, `final.weights.h5` of a teacher from train_classifier.py, or lite1, which
is EfficientNet-Lite1 with the weights of the extra `train`. DIR keeps the checkpoint, the log, sample sheets, and the weights
with the lowest KID so far, which are exported. `--emphasis` shows photographs of a class twice as often. `--smoothness` is the
weight of the path-length regularization. `KERAS_BACKEND=jax` trains without TensorFlow; to export, run again with `--images=0`
and TensorFlow.

With `--start`, training goes on from an exported generator. A new discriminator first learns alone, and the last weights are
exported: they have the lowest learning rate, and KID in features that chose the first generator says little about the next.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tfgradgen.core.checks import check_int
from tools.cards.quality import save_sheet
from tools.command import run
from tools.train import photographs
from tools.train.features import JoinedFeatures, load_features
from tools.train.generator_network import SHIPPED_SHARPNESS, TRAINING_SHARPNESS, WIDTHS, FoldedGenerator, Generator
from tools.train.projected_gan import ProjectedGan, swap_class

IMAGES_PER_EPOCH = 16_000
NUM_DRAWS = 1200  # prior draws for each KID


class Recipe(NamedTuple):
    """Settings of a training.

    Attributes:
      sharpness: Of the choice of the class.
      rates: First and last learning rate.
      diversity: First and last weight of the diversity of pairs.
      high_pass: Gain of the high-pass part of the pixels.
      warm_steps: Batches from which only the discriminator learns at first.
    """

    sharpness: float
    rates: tuple[float, float]
    diversity: tuple[float, float]
    high_pass: float
    warm_steps: int


NEW = Recipe(TRAINING_SHARPNESS, (2.5e-4, 5e-5), (2.0, 0.1), 6.0, 0)
GOING_ON = Recipe(SHIPPED_SHARPNESS, (2e-4, 3e-5), (1.0, 1.0), 5.0, 400)


class PairBatches(keras.utils.PyDataset):
    """Batches whose rows i and i + B / 2 have the same class, and that depend on (seed, epoch, index) only."""

    def __init__(self, gan, images, labels, class_probs, seed, **kwargs):
        super().__init__(**kwargs)
        self.gan, self.images, self.labels, self.class_probs, self.seed = gan, images, labels, class_probs, seed
        self.members = [np.flatnonzero(labels == c) for c in range(len(class_probs))]
        self.epoch = 0

    def __len__(self):
        return IMAGES_PER_EPOCH // self.gan.batch_size

    def on_epoch_begin(self):
        self.epoch = round(float(self.gan.step_count.numpy()) / len(self))  # also correct right after a resume

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        half = rng.choice(len(self.members), self.gan.batch_size // 2, p=self.class_probs)
        rows = np.array([rng.choice(self.members[c]) for c in np.concatenate([half, half])])
        return ((self.images[rows], self.labels[rows]),)


def pooled_features(features, images, batch_size=100):
    """Return the spatial mean of the last feature map, [N, channels] float32."""
    pooled = []
    for i in range(0, len(images), batch_size):
        resized = keras.ops.image.resize(images[i : i + batch_size], (features.image_size, features.image_size))
        pooled.append(np.asarray(keras.ops.mean(keras.ops.cast(features(resized)[-1], "float32"), axis=(1, 2))))
    return np.concatenate(pooled)


def calibrate(generator, seed=1, num_batches=16):
    """Measure the inference statistics of batch normalization on prior draws."""
    rng = np.random.default_rng(seed)
    generator.calibrate([rng.standard_normal((128, generator.latent_dim), "float32") for _ in range(num_batches)])


class Watch(keras.callbacks.Callback):
    """Computes the KID of the EMA weights after each epoch; writes a sheet, a line of the log, and the best or last weights."""

    def __init__(self, features, held_out, work, keeps_last=False):
        super().__init__()
        self.features, self.work, self.keeps_last = features, work, keeps_last
        real = pooled_features(features, np.asarray(photographs.to_range(held_out)))
        self.scale = 1 / np.sqrt(np.mean(real**2))  # unit mean square, for the kernel of KID
        self.real = real * self.scale
        rng = np.random.default_rng(7)
        self.log = work / "log.csv"
        rows = list(csv.DictReader(self.log.open())) if self.log.exists() else []
        self.best = min((float(row["kid"]) for row in rows), default=float("inf"))
        self.rng_z = lambda dim: rng.standard_normal((NUM_DRAWS, dim), "float32")
        self.z = None

    def on_epoch_end(self, epoch, logs=None):
        from tfgradgen.evaluation.distances import kid  # needs only NumPy and SciPy

        gan = self.model
        generator, classes = gan.generator, gan.num_classes
        if self.z is None:
            self.z = self.rng_z(generator.latent_dim)
        calibrate(generator)
        images = np.concatenate([np.asarray(generator(self.z[i : i + 100])) for i in range(0, NUM_DRAWS, 100)])
        distance = kid(pooled_features(self.features, images) * self.scale, self.real)
        seen = (epoch + 1) * IMAGES_PER_EPOCH
        labels = np.repeat(np.arange(classes), 10).astype("int32")
        by_class = np.asarray(generator(np.asarray(swap_class(self.z[: len(labels)], labels, classes))))
        save_sheet(self.work / f"sheet_{seen // 1000:05d}k.png", by_class, columns=10)
        row = dict(images=seen, kid=round(distance, 5), **{k: round(float(v), 4) for k, v in (logs or {}).items()})
        new = not self.log.exists()
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        is_best = distance < self.best
        self.best = min(distance, self.best)
        if is_best or self.keeps_last:
            generator.save_weights(self.work / "new.weights.h5")
            (self.work / "new.weights.h5").replace(self.work / "best.weights.h5")
        print(f"{seen} images: KID {distance:.4f}, best {self.best:.4f}", flush=True)


def begun(names, precision, start, recipe):
    """Return a generator with random weights, or one that goes on from the exported generator in the folder `start`."""
    generator = Generator(len(names), recipe.sharpness, dtype=precision)
    if start:
        from tfgradgen.models.generator import load_generator
        from tools.train.unfold import unfolded

        weights = {weight.name.split("/")[-1].removesuffix(":0"): weight for weight in load_generator(start).module.weights}
        found = unfolded(weights, recipe.sharpness)
        if found.num_classes != len(names):
            raise SystemExit(
                f"start: expected a generator of {len(names)} classes, got one of {found.num_classes}; give another."
            )
        generator = Generator(len(names), recipe.sharpness, widths=found.widths, dtype=precision)
    generator(np.zeros((2, generator.latent_dim), "float32"))
    if start:
        generator.set_weights(found.get_weights())
    return generator


def warm_up(gan, batches, steps):
    """Let only the discriminator learn, from `steps` batches."""
    gan.generator.trainable = False
    gan.compile(optimizer=keras.optimizers.Adam(2e-4, beta_1=0.0, beta_2=0.99, epsilon=1e-8))
    gan.fit(batches, steps_per_epoch=steps, verbose=2)
    gan.generator.trainable = True
    gan.step_count.assign(0)


def train(data, features, work, names, images, batch_size, emphasis, smoothness, precision, seed, start=None):
    """Train the GAN, resuming from `work`, and write its weights there."""
    recipe = GOING_ON if start else NEW
    keras.utils.set_random_seed(seed)
    train_images, train_labels = photographs.load(data, "train", names)
    held_out, _ = photographs.load(data, "val", names)
    dtype = "bfloat16" if "bfloat16" in precision else "float32"
    parts = [load_features(path, dtype) for path in photographs.as_names(features)]
    gan = ProjectedGan(
        begun(names, precision, start, recipe),
        JoinedFeatures(parts, dtype=dtype) if len(parts) > 1 else parts[0],
        len(names),
        batch_size,
        total_steps=images // batch_size,
        smoothness=smoothness,
        high_pass=recipe.high_pass,
        diversity=recipe.diversity,
        seed=seed + 23,
    )
    gan.set_feature_scales(gan.feature_scales_of(photographs.to_range(train_images[:: max(1, len(train_images) // 128)])))
    weights = np.array([2.0 if name in emphasis else 1.0 for name in names])
    batches = PairBatches(gan, train_images, train_labels, weights / weights.sum(), seed)
    if recipe.warm_steps and not (work / "backup").exists():
        warm_up(gan, batches, recipe.warm_steps)
    first, last = recipe.rates
    rate = keras.optimizers.schedules.PolynomialDecay(first, images // batch_size, end_learning_rate=last)
    adam = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99, epsilon=1e-8, use_ema=True, ema_momentum=0.999)
    gan.compile(optimizer=adam, jit_compile=keras.backend.backend() == "jax")
    adam.build(gan.trainable_variables)
    gan.fit(
        batches,
        epochs=images // IMAGES_PER_EPOCH,
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(work / "backup", double_checkpoint=True, delete_checkpoint=False),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            Watch(parts[0], held_out, work, keeps_last=bool(start)),
            keras.callbacks.TerminateOnNaN(),
        ],
    )


def main(
    data,
    features,
    work,
    classes=None,
    labels=None,
    emphasis=(),
    images=528_000,
    batch_size=32,
    smoothness=0.0,
    precision="mixed_bfloat16",
    seed=0,
    start=None,
    out="saved_models/generator",
    licence=None,
):
    """Train for `images` fakes in total (a multiple of 16,000), then export the best weights to `out`."""
    names = photographs.as_names(classes) or photographs.class_names(data, photographs.read_labels(labels))
    for name in photographs.as_names(emphasis):
        if name not in names:
            raise SystemExit(f"emphasis: expected one of {', '.join(names)}, got {name!r}; give a class of the photographs.")
    if check_int("images", images, 0) % IMAGES_PER_EPOCH:
        raise SystemExit(f"images: expected a multiple of {IMAGES_PER_EPOCH}, got {images!r}; give one, for the checkpoints.")
    work = Path(work)
    work.mkdir(parents=True, exist_ok=True)
    if images:
        shown = photographs.as_names(emphasis)
        train(data, features, work, names, images, batch_size, shown, smoothness, precision, seed, start)
    if keras.backend.backend() != "tensorflow":
        print(f"trained; best weights in {work}/best.weights.h5; to export them, run again with --images=0 and TensorFlow")
        return
    generator = begun(names, "float32", start, GOING_ON) if start else empty_generator(len(names))  # of the same widths
    photographs.load_weights(generator, work / "best.weights.h5")
    with (work / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    publish(generator, names, described(rows, photographs.as_names(features), start), out, licence)


def described(rows, features, start):
    """Return how a generator was trained, for its card, from the rows of its log."""
    names = " and ".join(Path(each).name for each in features)
    by = f"`python -m tools.train.train_generator` on the photographs of each class, with {names} as frozen features."
    if start:
        return f"""{by} Training went on from an earlier generator with s = {GOING_ON.sharpness}, for
{int(rows[-1]["images"]):,} images; the last EMA weights are shipped."""
    best = min(rows, key=lambda row: float(row["kid"]))
    return f"""{by} In training s was
{NEW.sharpness}. The checkpoint with the lowest KID of its EMA weights (1,200 draws, in the training features) is shipped: that
after {int(best["images"]):,} images."""


def empty_generator(num_classes, widths=WIDTHS):
    """Return a generator with the sharpness that ships, built, with random weights."""
    generator = Generator(num_classes, SHIPPED_SHARPNESS, widths=widths)
    generator(keras.Input((generator.latent_dim,)))
    return generator


def publish(generator, names, recipe, out, licence=None, num_batches=64):
    """Export `generator` in float32, with statistics measured again; check_models.py completes the card.

    Args:
      generator: A generator with the weights to export.
      names: Names of its classes.
      recipe: What trained it and how, for the card: the end of a sentence after "trained by", and further sentences.
      out: The folder of the model.
      licence: Licence of the photographs.
      num_batches: Batches of 128 draws that the statistics are measured on.
    """
    from tools.train.export import export, write_card

    calibrate(generator, seed=2, num_batches=num_batches)
    metadata = {"latent_dim": generator.latent_dim, "prior": "normal", "image_range": [-1, 1], "image_shape": [64, 64, 3]}
    folded = FoldedGenerator(generator)
    export(folded, folded, (generator.latent_dim,), out, metadata)
    interface = {
        "signature": f"callable, and `serving_default`: `input` float32 [B, {generator.latent_dim}] (z) -> image float32 "
        "[B, 64, 64, 3]",
        "range": "[-1, 1], RGB",
        "prior": "z ~ Normal(0, I)",
        "classes it was trained on": ", ".join(names),
    }
    write_card(
        out,
        "Generator",
        interface,
        f"""A Projected GAN in Keras 3 (`tools/train/generator_network.py`, `tools/train/projected_gan.py`), trained by
{recipe} It has {", ".join(map(str, generator.widths))} channels at 4, 8, 16, 32 and 64 pixels.
The first {len(names)} coordinates of z choose the class by softmax(s z_c) over learnt embeddings, inside; from outside the
generator is unconditional. s is {SHIPPED_SHARPNESS} here. What does not depend on z is computed at export: batch normalization
is folded into one matrix product (`FoldedGenerator`).""",
        licence,
    )
    print(f"exported to {out}; python -m tools.cards.check_models --only=generator --write measures the numbers of its card")


if __name__ == "__main__":
    run(main)
