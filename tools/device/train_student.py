"""Trains the consensus classifier for a new generator on a GPU, within minutes.

It may start together with the training of the generator: it compiles everything, and waits.

    KERAS_BACKEND=jax python -m tools.device.train_student --generator=DIR --out=DIR

It reads what `tools.device.packed` wrote and `best.npz` of `tools.device.train_generator`. The lessons are those of
`tools.train.train_consensus`: labelled draws, a head on frozen features, fine-tuning, and a softer student with equally
frequent classes. DIR gets `student.npz` (in the order of the student's weights), `figures.json` and a sheet of exact draws.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fire
import jax
import jax.numpy as jnp
import keras
import numpy as np

from tools.cards.quality import save_sheet
from tools.device.packed import Packed, load_weights, save_weights
from tools.device.scanned import Scanned, pure, values_of
from tools.device.train_generator import WIDE, say
from tools.train import photographs
from tools.train.consensus_data import PHOTOGRAPH_WEIGHT, SHARES, interest
from tools.train.consensus_network import Student, calibration_of
from tools.train.consensus_stages import FROZEN_BLOCKS, LAST_RATE, VARIANT, Lesson, optimizer_of, soften
from tools.train.label_draws import near, targets
from tools.train.measure_consensus import exact_figures, photograph_figures
from tools.train.train_generator import empty_generator

TEACHER_SIZE, STUDENT_SIZE = 112, 96
TUNE_COUNTS = (192, 66, 30)  # rows of a batch: draws, photographs of the classes, photographs of other things
HEAD_BATCH, HEAD_RATE = 256, 1e-3
MOMENT_DRAWS = 4096
HELD_OUT = 0.1  # share of the prior draws for calibration and figures


def moments_fn(generator):
    """Return a compiled function of the variables' values and z that gives the statistics of batch normalization over z."""
    for norm in generator.all_norms:
        norm.momentum = 0.0
    return jax.jit(lambda trainable, fixed, z: generator.stateless_call(trainable, fixed, z, training=True)[1])


def wait_for(path):
    """Wait until another process writes `path`."""
    while not Path(path).exists():
        time.sleep(0.5)


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
            parts.append(jax.tree.map(lambda y, n=batch - missing: y[:n], compiled(values, padded)))
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
    draws=200_000,
    near_draws=20_000,
    head_seconds=12,
    tune_seconds=90,
    rate=4e-4,
    batch=1000,
    counts=TUNE_COUNTS,
    chunk=50,
    limit=None,
):
    """Compile all, wait for the generator, then label, train, and measure; see the description above."""
    start = time.monotonic()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    packed = Packed(inputs)
    parts = {name: (image[:limit], label[:limit]) for name, (image, label) in packed.photographs().items()}
    num_classes = len(packed.names)
    of_generator = empty_generator(num_classes, WIDE)
    lab = Lab(packed, of_generator, batch)
    student = Student(num_classes + 1, VARIANT, STUDENT_SIZE)
    for variable, source in zip(student.network.variables, packed.lite(STUDENT_SIZE).network.variables, strict=True):
        variable.assign(source)
    judge = packed.judge()
    judge_fn = mapped(lambda x: judge.opinion(photographs.to_range(x)), judge.variables, batch)
    opinion = mapped(lambda x: student.opinion(photographs.to_range(x)), student.variables, batch)
    features = mapped(lambda x: student.features(photographs.to_range(x)), student.variables, batch)
    eye = np.eye(num_classes + 1, dtype="float32")
    photos = [
        (parts["train"][0], eye[parts["train"][1]]),
        (parts["others"][0], np.repeat(eye[-1:], len(parts["others"][0]), 0)),
    ]
    head_counts = tuple(round(HEAD_BATCH * size / sum(counts)) for size in counts)

    def shapes_of(row, dtype):
        """Return the shapes of `data_of`, whose inputs have rows of shape `row`."""
        sizes = [draws + near_draws, *(len(label) for _, label in photos)]
        like = lambda *shape, dtype="float32": jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
        return tuple((like(n, *row, dtype=dtype), like(n, num_classes + 1), like(n), like(n)) for n in sizes)

    def loop_of(frozen, lesson, first_rate, counts, shapes, seed):
        student.freeze(frozen)
        return Scanned(lesson, optimizer_of(first_rate), batches(counts, bool(lesson.counts)), shapes, chunk, seed)

    head = loop_of(None, Lesson(student), HEAD_RATE, head_counts, shapes_of((student.num_features,), "float32"), 5)
    tuning = Lesson(student, (counts[0], sum(counts[1:])))
    tune = loop_of(FROZEN_BLOCKS, tuning, rate, counts, shapes_of((photographs.SIZE, photographs.SIZE, 3), "uint8"), 6)
    say(start, "traced")
    some = np.zeros((batch, photographs.SIZE, photographs.SIZE, 3), "uint8")
    moments = moments_fn(of_generator)
    calibration_z = jax.random.normal(jax.random.key(2), (MOMENT_DRAWS, of_generator.latent_dim))
    trainable, fixed = of_generator.trainable_variables, of_generator.non_trainable_variables
    jobs = [
        head.compile,
        tune.compile,
        lambda: lab.label_fn(jnp.zeros((batch, lab.latent_dim))),
        lambda: [fn(some) for fn in (judge_fn, opinion, features)],
        lambda: moments(values_of(trainable), values_of(fixed), calibration_z),
    ]
    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(job) for job in jobs]:
            job.result()
    say(start, "compiled")
    wait_for(Path(generator) / "done")
    load_weights(Path(generator) / "best.npz", of_generator.variables)
    for variable, value in zip(fixed, moments(values_of(trainable), values_of(fixed), calibration_z), strict=True):
        variable.assign(value)

    held_image, held_target = lab.labelled(lab.prior(int(draws * HELD_OUT), 1))
    z = lab.prior(draws, 3)
    image, target = lab.labelled(z)
    near_image, near_target = lab.labelled(near(z, target, near_draws, np.random.default_rng(4)))
    kinds = {"prior": (target, np.ones(len(target))), "near": (near_target, np.ones(len(near_target)))}
    mass = target[:, :-1].mean(0)
    say(start, f"{draws} and {near_draws} draws are labelled; p(any class) {mass.sum():.4f}, least {mass.min():.4f}")

    def data_of(inputs_of_draws, inputs_of_photographs, counts):
        target, probs, weight = weighed(kinds)
        sets = [(inputs_of_draws, target, weight, np.cumsum(probs))]
        for x, (_, label) in zip(inputs_of_photographs, photos, strict=True):
            value = PHOTOGRAPH_WEIGHT * counts[0] / sum(counts[1:])
            sets.append((x, label, np.full(len(label), value), np.arange(1, len(label) + 1) / len(label)))
        return tuple((jnp.asarray(x), *(jnp.asarray(each, jnp.float32) for each in rest)) for x, *rest in sets)

    verdict = np.asarray(judge_fn(held_image))[:, :num_classes].argmax(1)
    teachers = exact_figures(held_target, {"judge": verdict}, held_target, packed.names)
    figures = {"teachers": {key: round(float(value), 4) for key, value in teachers.items()}}
    say(start, f"teachers: {figures['teachers']}")

    def learn(stage, loop, data, seconds, first_rate):
        loop.data = data
        loop.refresh()
        cosine = lambda share: LAST_RATE + (1 - LAST_RATE) * (1 + np.cos(np.pi * share)) / 2  # noqa: E731
        losses = loop.learn(seconds, lambda share: first_rate * cosine(share))
        loop.assign()
        say(start, f"{stage}: {loop.num_steps} steps, loss {losses['loss']:.4f}")
        student.temperature.assign(1.0)
        student.other_bias.assign(0.0)
        logits = np.asarray(opinion(held_image), "float64")
        temperature, bias = calibration_of(logits, held_target, np.ones(len(held_target)))
        student.temperature.assign(temperature)
        student.other_bias.assign(bias)
        measure(stage)

    def measure(stage):
        probs = np.asarray(keras.ops.softmax(opinion(held_image), axis=-1), "float64")
        of_photographs = np.asarray(keras.ops.softmax(opinion(parts["val"][0]), axis=-1))
        found = exact_figures(probs, {"judge": verdict}, held_target, packed.names)
        found |= photograph_figures(of_photographs, parts["val"][1])
        figures[stage] = {key: round(float(value), 4) for key, value in found.items()}
        say(start, ", ".join(f"{key} {value}" for key, value in figures[stage].items()))
        (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        save_weights(out / "student.npz", student.weights)
        return probs

    of_draws = jnp.concatenate([features(image), features(near_image)])
    of_photographs = [features(x) for x, _ in photos]
    student.standardize(np.asarray(of_draws[:: max(1, len(of_draws) // 20_000)]))
    learn("head", head, data_of(of_draws, of_photographs, head_counts), head_seconds, HEAD_RATE)
    of_images = data_of(jnp.concatenate([image, near_image]), [x for x, _ in photos], counts)
    learn("tune", tune, of_images, tune_seconds, rate)
    soften(student, lambda: opinion(held_image), packed.names, np.ones(len(held_target)))
    probs = measure("balanced")
    rng = np.random.default_rng(8)
    weights = probs[:, :-1] / probs[:, :-1].sum(0)
    rows = np.concatenate([rng.choice(len(weights), 10, p=weights[:, c]) for c in range(num_classes)])
    save_sheet(out / "exact.png", np.asarray(photographs.to_range(held_image[rows])), columns=10, scale=1)
    (out / "done").touch()
    say(start, "done")


if __name__ == "__main__":
    fire.Fire(main)
