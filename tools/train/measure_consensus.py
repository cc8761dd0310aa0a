"""Measures how well a classifier guides the sampler: its exact posterior draws, its accuracy on photographs, and its cost.

Exact draws are the held-out prior draws weighted by p(class). Two independent judges classify them: saved_models/judge and
EfficientNet-Lite2 at 144 pixels, which are not used in training.
"""

import csv
import io
import time

import numpy as np
from scipy.special import softmax

from tfgradgen.core.files import write_text
from tools.cards.quality import expected_calibration_error
from tools.train import photographs
from tools.train.consensus_data import Draws, cached
from tools.train.efficientnet_lite import Pretrained
from tools.train.label_draws import compiled, imagenet_columns

STRANGER, STRANGER_SIZE = "lite2", 144
NUM_CHAINS, REPEATS = 16, 9  # for timing the gradient
MAIN_CLASS = "goldfish"
SHAPE = (photographs.SIZE, photographs.SIZE, 3)


def exact_figures(probs, verdicts, teachers, names):
    """Return the figures of exact draws.

    They are, for each judge, the accuracy (mean over classes, worst class, goldfish); the teachers' mean p(class) relative to
    that of the classifier; the prior mass of the classes; and the effective number of draws of the worst class.

    Args:
      probs: Probabilities [N, K + 1] of prior draws.
      verdicts: {judge: class [N]}.
      teachers: Targets [N, K + 1] of the teachers.
      names: Names of the classes.
    """
    p, t = probs[:, :-1].astype("float64"), teachers[:, :-1].astype("float64")
    mass = p.mean(0)
    weights = p / np.maximum(p.sum(0), 1e-30)
    figures: dict[str, float] = {}
    for who, verdict in verdicts.items():
        right = (weights * (verdict[:, None] == np.arange(len(names)))).sum(0)
        figures |= {f"{who}_mean": right.mean(), f"{who}_worst": right.min()}
        if MAIN_CLASS in names:
            figures[f"{who}_{MAIN_CLASS}"] = right[names.index(MAIN_CLASS)]
    agreement = (weights * t).sum(0) / np.maximum((weights * p).sum(0), 1e-30)
    return figures | {
        "agreement_mean": agreement.mean(),
        "agreement_worst": agreement.min(),
        "mass_mean": mass.mean(),
        "mass_least": mass.min(),
        "least_ess": (1 / np.maximum((weights**2).sum(0), 1e-30)).min(),
    }


def photograph_figures(probs, labels):
    """Return top-1 accuracy with and without "other", and the calibration error; `probs [N, K + 1]`, `labels [N]`."""
    return {
        "top1": np.mean(probs.argmax(1) == labels),
        "top1_named": np.mean(probs[:, :-1].argmax(1) == labels),
        "calibration_error": expected_calibration_error(probs, labels),
    }


def verdicts_of(studio, draws):
    """Return {judge: class [N]}, cached with the features of the draws."""
    from tfgradgen.models.classifier import load_classifier

    judge = load_classifier(studio.models / "judge")
    path = studio.work / "verdicts" / f"{len(draws)}_{judge.sha256[:12]}.npz"

    def make():
        image = draws.images(np.arange(len(draws)))
        lite = Pretrained(STRANGER, STRANGER_SIZE)
        columns = imagenet_columns(load_classifier(studio.teacher).labels)
        by_lite = compiled(lambda x: lite(x / 127.5 - 1.0), SHAPE)(image)[:, columns]
        by_judge = compiled(lambda x: judge(x / 127.5 - 1.0), SHAPE)(image)
        return {STRANGER: by_lite.argmax(1), "judge": by_judge.argmax(1)}

    return cached(path, make)


def gradient_seconds(generator, classifiers, latent_dim):
    """Return the CPU seconds of one gradient of log p(class 0 | image) + log prior for each of {name: classifier}."""
    import tensorflow as tf

    def gradient_of(classifier):
        @tf.function(autograph=False)
        def gradient(z):
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = tf.nn.log_softmax(classifier(generator(z)))[:, 0] - tf.reduce_sum(z**2, 1) / 2
            return tape.gradient(value, z)

        return gradient

    z = tf.constant(np.random.default_rng(0).standard_normal((NUM_CHAINS, latent_dim), "float32"))
    fns = {name: gradient_of(classifier) for name, classifier in classifiers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in fns}
    for repeat in range(REPEATS + 1):
        for name, fn in fns.items():
            start = time.process_time()
            fn(z).numpy()
            if repeat:
                seconds[name].append(time.process_time() - start)
    # The minimum, because other processes can only increase a timing.
    return {name: float(np.min(values)) for name, values in seconds.items()}


def gradient_ratio(studio, student):
    """Return the cost of a gradient with the student, relative to that with the first teacher."""
    from tfgradgen.models.classifier import load_classifier
    from tfgradgen.models.generator import load_generator

    generator, teacher = load_generator(studio.models / "generator"), load_classifier(studio.teacher)
    seconds = gradient_seconds(generator, {"teacher": teacher, "new": student.opinion}, generator.latent_dim)
    return seconds["new"] / seconds["teacher"]


def measure_stage(studio, stage, say=print):
    """Measure the student of a stage, or `teacher` or `teachers`; print a line and add a row to figures.csv."""
    from tfgradgen.models.classifier import load_classifier

    draws = Draws(studio.draws, held_out=True, kinds=["prior"])
    image = draws.images(np.arange(len(draws)))
    held_out, labels = photographs.load(studio.data, "val", studio.names)
    figures = {"stage": stage, "draws": len(draws)}
    if stage == "teachers":
        probs = draws.target
    elif stage == "teacher":
        teacher = load_classifier(studio.teacher)
        opinion = compiled(lambda x: teacher(x / 127.5 - 1.0), SHAPE)
    else:
        student = studio.student(stage)
        opinion = studio.opinion(student)
        figures["gradient_ratio"] = gradient_ratio(studio, student)
    if stage != "teachers":
        probs = softmax(opinion(image), axis=1)
        figures |= photograph_figures(softmax(opinion(held_out), axis=1), labels)
    figures |= exact_figures(probs, verdicts_of(studio, draws), draws.target, studio.names)
    shown = {key: value if isinstance(value, (str, int)) else round(float(value), 4) for key, value in figures.items()}
    append_row(studio.work / "figures.csv", shown)
    say("figures " + ", ".join(f"{key} {value}" for key, value in shown.items()))
    return figures


def read_rows(path):
    """Return the rows of figures.csv, {column: text}."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_measured(studio, stage):
    """Return whether figures.csv has the figures of `stage` on the current held-out draws."""
    num_draws = str(len(Draws(studio.draws, held_out=True, kinds=["prior"])))
    return any((row["stage"], row["draws"]) == (stage, num_draws) for row in read_rows(studio.work / "figures.csv"))


def append_row(path, row):
    """Add the row {column: value} to the .csv `path`, with new columns if needed."""
    rows = [old for old in read_rows(path) if old["stage"] != row["stage"]] + [row]
    columns = list(dict.fromkeys(key for each in rows for key in each))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
