"""Compares recipes of the generator on a GPU and goes on with the best one, within a given time.

    KERAS_BACKEND=jax python -m tools.device.train_generator --out=DIR [--seconds=480] [--trial_seconds=25]

It reads what `tools.device.packed` wrote. Each recipe is trained for `--trial_seconds`; the one with the lowest FID in the
judge's features goes on for the rest of the time. The judge is of no other use here. DIR gets log.csv, sheets of all classes,
and the averaged weights of the best moment so far: `best.npz`, and `best.json` with the recipe.

Before a long run, `--time_only=True --recipes=NAME --seconds=20` compiles one recipe, trains it for so long, and prints the
seconds of compilation and images a second. With a batch of 256 on an H100, XLA's flags decided: see train_models.sh.
"""

import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fire
import jax
import jax.numpy as jnp
import keras
import numpy as np

from tfgradgen.evaluation.distances import density_and_coverage, fid
from tools.cards.quality import save_sheet
from tools.device.packed import Packed, save_weights
from tools.device.scanned import Scanned, pure, values_of
from tools.train import photographs
from tools.train.features import JoinedFeatures, LiteFeatures, SqueezeNetFeatures
from tools.train.generator_network import Generator
from tools.train.projected_gan import ProjectedGan, swap_class

WIDE = (384, 192, 112, 52, 20)
RECIPES = {
    "squeeze_guided": dict(features=("squeeze",), high_pass=6.0, guidance=0.4),
    "both_guided": dict(features=("squeeze", "lite"), high_pass=4.0, guidance=0.4),
    "squeeze": dict(features=("squeeze",), high_pass=6.0, guidance=0.0),
}
EMPHASIS = {"goldfish": 2.0}
NUM_DRAWS = 4000  # for each evaluation
NUM_DIMS = 128  # principal components of the judge's features that FID is computed in
HALF_BATCH_STATISTICS = 1024
RATE, LAST_RATE = 4e-4, 5e-5


def decayed(share):
    """Return the learning rate at a share of the training."""
    return RATE + (LAST_RATE - RATE) * min(1.0, max(0.0, share))


def say(start, text):
    """Print `text` with the seconds since `start`."""
    print(f"{time.monotonic() - start:6.1f} {text}", flush=True)


def batch_fn_of(probs, per_class, batch_size):
    """Return a function (key, (image, member)) -> (image, label), whose rows i and i + B / 2 have the same class."""
    half, log_probs = batch_size // 2, jnp.log(jnp.asarray(probs))

    def batch_fn(key, data):
        images, members = data
        of_class, of_row = jax.random.split(key)
        label = jax.random.categorical(of_class, log_probs, shape=(half,))
        label = jnp.concatenate([label, label])
        row = members[label, jax.random.randint(of_row, (batch_size,), 0, per_class)]
        return images[row], label.astype("int32")

    return batch_fn


class Measure:
    """Measures a generator: FID in the judge's features, the share of its images that the judge names, and coverage."""

    def __init__(self, judge, images, batch=500):
        self.batch = batch
        variables = judge.variables
        fn = pure(lambda image: (judge.features(image), judge.opinion(image)), variables)
        self.values, self.fn = values_of(variables), jax.jit(fn)
        real = np.concatenate(
            [self.judged(images[i : i + batch] / np.float32(127.5) - 1)[0] for i in range(0, len(images), batch)]
        )
        self.centre = real.mean(0)
        _, vectors = np.linalg.eigh(np.cov((real - self.centre).T))
        self.axes = vectors[:, -NUM_DIMS:]
        self.scale = np.sqrt(np.mean((real - self.centre) ** 2))
        self.real = self.project(real)

    def judged(self, images):
        """Return (features, logits) of images [N, 64, 64, 3] in [-1, 1]."""
        return tuple(np.asarray(x, "float64") for x in self.fn(self.values, images))

    def project(self, features):
        return (features - self.centre) @ self.axes / self.scale

    def __call__(self, generate, num_classes, latent_dim, count=NUM_DRAWS):
        z = jax.random.normal(jax.random.key(11), (count, latent_dim))
        label = jnp.arange(count) % num_classes
        z = swap_class(z, label, num_classes)
        images = [np.asarray(generate(z[i : i + self.batch])) for i in range(0, count, self.batch)]
        found = [self.judged(image) for image in images]
        features, logits = (np.concatenate(x) for x in zip(*found, strict=True))
        points = self.project(features)
        named = float(np.mean(logits[:, :num_classes].argmax(1) == np.asarray(label)))
        some = np.random.default_rng(0).permutation(len(self.real))[: count // 2]
        density, coverage = density_and_coverage(points[: count // 2], self.real[some])
        row = dict(fid=fid(points, self.real), named=named, density=density, coverage=coverage)
        return {key: round(float(value), 4) for key, value in row.items()}, np.concatenate(images)[: 10 * num_classes]


class Trial:
    """A recipe: its GAN, and the loop that trains it."""

    def __init__(self, name, recipe, packed, images, labels, batch_size, steps, total_steps, precision):
        names = packed.names
        keras.utils.set_random_seed(0)
        dtype = "bfloat16" if "bfloat16" in precision else "float32"
        self.name, self.num_classes = name, len(names)
        self.generator = Generator(len(names), widths=WIDE, dtype=precision)
        self.generator(keras.Input((self.generator.latent_dim,)))
        lite = LiteFeatures(packed.lite(LiteFeatures.image_size), dtype=dtype)
        parts = {"squeeze": lambda: SqueezeNetFeatures(packed.folder / "squeezenet.npz", dtype=dtype), "lite": lambda: lite}
        features = JoinedFeatures([parts[part]() for part in recipe["features"]], dtype=dtype)
        columns = jnp.asarray(packed.columns)

        def guide(image, label):
            size = lite.image_size
            image = image if image.shape[1] == size else keras.ops.image.resize(image, (size, size))
            log_probs = lite.log_probs(lite.maps(image)[1])
            return -jnp.take_along_axis(log_probs, columns[label][:, None], axis=1)[:, 0]

        gan = ProjectedGan(
            self.generator,
            features,
            len(names),
            batch_size,
            total_steps,
            high_pass=recipe["high_pass"],
            guide=guide if recipe["guidance"] else None,
            guidance=recipe["guidance"],
        )
        some = photographs.to_range(images[:: max(1, len(images) // 128)][:128])
        scales_fn = jax.jit(pure(gan.feature_scales_of, features.variables))
        gan.set_feature_scales(scales_fn(values_of(features.variables), some))
        adam = keras.optimizers.Adam(RATE, beta_1=0.0, beta_2=0.99, epsilon=1e-8, use_ema=True, ema_momentum=0.998)
        per_class = min(np.bincount(labels))
        members = jnp.asarray(np.stack([np.flatnonzero(labels == c)[:per_class] for c in range(len(names))]))
        weights = np.array([EMPHASIS.get(each, 1.0) for each in names])
        batch_fn = batch_fn_of(weights / weights.sum(), per_class, batch_size)
        self.loop = Scanned(gan, adam, batch_fn, (jnp.asarray(images), members), steps)
        self.seconds, self.batch_size = 0.0, batch_size
        variables = self.generator.variables

        def infer(z):
            for norm in self.generator.all_norms:
                norm.momentum = 0.0  # the statistics of one large batch
            return self.generator(z, training=True)

        self.infer = jax.jit(pure(infer, variables))

    def train(self, seconds, rate_fn):
        """Train for `seconds`, as `Scanned.learn` does."""
        start = time.monotonic()
        losses = self.loop.learn(seconds, rate_fn)
        self.seconds += time.monotonic() - start
        return {key: round(value, 3) for key, value in losses.items()}

    def generate(self, z):
        """Return images of `z` by the averaged weights, whose batch normalization takes its moments from half a fixed batch."""
        fixed = jax.random.normal(jax.random.key(5), (HALF_BATCH_STATISTICS, z.shape[1]))
        return self.infer(values_of(self.generator.variables), jnp.concatenate([z, fixed]))[: len(z)]

    def num_images(self):
        return self.loop.num_steps * self.batch_size


def time_recipe(trial, seconds, start):
    """Compile the loop of `trial` and train for `seconds`; print images a second."""
    begin = time.monotonic()
    trial.loop.compile()
    say(start, f"{trial.name}: compiled in {time.monotonic() - begin:.1f} s")
    trial.train(0, lambda share: RATE)  # the first call loads kernels
    before, begin = trial.num_images(), time.monotonic()
    losses = trial.train(seconds, lambda share: RATE)
    rate = (trial.num_images() - before) / (time.monotonic() - begin)
    say(start, f"{trial.name}: {rate:.0f} images a second, batches of {trial.batch_size}, loss {losses['loss']:.2f}")


def main(
    out,
    inputs="device_in/training",
    seconds=480,
    trial_seconds=25,
    compile_seconds=200,
    recipes=tuple(RECIPES),
    batch_size=256,
    steps=25,
    total_images=3_000_000,
    precision="mixed_bfloat16",
    num_draws=NUM_DRAWS,
    every=60,
    limit=None,
    time_only=False,
):
    """Train for `seconds` in all and write the best weights to `out`."""
    start = time.monotonic()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    packed = Packed(inputs)
    parts = packed.photographs()
    images, labels = (array[:: max(1, len(parts["train"][0]) // (limit or len(array)))] for array in parts["train"])
    say(start, f"{len(images)} photographs on {jax.devices()[0]}")
    recipes = [recipes] if isinstance(recipes, str) else list(recipes)
    if time_only:
        some = (RECIPES[recipes[0]], packed, images, labels, batch_size, steps, total_images // batch_size, precision)
        time_recipe(Trial(recipes[0], *some), min(seconds, 20), start)
        return
    rows: list[Any] = []
    best: Any = None
    with ThreadPoolExecutor(len(recipes)) as pool:
        trials = []
        for name in recipes:
            trial = Trial(name, RECIPES[name], packed, images, labels, batch_size, steps, total_images // batch_size, precision)
            say(start, f"{name}: traced, {trial.generator.count_params():,} parameters")
            trials.append((trial, pool.submit(trial.loop.compile)))
        measure = Measure(packed.judge(), images)
        say(start, "photographs judged")

        def evaluate(trial, losses):
            nonlocal best
            trial.loop.assign()
            figures, sheet = measure(trial.generate, trial.num_classes, trial.generator.latent_dim, num_draws)
            row = dict(recipe=trial.name, images=trial.num_images(), seconds=round(trial.seconds, 1), **figures, **losses)
            rows.append(row)
            say(start, ", ".join(f"{key} {value}" for key, value in row.items()))
            with (out / "log.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(row), extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
            by_class = sheet.reshape(10, trial.num_classes, *sheet.shape[1:]).swapaxes(0, 1).reshape(sheet.shape)
            save_sheet(out / f"{trial.name}_{trial.num_images() // 1000:05d}k.png", by_class, columns=10, scale=1)
            if best is None or figures["fid"] < best[0]:
                best = (figures["fid"], trial)
                save_weights(out / "best.npz", trial.generator.variables)
                record = dict(row, settings=RECIPES[trial.name], batch_size=batch_size, widths=trial.generator.widths)
                (out / "best.json").write_text(json.dumps(record), encoding="utf-8")
            return figures["fid"]

        scores: list[Any] = []
        for trial, compiled in trials:
            try:  # one recipe that fails, or is not ready in time, must not cost the others their time
                compiled.result(timeout=max(1.0, compile_seconds - (time.monotonic() - start)) if scores else None)
                say(start, f"{trial.name}: compiled")
                losses = trial.train(trial_seconds, lambda share: RATE)
                scores.append((evaluate(trial, losses), trial))
            except Exception as problem:  # noqa: PERF203
                say(start, f"{trial.name}: left out: {type(problem).__name__} {str(problem)[:300]}")
        trial = min(scores, key=lambda score: score[0])[1]
        say(start, f"best so far: {trial.name}; it goes on")
        begin = time.monotonic() - start
        while (now := time.monotonic() - start) < seconds:
            span = min(every, seconds - now)
            first, last = ((at - begin) / (seconds - begin) for at in (now, now + span))
            losses = trial.train(span, lambda part, first=first, last=last: decayed(first + part * (last - first)))
            evaluate(trial, losses)
    (out / "done").touch()
    say(start, f"best FID {best[0]}, {best[1].name}")


if __name__ == "__main__":
    fire.Fire(main)
