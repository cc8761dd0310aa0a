"""Steps of training that resume, and the training of recognisers of actions: on real clips, then by consensus."""

import csv
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import log_softmax

from tfgradgen.core.checks import fail
from tfgradgen.core.files import atomic_file
from tools.train import clips
from tools.train.clip_generator import LATENT

BATCH = 24
SEEDS = {"teacher": 0, "judge": 1, "classifier": 2}
SMOOTHING = 0.05  # of the labels
LOGGED = 100  # steps between lines of the log


def rate(peak, steps):
    """Return a learning rate that rises, and then falls by a cosine to zero."""
    warmup = max(1, min(100, steps // 10))
    return keras.optimizers.schedules.CosineDecay(0.0, max(1, steps - warmup), warmup_target=peak, warmup_steps=warmup)


def save(path, variables):
    """Write the values of variables to an .npz, all or nothing."""
    with atomic_file(path) as file:
        np.savez(file, *[np.asarray(variable) for variable in variables])


def restore(path, variables):
    """Assign the values of an .npz that `save` wrote; raise `UserError` if they are not those of such variables."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            values = [arrays[name] for name in arrays.files]
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise fail(
            "work", "checkpoints as this tool writes them", f"damaged {path}", "delete it, or give another folder"
        ) from None
    if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
        raise fail("work", "checkpoints of networks of this size", f"others in {path}", "give their width, or another folder")
    for value, variable in zip(values, variables, strict=True):
        variable.assign(value)


class Course:
    """A training that resumes: `variables` (a list, networks and optimizers) are saved in `work` at intervals."""

    def __init__(self, work, name, variables, every=300):
        self.path, self.log = Path(work) / f"{name}.npz", Path(work) / f"{name}.csv"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.variables, self.every = [self.done, *variables], every
        if self.path.exists():
            restore(self.path, self.variables)

    def run(self, steps, step_fn, watch=None):
        """Call `step_fn(number)` -> {name: value} up to `steps` in total; `watch()` -> {name: value} at the log's lines."""
        sums: dict[str, list[float]] = {}
        start = time.monotonic()
        for number in range(int(self.done), steps):
            for key, value in step_fn(number).items():
                sums.setdefault(key, []).append(value)
            self.done.assign(number + 1)
            last = number + 1 == steps
            if last or (number + 1) % self.every == 0:
                save(self.path, self.variables)
            if last or (number + 1) % LOGGED == 0:
                row = {"step": number + 1, "seconds": round(time.monotonic() - start, 1)}
                row |= {key: round(float(np.mean(values)), 5) for key, values in sums.items()} | (watch() if watch else {})
                sums = {}
                print(self.path.stem, row, flush=True)
                with self.log.open("a", newline="") as file:
                    csv.writer(file).writerow([f"{key}={value}" for key, value in row.items()])


def opinions(network, pixels, batch=64):
    """Return logits [N, K] of uint8 clips."""
    run = tf.function(lambda clip: network(clip, training=False), reduce_retracing=True)
    return np.concatenate([run(clips.as_clip(pixels[i : i + batch])) for i in range(0, len(pixels), batch)])


def built(network):
    """Return the network after a first call, which makes its variables."""
    network(tf.zeros([2, clips.FRAMES, clips.SIZE, clips.SIZE, 3]))
    return network


def cross_entropy(targets, logits):
    """Return the mean cross-entropy, in nats."""
    return -tf.reduce_mean(tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1))


def smooth(labels, num):
    """Return smoothed one-hot targets [B, num]."""
    return (1 - SMOOTHING) * tf.one_hot(labels, num) + SMOOTHING / num


def lesson(network, optimizer, num):
    """Return a compiled training step: (uint8 clips, actions, clips that show none) -> cross-entropy."""

    @tf.function
    def step(pixels, labels, others):
        clip = clips.varied(clips.as_clip(pixels))
        none = clips.spoiled(clips.varied(clips.as_clip(others)))
        targets = smooth(tf.concat([labels, tf.fill([tf.shape(others)[0]], num - 1)], 0), num)
        with tf.GradientTape() as tape:
            loss = cross_entropy(targets, network(tf.concat([clip, none], 0), training=True))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    return step


def train_recogniser(network, role, strips, held_out, work, steps, batch=BATCH):
    """Train a recogniser on real clips alone, a quarter of each batch spoiled; resumes in `work`; returns the network."""
    seed = SEEDS[role]
    tf.random.set_seed(seed)
    built(network)
    optimizer = keras.optimizers.AdamW(rate(network.RATE, steps), weight_decay=0.02, global_clipnorm=3.0)
    optimizer.build(network.trainable_variables)
    windows = clips.Windows(strips, speeds=(0.8, 1.2))
    pixels, labels = clips.Windows(held_out).every(6)
    course = Course(work, role, [*network.variables, *optimizer.variables])
    step = lesson(network, optimizer, len(clips.ACTIONS) + 1)
    few = batch // 4

    def run(number):
        real, actions = windows.batch(batch, seed, number)
        return {"loss": step(real[few:], actions[few:], real[:few])}

    course.run(steps, run, lambda: {"held_out": round(float((opinions(network, pixels).argmax(1) == labels).mean()), 4)})
    return network


def agreed(first, second):
    """Return the targets [N, K] of generated clips: what both networks (logits) say, and the rest to "other"."""
    both = (np.exp(log_softmax(first, 1)) * np.exp(log_softmax(second, 1)))[:, :-1]
    return np.concatenate([both, 1 - both.sum(1, keepdims=True)], 1).astype("float32")


def drawn(generator, count, seed, batch=32):
    """Return uint8 clips of `count` prior draws."""
    z = np.random.default_rng(seed).standard_normal((count, LATENT)).astype("float32")
    run = tf.function(generator, reduce_retracing=True)
    return np.concatenate([clips.as_pixels(run(z[i : i + batch])) for i in range(0, count, batch)])


def consensus_lesson(network, optimizer, num):
    """Return a compiled step: (uint8 clips, actions, clips to spoil, generated clips, their targets) -> cross-entropy."""

    @tf.function
    def step(pixels, labels, others, made, targets):
        clip = clips.varied(clips.as_clip(pixels))
        none = clips.spoiled(clips.varied(clips.as_clip(others)))
        own = clips.varied(clips.as_clip(made), shift=1.0, zoom=0.02, strength=0.05, noise=0.02)
        real = smooth(tf.concat([labels, tf.fill([tf.shape(others)[0]], num - 1)], 0), num)
        with tf.GradientTape() as tape:
            logits = network(tf.concat([clip, none, own], 0), training=True)
            loss = cross_entropy(tf.concat([real, targets], 0), logits)
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    return step


def train_consensus(network, teachers, generator, strips, held_out, work, steps, draws):
    """Train a classifier on with `draws` generated clips whose targets are what the `teachers` (two networks) agree on.

    Resumes in `work`; returns the network.
    """
    num = len(clips.ACTIONS) + 1
    optimizer = keras.optimizers.AdamW(rate(network.RATE / 2, steps), weight_decay=0.02, global_clipnorm=3.0)
    optimizer.build(network.trainable_variables)
    windows, step = clips.Windows(strips, speeds=(0.8, 1.2)), consensus_lesson(network, optimizer, num)
    pixels, labels = clips.Windows(held_out).every(6)
    course = Course(work, "consensus", [*network.variables, *optimizer.variables])
    if int(course.done) < steps:
        made = drawn(generator, draws, seed=21)
        targets = agreed(*(opinions(teacher, made) for teacher in teachers))
        print("consensus: mean of the targets", targets.mean(0).round(3), flush=True)

    def run(number):
        real, actions = windows.batch(BATCH * 2 // 3, 2, number)
        few = len(real) // 3
        rows = np.random.default_rng((22, number)).integers(draws, size=len(real))
        return {"loss": step(real[few:], actions[few:], real[:few], made[rows], targets[rows])}

    course.run(steps, run, lambda: {"held_out": round(float((opinions(network, pixels).argmax(1) == labels).mean()), 4)})
    return network
