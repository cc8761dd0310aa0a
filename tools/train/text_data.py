"""Batches for the text model: windows of photographs and of the generator's draws, each with captions of what is measured there."""

import random
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgradgen.core.files import atomic_file
from tools.train import photographs
from tools.train.captions import Nouns, caption, contrary, encode, varied, vocabulary
from tools.train.colours import BACKGROUND, COLOURS, GRID, SUBJECT, colour_index
from tools.train.lessons import Epochs

BATCH, DRAWN = 96, 24  # images in a batch, and how many of them are draws
CAPTIONS, CONTRARIES = 2, 2  # of each image
LEAST_ZOOM, SHIFT = 0.7, 0.3
SURE = 0.6  # p(class) of a draw from which on captions name the class
NUM_DRAWS, DRAWS_SEED = 12_000, 31


class Pictures:
    """Images with the names of their classes, '' for none, and their measured pixels.

    Attributes:
      image: uint8 [N, 64, 64, 3].
      name: List of N names.
    """

    def __init__(self, image, name):
        self.image, self.name = image, list(name)
        parts = range(0, len(image), 500)
        self._index = np.concatenate([colour_index(image[k : k + 500]) for k in parts])
        luma = (0.299, 0.587, 0.114)
        self._luma = np.concatenate([(image[k : k + 500] @ np.float32(luma)).astype("uint8") for k in parts])

    def __len__(self):
        return len(self.name)

    def measured(self, rows, top=0.0, left=0.0, zoom=1.0):
        """Return `colours.measured` of windows of the images `rows`: corner and width [N] as shares of the image."""
        size = self.image.shape[1]
        steps = (np.arange(GRID) + 0.5) / GRID
        at = lambda start: ((start + steps[None] * zoom) * size).astype(int)  # noqa: E731
        y, x = at(np.reshape(top, (-1, 1)))[:, :, None], at(np.reshape(left, (-1, 1)))[:, None, :]
        index, luma = (of[np.asarray(rows)[:, None, None], y, x] for of in (self._index, self._luma))
        is_colour = index[..., None] == np.arange(len(COLOURS), dtype="uint8")
        found = {"luma": luma.mean((1, 2)) / 255}
        for name, mask in (("subject", SUBJECT), ("background", BACKGROUND)):
            found[name], found[f"{name}_luma"] = is_colour[:, mask].mean(1), luma[:, mask].mean(1) / 255
        return found


def row_of(found, k):
    """Return the measurements of image `k`."""
    return {name: values[k] for name, values in found.items()}


class TextBatches(Epochs):
    """Batches (image uint8 [B, 64, 64, 3], window [B, 4], tokens int32 [B * 4, T]) that depend on (seed, epoch, index) only.

    A window is (zoom, vertical offset, horizontal offset, 1 or -1 for mirrored), as `photographs.crop_matrix` takes them. The
    tokens are those of all first captions, all second ones, then of the captions that are false.
    """

    def __init__(self, taken, drawn, names, steps, seed, **kwargs):
        super().__init__(steps, **kwargs)
        self.sets, self.names, self.seed = (taken, drawn), names, seed
        self.nouns = Nouns(names)
        self.known = {word: k for k, word in enumerate(vocabulary(names))}

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        words = random.Random(int(rng.integers(2**62)))
        images, windows, true, false = [], [], [], []
        for pictures, count in zip(self.sets, (BATCH - DRAWN, DRAWN), strict=True):
            rows = rng.choice(len(pictures), count, replace=False)
            zoom = LEAST_ZOOM + (1 - LEAST_ZOOM) * rng.random((count, 1))
            top, left = ((1 - zoom) * rng.random((count, 1)) for _ in range(2))
            found = pictures.measured(rows, top, left, zoom)
            images.append(pictures.image[rows])
            centre = lambda start, zoom: start * 2 + zoom - 1  # noqa: E731
            mirror = np.where(rng.random((count, 1)) > 0.5, 1.0, -1.0)
            windows.append(np.concatenate([zoom, centre(top, zoom), centre(left, zoom), mirror], 1))
            for k, row in enumerate(rows):
                here = row_of(found, k)
                said = [caption(pictures.name[row], here, self.nouns, words) for _ in range(CAPTIONS)]
                true.append([varied(parts.text, words) for parts in said])
                wrong = [contrary(parts, here, self.names, self.nouns, words) for parts in said]
                false.append([varied(parts.text, words) for parts in wrong])
        texts = [text for column in (*zip(*true, strict=True), *zip(*false, strict=True)) for text in column]
        window = np.concatenate(windows).astype("float32")
        return ((np.concatenate(images), window, encode(texts, self.known)),)


def taken(data, others, split="train", part=photographs.TRAINING):
    """Return the photographs of a split as `Pictures`, and all names, those of `data` first."""
    names = photographs.class_names(data)
    more = [name for name in photographs.class_names(others) if name not in names]
    own, own_label = photographs.load(data, split, names)
    rest, rest_label = photographs.load(others, "train", more, part)
    name = [names[k] for k in own_label] + [more[k] for k in rest_label]
    return Pictures(np.concatenate([own, rest]), name), [*names, *more]


def drawn(generator, classifier, file, num=NUM_DRAWS, seed=DRAWS_SEED):
    """Return prior draws of a generator as `Pictures`, with the class of which the classifier is sure.

    Args:
      generator: Function that returns the generator.
      classifier: Function that returns the classifier.
      file: A .npz that keeps the draws for the next call.
      num: Number of draws.
      seed: Of the latent points.
    """
    if not Path(file).exists():
        image, name = label_draws(generator(), classifier(), num, seed)
        with atomic_file(Path(file)) as stream:
            np.savez(stream, image=image, name=np.array(name))
    with np.load(file) as arrays:
        return Pictures(arrays["image"], map(str, arrays["name"]))


def label_draws(generator, classifier, num, seed):
    """Return `num` prior draws, uint8, and the class of each; '' where the classifier is not sure of one."""
    from tools.cards.evidence import draws

    image, name = draws(generator, num, seed), []
    log_probs = tf.function(classifier.log_probs)
    for k in range(0, num, 100):
        prob = np.exp(log_probs(photographs.to_range(image[k : k + 100])).numpy())
        for row in prob:
            label = classifier.labels[int(row.argmax())]
            name.append(label.name if row.max() > SURE and not label.background else "")
    return image, name
