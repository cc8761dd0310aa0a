"""All numbers in the model cards of saved_models/: functions of `Evidence` that return {what: Figure}."""

import functools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from tfgradgen.core._tf_private import convert_to_constants
from tfgradgen.core.backend import as_seed
from tfgradgen.evaluation.distances import density_and_coverage, fid, kid
from tfgradgen.evaluation.diversity import vendi_score
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tools.cards.quality import chance_calibration_error, expected_calibration_error
from tools.cards.reach import LONG, NUM_GRADIENTS, SETTINGS, annealed_arrivals, arrivals
from tools.cards.smoothness import spectral_norms
from tools.train.calibration import cross_fitted, log_loss

ANNEALED = "annealed"  # the reach of annealed starts, beside that of the kernels
NUM_SMOOTHNESS = 300  # prior draws for the spectral norms
LOW = 0.5  # the temperature that README suggests for clearer images
NUM_VARIED = 12  # images of a class for its Vendi score; of the rarest class there are about 170 exact draws


class Figure(NamedTuple):
    """A measured text of a card.

    Attributes:
      text: The text with its numbers.
      tolerance: Largest difference of its numbers on another machine: one for all, or one for each.
    """

    text: str
    tolerance: float | tuple[float, ...] = 0.005


def conclude(off, folder, limits):
    """Say what is off and exit with 1, or say that all is well.

    Args:
      off: One line for each number of a card that has changed.
      folder: Holds the models.
      limits: {names of models: megabytes that they may take together}.
    """
    sizes = []
    for names, most in limits.items():
        size = sum(path.stat().st_size for name in names for path in (folder / name).rglob("*") if path.is_file()) / 1e6
        sizes.append(f"{', '.join(names)}: {size:.1f} MB")
        off += [f"{sizes[-1]}, more than {most}"] if size > most else []
    for line in off:
        print(f"off: {line}", file=sys.stderr)
    if off:
        raise SystemExit(1)
    print(f"all numbers agree; {'; '.join(sizes)}")


def mega_flop(fn, input_shape):
    """Return the floating-point operations of one forward pass for one input, in millions; a multiply-add counts as two."""
    concrete = tf.function(fn).get_concrete_function(tf.TensorSpec([1, *input_shape], tf.float32))
    frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    profile = tf.compat.v1.profiler.profile(frozen.graph, options=options.with_empty_output().build())
    return profile.total_float_ops / 1e6


def files(model, folder, input_shape, unit="image"):
    """Return cost (of one `unit`), size and sha256 of a model."""
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".md") / 1e6
    parameters = sum(int(np.prod(v.shape)) for v in model.module.weights) / 1e6
    flop = mega_flop(model.fn, input_shape)
    return {
        "cost": Figure(
            f"{flop:.0f} MFLOP per {unit} (a multiply-add counts as two), {parameters:.2f} M parameters, {megabytes:.1f} MB",
            (1.0, 0.005, 0.05),
        ),
        "sha256 (as `tfgradgen models` prints it)": Figure(f"`{model.sha256}`"),
    }


def by_class(names, values, digits=2):
    """Format one value per class."""
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in zip(names, values, strict=True))


def by_chance(probs):
    """Return what a card says of the calibration error of a calibrated classifier with these `probs` [N, K]."""
    return f"of a classifier that is calibrated, {chance_calibration_error(probs):.3f} by chance"


def calibration(log_probs, labels, where):
    """Return the figures of how far `log_probs` [N, K] can be trusted on `labels` [N]; `where` says what these rows are."""
    probs = np.exp(log_probs)
    text = f"{expected_calibration_error(probs, labels):.3f}; {by_chance(probs)}"
    return {
        f"log loss {where}": Figure(f"{log_loss(log_probs, labels):.3f} nats", 0.01),
        "expected calibration error there, 10 bins": Figure(text, 0.008),
    }


def classifier_figures(evidence, name, is_fitted_to_photographs):
    """Return the figures of the classifier or the judge, whose temperature may be fitted to the held-out photographs."""
    model, labels = evidence.classifier(name), evidence.labels
    probs, others = evidence.probs(name, "val"), evidence.log_probs(name, "others")
    num, other = len(evidence.names), len(model.labels) - 1
    right = probs.argmax(1) == labels
    rows = files(model, evidence.folder / name, (64, 64, 3)) | {
        f"top-1 accuracy on {len(labels)} held-out photographs": Figure(f"{right.mean():.3f}"),
        "accuracy there by class": Figure(by_class(evidence.names, [right[labels == c].mean() for c in range(num)]), 0.041),
    }
    has_other = other == num
    if has_other:
        rows |= {
            'top-1 accuracy there with "other" left out': Figure(f"{(probs[:, :num].argmax(1) == labels).mean():.3f}"),
            f'share of {len(others)} held-out photographs of other things that it calls "other"': Figure(
                f"{(others.argmax(1) == other).mean():.3f}"
            ),
        }
    rows["log loss there"] = Figure(f"{log_loss(np.log(probs), labels):.3f} nats", 0.01)
    error = lambda p: f"{expected_calibration_error(p, labels):.3f}"  # noqa: E731
    if is_fitted_to_photographs:
        # Refit on both kinds of photographs, as in training; the figures are for photographs of the classes.
        logits = np.concatenate([evidence.log_probs(name, "val"), others if has_other else others[:0]])
        all_labels = np.concatenate([labels, np.full(len(logits) - len(labels), other)]).astype(int)
        refitted = softmax(cross_fitted(logits, all_labels, has_other)[: len(labels)], axis=1)
        text = f"{error(probs)}; with each half's fit on the other half {error(refitted)}; {by_chance(probs)}"
        return rows | {"expected calibration error there, 10 bins": Figure(text, 0.008)}
    named = probs[:, :num] / probs[:, :num].sum(1, keepdims=True)
    return rows | {
        f"expected calibration error there{what}, 10 bins": Figure(f"{error(p)}; {by_chance(p)}", 0.008)
        for what, p in ((' with "other" left out', named), ("", probs))
    }


def guidance_figures(evidence):
    """Return how well the classifier guides this generator, with the judge in place of a human."""
    probs, verdict = evidence.probs("classifier", "prior"), evidence.probs("judge", "prior").argmax(1)
    num = len(evidence.names)
    sure, word = probs.max(1) > 0.9, probs.argmax(1)
    sure &= word < num
    share = lambda rows: float((verdict[rows] == word[rows]).mean()) if rows.any() else float("nan")  # noqa: E731
    rows = {
        f"share of {len(probs)} prior draws with p(class) > 0.9": Figure(f"{sure.mean():.3f}", 0.01),
        "share of those that the judge calls that class": Figure(f"{share(sure):.3f}", 0.02),
    }
    named = probs[:, :num] / probs[:, :num].sum(1, keepdims=True)
    for what, p in (("", probs), (f", at temperature {LOW}", probs ** (1 / LOW)), (', "other" left out', named)):
        rows["judge's agreement with exact posterior draws, mean over classes" + what] = Figure(
            f"{np.mean(agreement(p, verdict, num)):.3f}", 0.01
        )
    return rows


def agreement(probs, verdict, num_classes):
    """Return, for each class, the judge's accuracy on exact posterior draws: prior draws weighted by p(class)."""
    return [float(np.average(verdict == c, weights=probs[:, c])) for c in range(num_classes)]


def exact_labels(probs, seed):
    """Return for each prior draw the class of which it is an exact draw [N]: one drawn from its `probs [N, num_classes]`."""
    ends = np.cumsum(probs.astype(np.float64), 1)
    return (ends < np.random.default_rng(seed).random((len(probs), 1)) * ends[:, -1:]).sum(1)


def variety(probs, verdict, features, num_classes, repeats=8):
    """Return the mean Vendi scores of `NUM_VARIED` exact draws a class, of all and of those that the judge names rightly.

    Args:
      probs: p(class) of prior draws, [N, num_classes or more].
      verdict: The judge's class of each, [N].
      features: The judge's features of each, [N, D].
      num_classes: The number of classes, without "other".
      repeats: How many times the classes of the prior draws are drawn; the scores are means over them.

    Classes with fewer than `NUM_VARIED` such draws are left out of the mean.
    """
    scores: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(repeats):
        label = exact_labels(probs, seed)
        for c in range(num_classes):
            for of_all in scores:
                rows = np.flatnonzero((label == c) & (of_all | (verdict == c)))[:NUM_VARIED]
                if len(rows) == NUM_VARIED:
                    scores[of_all].append(vendi_score(features[rows]))
    return float(np.mean(scores[True])), float(np.mean(scores[False]))


def variety_figures(evidence):
    """Return how varied exact draws of a class are, beside held-out photographs of it."""
    probs, verdict, num = evidence.probs("classifier", "prior"), evidence.probs("judge", "prior").argmax(1), len(evidence.names)
    of_all, of_named = variety(probs, verdict, evidence.features("judge", "prior"), num)
    held_out, labels = evidence.features("judge", "val"), evidence.labels
    photographs = np.mean([vendi_score(held_out[labels == c][:NUM_VARIED]) for c in range(num)])
    what = f"Vendi score of {NUM_VARIED} exact posterior draws, judge's features, mean over classes"
    text = f"{of_all:.2f}; of those that the judge names rightly, {of_named:.2f}; of held-out photographs, {photographs:.2f}"
    return {what: Figure(text, 0.1)}


def generator_figures(evidence, progress=print):
    """Return the figures of the generator."""
    generator, names = evidence.generator, evidence.names
    rows = files(generator, evidence.folder / "generator", (generator.latent_dim,))
    num = len(evidence.images("train"))
    for name in ("classifier", "judge"):
        prior, train, held_out = (evidence.features(name, source) for source in ("prior", "train", "val"))
        scale = 1 / np.sqrt(np.mean(held_out**2))
        prior, train, held_out = prior * scale, train * scale, held_out * scale
        rows |= {
            f"KID of {len(prior)} prior draws to {len(held_out)} held-out photographs, {name}'s features": Figure(
                f"{kid(prior, held_out):.4f} (training photographs: {kid(train, held_out):.4f})", 0.002
            ),
            f"FID of the draws to {num} training photographs, {name}'s features": Figure(f"{fid(prior, train):.2f}", 0.5),
        }
        progress(f"generator: distances in {name}'s features")
    half = slice(0, 5000)  # in the judge's features, which come last above
    density, coverage = density_and_coverage(prior[half], train[np.random.default_rng(0).permutation(num)[half]])
    rows["density and coverage of 5000 draws, judge's features, 5 neighbours"] = Figure(f"{density:.2f}, {coverage:.2f}", 0.02)
    probs = evidence.probs("classifier", "prior")
    rows["mean p(class) over the prior draws"] = Figure(by_class(names, probs.mean(0)[: len(names)], 4), 0.0003)
    agreed = agreement(probs, evidence.probs("judge", "prior").argmax(1), len(names))
    rows["judge's agreement with exact posterior draws"] = Figure(by_class(names, agreed), 0.02)
    rows |= variety_figures(evidence)
    z = tf.random.stateless_normal([NUM_SMOOTHNESS, generator.latent_dim], as_seed(12))
    norms = spectral_norms(generator, z)
    rows[f"spectral norm of d image / d z at {NUM_SMOOTHNESS} prior draws: median, 99th percentile"] = Figure(
        f"{np.median(norms):.0f}, {np.quantile(norms, 0.99):.0f}", 10.0
    )
    return rows


def reach_figures(evidence, progress=print):
    """Return the reach of annealed starts for each class, and of prior draws for the first class, in two processes.

    Chains from prior draws find few classes; the first one, goldfish, shows by how much.
    """
    names = evidence.names
    jobs = [(ANNEALED, c) for c in range(len(names))] + [(kernel, 0) for kernel in SETTINGS]
    arrived, spent = {}, {}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=one_thread) as pool:
        waiting = {pool.submit(arrivals_of, evidence.folder, kernel, c): (kernel, c) for kernel, c in jobs}
        for future in as_completed(waiting):
            kernel, c = waiting[future]
            arrived[kernel, c], spent[kernel, c] = future.result()
            share, done = np.mean(arrived[kernel, c] <= NUM_GRADIENTS), f"{len(arrived)} of {len(jobs)}"
            progress(f"generator: reach of {kernel} for {names[c]}: {share:.2f} ({done})")
    return reach_rows(names, arrived, spent)


def reach_rows(names, arrived, spent):
    """Return the figures of `arrived` and `spent`, both by (kernel or `ANNEALED`, class); see `arrivals_of`."""
    # Chains are chaotic: a rounding error gives other chains with the same distribution. The difference of two shares of 16,
    # each near 0.8, has a standard deviation of 0.14; the tolerance is twice that.
    share = lambda kernel, c, limit: np.mean(arrived[kernel, c] <= limit)  # noqa: E731
    rows = {
        f"reach of annealed starts: share of 16 whose p(class) passes 0.5 within {limit} gradients, start and mala": Figure(
            by_class(names, [share(ANNEALED, c, limit) for c in range(len(names))]), 0.3
        )
        for limit in (NUM_GRADIENTS, LONG)
    }
    of_starts = [spent[ANNEALED, c] for c in range(len(names))]
    rows["reach of annealed starts: how many of these a start takes, least and most"] = Figure(
        f"{min(of_starts):.0f}, {max(of_starts):.0f}", 100.0
    )
    rows[f"reach of 16 prior draws within {NUM_GRADIENTS} gradients, {names[0]}"] = Figure(
        by_class(SETTINGS, [share(kernel, 0, NUM_GRADIENTS) for kernel in SETTINGS]), 0.3
    )
    return rows


def one_thread():
    """Restrict TensorFlow to one thread."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


@functools.lru_cache(maxsize=1)
def _networks(folder):
    return load_generator(folder / "generator"), load_classifier(folder / "classifier")


def arrivals_of(folder, kernel, c):
    """Return the arrivals of `kernel` or `ANNEALED` for class `c`, and the gradients that a start took."""
    networks = _networks(folder)
    return annealed_arrivals(networks, c, LONG) if kernel == ANNEALED else (arrivals(networks, c, kernel), 0.0)


def discriminator_figures(evidence):
    """Return the figures of p(natural | image) on held-out photographs and prior draws."""
    model = evidence.classifier("discriminator")
    natural = [label.name for label in model.labels].index("natural")
    sets = {"photographs of the classes": "val", "photographs of other things": "others", "prior draws": "fresh"}
    log_probs = {what: evidence.log_probs("discriminator", source) for what, source in sets.items()}
    rows = files(model, evidence.folder / "discriminator", (64, 64, 3)) | {
        f"mean log p(natural) of {len(values)} held-out {what}": Figure(f"{values[:, natural].mean():.2f} nats", 0.05)
        for what, values in log_probs.items()
    }
    probs = np.exp(np.concatenate(list(log_probs.values())))
    labels = np.where(np.arange(len(probs)) < len(probs) // 2, natural, 1 - natural)
    rows |= {
        "accuracy on all of these": Figure(f"{(probs.argmax(1) == labels).mean():.3f}"),
        "expected calibration error there, 10 bins": Figure(f"{expected_calibration_error(probs, labels):.3f}"),
    }
    p = probs[:, natural]
    for low in np.arange(10) / 10:
        inside = (p >= low) & (p < low + 0.1 if low < 0.9 else p <= 1)
        if inside.any():
            rows[f"reliability: p(natural) from {low:.1f} to {low + 0.1:.1f}"] = Figure(
                f"mean {p[inside].mean():.2f}, natural {(labels[inside] == natural).mean():.2f}, of {inside.sum()}",
                (0.03, 0.15, 3.0),
            )
    return rows
