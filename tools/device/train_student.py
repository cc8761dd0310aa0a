"""Trains the consensus classifier for a new generator on a GPU, within minutes.

    KERAS_BACKEND=jax python -m tools.device.train_student --generator=DIR --out=DIR

It reads what `tools.device.packed` wrote and `best.npz` of `tools.device.train_generator`. The lessons are those of
`tools.train.train_consensus`: labelled draws, a head on frozen features, fine-tuning, and rounds on draws that the student keeps.
DIR gets `student.npz` (in the order of the student's weights), `figures.json` and a sheet of exact draws.
"""

import json
import time
from pathlib import Path

import fire
import jax
import jax.numpy as jnp
import keras
import numpy as np

from tools.cards.quality import save_sheet
from tools.device.packed import Packed, load_weights, save_weights
from tools.device.scanned import Scanned, pure, values_of
from tools.device.train_generator import say
from tools.train import photographs
from tools.train.consensus_data import PHOTOGRAPH_WEIGHT, SHARES, interest
from tools.train.consensus_network import Student, calibration_of
from tools.train.consensus_stages import FROZEN_BLOCKS, KEEP_FLOOR, VARIANT, Lesson, optimizer_of
from tools.train.generator_network import SHIPPED_SHARPNESS, Generator
from tools.train.label_draws import near, targets
from tools.train.measure_consensus import exact_figures, photograph_figures

TEACHER_SIZE, STUDENT_SIZE = 112, 96
TUNE_COUNTS = (192, 66, 30)  # rows of a batch: draws, photographs of the classes, photographs of other things
HEAD_BATCH = 256
HELD_OUT = 0.1  # share of the prior draws for calibration and figures


def load_generator(folder, num_classes):
    """Return the generator of `best.npz`, with the statistics of 4,096 prior draws."""
    folder = Path(folder)
    record = json.loads((folder / "best.json").read_text(encoding="utf-8"))
    generator = Generator(num_classes, SHIPPED_SHARPNESS, widths=record["widths"])
    generator(keras.Input((generator.latent_dim,)))
    load_weights(folder / "best.npz", generator.variables)
    for norm in [generator.stem_norm, generator.residual_norm, *generator.norms]:
        norm.momentum = 0.0
    z = jax.random.normal(jax.random.key(2), (4096, generator.latent_dim))
    trainable, fixed = generator.trainable_variables, generator.non_trainable_variables
    _, moments = jax.jit(lambda t, f, z: generator.stateless_call(t, f, z, training=True))(
        values_of(trainable), values_of(fixed), z
    )
    for variable, value in zip(fixed, moments, strict=True):
        variable.assign(value)
    return generator


def mapped(fn, variables, batch):
    """Return `fn` of arrays [N, ...], compiled for `batch` rows at a time, with results on the device."""
    compiled = jax.jit(pure(fn, variables))

    def run(x):
        values, parts = values_of(variables), []
        for i in range(0, len(x), batch):
            part = x[i : i + batch]
            missing = batch - len(part)
            padded = (
                jnp.concatenate([part, jnp.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else jnp.asarray(part)
            )
            parts.append(jax.tree.map(lambda y, n=len(part): y[:n], compiled(values, padded)))
        return jax.tree.map(lambda *each: jnp.concatenate(each), *parts)

    return run


class Lab:
    """The frozen networks, compiled, and the draws labelled so far."""

    def __init__(self, packed, generator, batch):
        teacher, lite = packed.teacher(), packed.lite(TEACHER_SIZE)
        columns = jnp.asarray(packed.columns)
        self.latent_dim, self.batch = generator.latent_dim, batch

        def label(z):
            image = jnp.clip((generator(z) + 1) * 127.5 + 0.5, 0, 255).astype("uint8")
            seen = photographs.to_range(image)
            of_lite = keras.ops.log_softmax(lite(seen), axis=-1)[:, columns]
            return image, keras.ops.log_softmax(teacher.opinion(seen), axis=-1), of_lite

        self.label_fn = mapped(label, [*generator.variables, *teacher.variables, *lite.variables], batch)
        self.image_fn = mapped(
            lambda z: jnp.clip((generator(z) + 1) * 127.5 + 0.5, 0, 255).astype("uint8"), generator.variables, batch
        )

    def labelled(self, z):
        """Return (images uint8 on the device, targets [N, K + 1])."""
        image, classifier, of_lite = self.label_fn(jnp.asarray(z))
        return image, targets(np.asarray(classifier), np.asarray(of_lite))

    def prior(self, count, seed):
        return np.asarray(jax.random.normal(jax.random.key(seed), (count, self.latent_dim)))


def batches(counts, has_u):
    """Return a function (key, data) -> batch of draws and of both kinds of photographs.

    `data` are (draws, photographs, other photographs), each (input [N, ...], target [N, K + 1], weight [N], cumulative [N]).
    """

    def batch_fn(key, data):
        keys = jax.random.split(key, len(counts) + 1)
        parts = []
        for each, count, (x, target, weight, cumulative) in zip(keys, counts, data, strict=False):
            rows = jnp.searchsorted(cumulative, jax.random.uniform(each, (count,)) * cumulative[-1])
            rows = jnp.minimum(rows, len(cumulative) - 1)
            parts.append((x[rows], target[rows], weight[rows]))
        x, target, weight = (jnp.concatenate(each) for each in zip(*parts, strict=True))
        batch = (x, target, weight.astype("float32"))
        return (*batch, jax.random.uniform(keys[-1], (sum(counts[1:]), 8))) if has_u else batch

    return batch_fn


def weighed(kinds):
    """Return (probabilities of showing [N], weights of the loss [N]) of draws {kind: (targets, keep)}, joined in order."""
    weights = []
    for kind, (target, keep) in kinds.items():
        weight = np.ones(len(target)) / keep
        weights.append(weight / weight.sum() * SHARES.get(kind, 1.0))
    weight, target = np.concatenate(weights), np.concatenate([target for target, _ in kinds.values()])
    shown = weight * interest(target)
    probs = shown / shown.sum()
    return target, probs, weight / weight.sum() / probs


def main(
    generator,
    out,
    inputs="device_in/training",
    draws=300_000,
    near_draws=30_000,
    rounds=1,
    round_draws=60_000,
    head_steps=5000,
    tune_steps=3000,
    round_steps=1500,
    rate=4e-4,
    batch=1000,
    counts=TUNE_COUNTS,
    chunk=100,
    limit=None,
):
    """Label, train, and measure; see the description above."""
    start = time.monotonic()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    packed = Packed(inputs)
    parts = {name: (image[:limit], label[:limit]) for name, (image, label) in packed.photographs().items()}
    num_classes = len(packed.names)
    lab = Lab(packed, load_generator(generator, num_classes), batch)
    student = Student(num_classes + 1, VARIANT, STUDENT_SIZE)
    for variable, source in zip(student.network.variables, packed.lite(STUDENT_SIZE).network.variables, strict=True):
        variable.assign(source)
    say(start, "networks built")

    held_z = lab.prior(int(draws * HELD_OUT), 1)
    held_image, held_target = lab.labelled(held_z)
    z = lab.prior(draws, 3)
    image, target = lab.labelled(z)
    near_z = near(z, target, near_draws, np.random.default_rng(4))
    near_image, near_target = lab.labelled(near_z)
    images = [image, near_image]
    kinds = {"prior": (target, np.ones(len(target))), "near": (near_target, np.ones(len(near_target)))}
    say(
        start,
        f"labelled {draws} and {near_draws} draws; p(any class) {target[:, :-1].sum(1).mean():.4f}, least mass {target[:, :-1].mean(0).min():.4f}",
    )

    eye = np.eye(num_classes + 1, dtype="float32")
    photos = [
        (parts["train"][0], eye[parts["train"][1]]),
        (parts["others"][0], np.repeat(eye[-1:], len(parts["others"][0]), 0)),
    ]
    opinion = mapped(lambda x: student.opinion(photographs.to_range(x)), student.variables, batch)

    def data_of(inputs_of_draws, inputs_of_photographs, sizes):
        target, probs, weight = weighed(kinds)
        sets = [(inputs_of_draws, target, weight, np.cumsum(probs))]
        for x, (_, label) in zip(inputs_of_photographs, photos, strict=True):
            value = PHOTOGRAPH_WEIGHT * sizes[0] / sum(sizes[1:])
            sets.append((x, label, np.full(len(label), value), np.arange(1, len(label) + 1) / len(label)))
        return tuple(
            tuple(jnp.asarray(a) if a.dtype == np.uint8 else jnp.asarray(a, jnp.float32) for a in each) for each in sets
        )

    def calibrate():
        student.temperature.assign(1.0)
        student.other_bias.assign(0.0)
        logits = np.asarray(opinion(held_image), "float64")
        temperature, bias = calibration_of(logits, held_target, np.ones(len(held_target)))
        student.temperature.assign(temperature)
        student.other_bias.assign(bias)
        say(start, f"calibrated: temperature {temperature:.3f}, bias of other {bias:.3f}")

    judge = packed.judge()
    verdict = np.asarray(mapped(lambda x: judge.opinion(photographs.to_range(x)), judge.variables, batch)(held_image))
    verdict = verdict[:, :num_classes].argmax(1)
    figures = {}

    def measure(stage):
        probs = np.asarray(keras.ops.softmax(opinion(held_image), axis=-1), "float64")
        of_photographs = np.asarray(keras.ops.softmax(opinion(jnp.asarray(parts["val"][0])), axis=-1))
        found = {**exact_figures(probs, {"judge": verdict}, held_target, packed.names)}
        found |= photograph_figures(of_photographs, parts["val"][1])
        figures[stage] = {key: round(float(value), 4) for key, value in found.items()}
        say(start, f"{stage}: " + ", ".join(f"{key} {value}" for key, value in figures[stage].items()))
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        save_weights(out / "student.npz", student.weights)
        return probs

    def learn(lesson, batch_fn, data, steps, rate, seed):
        loop = Scanned(lesson, optimizer_of(rate, steps), batch_fn, data, min(chunk, steps), seed)
        say(start, "traced")
        loop.compile()
        say(start, "compiled")
        while loop.num_steps < steps:
            outputs = loop.run()
        loop.assign()
        say(start, f"{loop.num_steps} steps, loss {float(outputs['loss']):.4f}")

    figures["teachers"] = {
        key: round(float(v), 4) for key, v in exact_figures(held_target, {"judge": verdict}, held_target, packed.names).items()
    }
    say(start, f"teachers: {figures['teachers']}")
    features = mapped(lambda x: student.features(photographs.to_range(x)), student.variables, batch)
    of_draws = jnp.concatenate([features(each) for each in images])
    of_photographs = [features(jnp.asarray(x)) for x, _ in photos]
    sizes = tuple(round(HEAD_BATCH * size / sum(counts)) for size in counts)
    student.standardize(np.asarray(of_draws[:: max(1, len(of_draws) // 20_000)]))
    student.freeze(None)
    learn(Lesson(student), batches(sizes, False), data_of(of_draws, of_photographs, sizes), head_steps, 1e-3, 5)
    del of_draws, of_photographs
    calibrate()
    measure("head")
    student.freeze(FROZEN_BLOCKS)
    raw = [x for x, _ in photos]

    def tune(stage, steps, rate, seed):
        lesson = Lesson(student, (counts[0], sum(counts[1:])))
        learn(lesson, batches(counts, True), data_of(jnp.concatenate(images), raw, counts), steps, rate, seed)
        calibrate()
        return measure(stage)

    probs = tune("tune", tune_steps, rate, 6)
    for number in range(1, rounds + 1):
        found_z, found_keep, found, num_seen = [], [], 0, 0
        rng = np.random.default_rng([number, 77])
        while found < round_draws:
            fresh = lab.prior(100 * batch, 1000 * number + num_seen)
            p_any = 1 - np.asarray(keras.ops.softmax(opinion(lab.image_fn(jnp.asarray(fresh))), axis=-1))[:, -1]
            keep = KEEP_FLOOR + (1 - KEEP_FLOOR) * p_any
            kept = rng.random(len(fresh)) < keep
            found_z.append(fresh[kept])
            found_keep.append(keep[kept])
            found, num_seen = found + int(kept.sum()), num_seen + 1
        fresh, keep = np.concatenate(found_z)[:round_draws], np.concatenate(found_keep)[:round_draws]
        image, target = lab.labelled(fresh)
        images.append(image)
        kinds[f"round{number}"] = (target, keep)
        say(start, f"round {number}: {round_draws} draws of {num_seen * 100 * batch}")
        probs = tune(f"tune_round{number}", round_steps, rate / 2, 6 + number)
    rng = np.random.default_rng(8)
    weights = probs[:, :-1] / probs[:, :-1].sum(0)
    rows = np.concatenate([rng.choice(len(weights), 10, p=weights[:, c]) for c in range(num_classes)])
    save_sheet(out / "exact.png", np.asarray(photographs.to_range(held_image[rows])), columns=10, scale=1)
    say(start, "done")


if __name__ == "__main__":
    fire.Fire(main)
