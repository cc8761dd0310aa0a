"""What the figures of saved_models/ are measured on: models, photographs and prior draws, each made once when asked for."""

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import as_seed
from tfgradgen.io.images import to_uint8
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tools.train import photographs

BATCH = 100
NUM_DRAWS = 10_000
PRIOR_SEED = 11  # not that of the draws which chose the checkpoint


class Evidence:
    """`folder` is saved_models/; `data` and `others` are photographs of the classes and of other things (folder or .tar)."""

    def __init__(self, folder, data, others):
        self.folder, self.data, self.others = Path(folder), data, others
        self.generator = load_generator(self.folder / "generator")

    @functools.cache  # noqa: B019 - one object a process
    def classifier(self, name):
        return load_classifier(self.folder / name)

    @functools.cached_property
    def names(self):
        """The classes, in the order of the classifier, without "other"."""
        return [label.name for label in self.classifier("classifier").labels if not label.background]

    @functools.cache  # noqa: B019
    def images(self, source):
        """uint8 [N, 64, 64, 3]: photographs of the classes ('train', 'val') or of other things ('others', held out of every
        training), or prior draws ('prior', or as many 'fresh' ones as there are held-out photographs)."""
        if source in ("train", "val"):
            return photographs.load(self.data, source, self.names)[0]
        if source == "others":
            names = [name for name in photographs.class_names(self.others) if name not in self.names]
            return photographs.load(self.others, "train", names, photographs.HELD_OUT)[0]
        num, seed = {"prior": (NUM_DRAWS, PRIOR_SEED), "fresh": (len(self.images("val")) + len(self.images("others")), 13)}[
            source
        ]
        return draws(self.generator, num, seed)

    @functools.cached_property
    def labels(self):
        """Of the 'val' photographs, [N]."""
        return photographs.load(self.data, "val", self.names)[1]

    @functools.cache  # noqa: B019
    def features(self, name, source):
        """[N, D] features of the images of `source` by the network `name`."""
        signature = self.classifier(name).module.signatures["features"]
        return photographs.in_batches(lambda x: next(iter(signature(x).values())), self.images(source))

    @functools.cache  # noqa: B019
    def log_probs(self, name, source):
        """log p(class | picture) [N, num_classes] of the images of `source` by the network `name`."""
        model = self.classifier(name)
        return photographs.in_batches(lambda x: tf.nn.log_softmax(model(x)), self.images(source))

    def probs(self, name, source):
        return np.exp(self.log_probs(name, source))


def draws(generator, num, seed):
    """uint8 pictures of `num` prior draws: as on disk, so that no network sees more of them than of photographs."""
    z = tf.random.stateless_normal([num, generator.latent_dim], as_seed(seed))
    return np.concatenate([to_uint8(generator(z[i : i + BATCH])) for i in range(0, num, BATCH)])
