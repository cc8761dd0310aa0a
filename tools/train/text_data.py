"""Batches for the text model: windows of photographs, and the generator's draws, with captions of what they show."""

import random

import numpy as np

from tools.train import photographs
from tools.train.captions import Nouns, caption, contrary, encode, varied, vocabulary
from tools.train.colours import measured
from tools.train.label_draws import compiled, write_chunk
from tools.train.lessons import Epochs
from tools.train.photographs import HELD_OUT

BATCH, DRAWN = 96, 32  # images in a batch, and how many of them are draws
CONTRARIES = 2  # false captions of each image, besides a true one
LEAST_ZOOM = 0.7
SURE = 0.6  # p(class) of a draw from which on captions name the class
NUM_DRAWS, DRAWS_SEED, WINDOWS_SEED = 8_000, 31, 32
OF_EACH = 50  # photographs of each class of other things
FIELDS = ("image", "name", "late", "early")


class Views:
    """Images, the names of their classes, what Lite1 sees in them, and what is measured in them.

    Attributes:
      image: uint8 [N, 64, 64, 3].
      name: List of N names; '' for an image of no known class.
      late, early: `TextNetwork.maps` of the images.
      found: `colours.measured` of the images.
    """

    def __init__(self, folder):
        arrays = {field: np.load(folder / f"{field}.npy") for field in FIELDS}
        self.image, self.late, self.early = (arrays[field] for field in ("image", "late", "early"))
        self.name = list(map(str, arrays["name"]))
        parts = [measured(self.image[k : k + 500]) for k in range(0, len(self.image), 500)]
        self.found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def __len__(self):
        return len(self.name)

    def row(self, k):
        """Return what is measured in image `k`."""
        return {key: values[k] for key, values in self.found.items()}


class TextBatches(Epochs):
    """Batches (image uint8 [B, 64, 64, 3], late, early, tokens int32 [B * 3, T]) that depend on (seed, epoch, index) only.

    About half of the images are mirrored; `late` and `early` are not, but are used in a way that does not depend on it. The
    tokens are those of all true captions, then of the first and of the second false ones.
    """

    def __init__(self, taken, drawn, names, steps, seed, **kwargs):
        super().__init__(steps, **kwargs)
        self.sets, self.names, self.seed = (taken, drawn), names, seed
        self.nouns = Nouns(names)
        self.known = {word: k for k, word in enumerate(vocabulary(names))}

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        words = random.Random(int(rng.integers(2**62)))
        columns, said = [], []
        for views, count in zip(self.sets, (BATCH - DRAWN, DRAWN), strict=True):
            rows = rng.choice(len(views), count, replace=False)
            image = np.where(rng.random((count, 1, 1, 1)) > 0.5, views.image[rows], views.image[rows, :, ::-1])
            columns.append((image, views.late[rows], views.early[rows]))
            for k in rows:
                here = views.row(k)
                parts = caption(views.name[k], here, self.nouns, words)
                wrong = [contrary(parts, here, self.names, self.nouns, words) for _ in range(CONTRARIES)]
                said.append([varied(each.text, words) for each in (parts, *wrong)])
        texts = [text for column in zip(*said, strict=True) for text in column]
        image, late, early = (np.concatenate(each) for each in zip(*columns, strict=True))
        return ((image, late.astype("float32"), early.astype("float32"), encode(texts, self.known)),)


def every_name(data, others):
    """Return the names of all classes, those of `data` first."""
    names = photographs.class_names(data)
    return [*names, *(name for name in photographs.class_names(others) if name not in names)]


def windows(image, seed):
    """Return one window of each image, resized to the whole: uint8 [N, 64, 64, 3]."""
    rng, size = np.random.default_rng(seed), image.shape[1]
    i = (np.arange(size) + 0.5) / size
    found = np.empty_like(image)
    for k, one in enumerate(image):
        zoom = LEAST_ZOOM + (1 - LEAST_ZOOM) * rng.random()
        rows, columns = (np.clip((start + i * zoom) * size - 0.5, 0, size - 1) for start in (1 - zoom) * rng.random(2))
        matrices = (np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))).astype("float32") for at in (rows, columns))
        of_rows, of_columns = matrices
        half = (of_rows @ one.reshape(size, -1).astype("float32")).reshape(size, size, 3)
        found[k] = np.round(np.matmul(of_columns, half)).astype("uint8")
    return found


def see(network, image, name, folder):
    """Write images, names and what Lite1 sees to `folder`."""
    from keras import ops

    def both(x):
        late, early = network.maps(x / 127.5 - 1.0)
        return ops.concatenate([ops.reshape(late, (-1, late.shape[1] ** 2 * late.shape[3])), early], 1)

    seen = compiled(both, image.shape[1:])(image).astype("float16")
    num_early = network.num_early
    late = seen[:, :-num_early]
    side = round((late.shape[1] / network.num_late) ** 0.5)
    arrays = {"late": late.reshape(-1, side, side, network.num_late), "early": seen[:, -num_early:]}
    write_chunk(folder, {"image": image, "name": np.array(name)} | arrays)


def taken(network, data, others, folder, split="train"):
    """Return the photographs of a split as `Views`; those of `train` are windows. `folder` keeps them."""
    if not folder.exists():
        names = photographs.class_names(data)
        more = every_name(data, others)[len(names) :]
        part = slice(0, OF_EACH) if split == "train" else HELD_OUT
        own, own_label = photographs.load(data, split, names)
        rest, rest_label = photographs.load(others, "train", more, part)
        image = np.concatenate([own, rest])
        name = [names[k] for k in own_label] + [more[k] for k in rest_label]
        see(network, windows(image, WINDOWS_SEED) if split == "train" else image, name, folder)
    return Views(folder)


def drawn(network, generator, classifier, folder, num=NUM_DRAWS, seed=DRAWS_SEED):
    """Return prior draws of a generator as `Views`, with the class of which the classifier is sure. `folder` keeps them."""
    if not folder.exists():
        from tfgradgen.models.classifier import load_classifier
        from tfgradgen.models.generator import load_generator
        from tools.cards.evidence import draws

        image, tells = draws(load_generator(generator), num, seed), load_classifier(classifier)
        log_probs = compiled(lambda x: tells.log_probs(x / 127.5 - 1.0), image.shape[1:])(image)
        labels = [tells.labels[k] for k in log_probs.argmax(1)]
        sure = np.exp(log_probs.max(1)) > SURE
        name = [label.name if is_sure and not label.background else "" for label, is_sure in zip(labels, sure, strict=True)]
        see(network, image, name, folder)
    return Views(folder)
