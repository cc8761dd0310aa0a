"""Training data of the consensus classifier: labelled draws, weighted to represent the prior, and photographs."""

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tfgradgen.core.files import atomic_file
from tools.train import photographs
from tools.train.classifier_data import window
from tools.train.label_draws import chunks, read_chunk, targets
from tools.train.lessons import Epochs

SHARES = {"prior": 1.0, "near": 0.15}  # shares of the loss on draws; each round counts as much as the prior draws
FLOOR = 0.1  # how often a draw of no class is shown, relative to a certain one of a class with mean prior mass
HELD_OUT_EVERY = 10  # the second of every 10 chunks is held out
COUNTS = (32, 11, 5)  # rows of a batch: draws, photographs of the classes, photographs of other things
PHOTOGRAPH_WEIGHT = 1.0  # weight of the loss on photographs, relative to that on draws


def is_held_out(folder):
    """Return whether a chunk is held out."""
    return int(folder.name) % HELD_OUT_EVERY == 1


def interest(target):
    """Return how often each draw [N] is shown, from `target [N, K + 1]`; draws of rare classes are shown more often.

    Weights 1 / interest compensate for this, so that the loss is that under the prior.
    """
    by_class = target[:, :-1].astype("float64")
    mass = np.maximum(by_class.mean(0), 1e-4)
    return FLOOR + np.minimum(by_class @ (mass.mean() / mass), 2.0)


class Draws:
    """The chunks of all kinds in `folder`: `target` [N, K + 1], `weight` [N] and their images.

    Weights are proportional to 1 / (probability that the draw was kept) and sum to the share of each kind. `held_out` selects
    the chunks that are not used in training.
    """

    def __init__(self, folder, held_out=False, kinds=None):
        kinds = kinds or sorted(path.name for path in Path(folder).iterdir() if path.is_dir())
        self.folders, self.starts, self.sources = [], [0], []
        all_targets, all_weights = [], []
        for kind in kinds:
            weights = []
            for chunk in chunks(folder, kind):
                if is_held_out(chunk) != held_out:
                    continue
                image, classifier, lite = read_chunk(chunk, ("image", "classifier", "lite"))
                self.folders.append(chunk)
                self.sources.append(image)
                self.starts.append(self.starts[-1] + len(image))
                all_targets.append(targets(classifier, lite))
                keep = chunk / "keep.npy"
                weights.append(1 / np.load(keep) if keep.exists() else np.ones(len(image)))
            if weights:
                weight = np.concatenate(weights)
                all_weights.append(weight / weight.sum() * SHARES.get(kind, 1.0))
        if not all_targets:
            raise SystemExit(f"{folder}: expected labelled draws, got none; label some with python -m tools.train.label_draws.")
        self.target, self.weight = np.concatenate(all_targets), np.concatenate(all_weights)

    def __len__(self):
        return len(self.target)

    def images(self, rows):
        """Return uint8 images [len(rows), 64, 64, 3]."""
        sources = np.searchsorted(self.starts, rows, side="right") - 1
        return np.stack([self.sources[k][row - self.starts[k]] for k, row in zip(sources, rows, strict=True)])

    def sampling(self):
        """Return (probabilities [N] of showing draws, weights [N] of their loss), whose product is `weight`."""
        shown = self.weight * interest(self.target)
        probs = shown / shown.sum()
        return probs, self.weight / self.weight.sum() / probs


class Photographs:
    """Photographs of the classes and of other things with one-hot targets; `sets` are two pairs (image, target)."""

    def __init__(self, data, others, names):
        image, label = photographs.load(data, "train", names)
        strangers = [name for name in photographs.class_names(others) if name not in names]
        other_image, _ = photographs.load(others, "train", strangers, photographs.TRAINING)
        eye = np.eye(len(names) + 1, dtype="float32")
        self.sets = [(image, eye[label]), (other_image, np.repeat(eye[-1:], len(other_image), 0))]


class Batches(Epochs):
    """Batches (image uint8 [B, 64, 64, 3], target [B, K + 1], weight [B], u) that depend on (seed, epoch, index) only.

    Draws come first. u [number of photographs, 8] are uniform numbers for `augment`.
    """

    def __init__(self, draws, photos, steps, seed, counts=COUNTS, **kwargs):
        super().__init__(steps, **kwargs)
        self.draws, self.photos, self.seed, self.counts = draws, photos, seed, counts
        self.probs, self.weights = draws.sampling()
        self.cumulative = np.cumsum(self.probs)

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = np.searchsorted(self.cumulative, rng.random(self.counts[0]) * self.cumulative[-1])
        rows = np.minimum(chosen, len(self.draws) - 1)
        images, target, weights = [self.draws.images(rows)], [self.draws.target[rows]], [self.weights[rows]]
        for (image, label), count in zip(self.photos.sets, self.counts[1:], strict=True):
            rows = rng.integers(0, len(image), count)
            images.append(image[rows])
            target.append(label[rows])
            weights.append(np.full(count, PHOTOGRAPH_WEIGHT * self.counts[0] / sum(self.counts[1:])))
        u = rng.random((sum(self.counts[1:]), 8), "float32")
        return ((np.concatenate(images), np.concatenate(target), np.concatenate(weights).astype("float32"), u),)


def augment(image, num_kept, u):
    """Shift, mirror and recolour all but the first `num_kept` images [B, 64, 64, 3] in [-1, 1]; u [B - num_kept, 8]."""
    moved = window(image[num_kept:], u[:, 3:8], least_zoom=0.8, shift=0.25, bend=0.15)
    moved = photographs.jitter_colour(moved, u[:, 0:3], brightness=0.2, saturation=0.2, contrast=0.2)
    return ops.concatenate([image[:num_kept], ops.clip(moved, -1.0, 1.0)])


def cross_entropy(logits, target, weight):
    """Return the mean of `weight [B]` times the cross-entropy of `logits` and `target`, both [B, K + 1]."""
    return ops.mean(weight * keras.losses.categorical_crossentropy(target, logits, from_logits=True))


def cached(path, make):
    """Return the arrays {name: array} of `make()`, cached in the .npz `path`."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, **make())
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def fingerprint(*values):
    """Return a short digest of everything on which a cached file depends."""
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:12]
