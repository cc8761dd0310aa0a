"""Data for measuring the models of saved_models/: models, photographs and prior draws, each computed once on demand."""

import functools
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import as_seed
from tfgradgen.media.image import to_uint8
from tfgradgen.models.classifier import load_classifier
from tfgradgen.models.generator import load_generator
from tools.train import photographs

BATCH = 100
NUM_DRAWS = 10_000
PRIOR_SEED = 11  # differs from the seed of the draws that selected the checkpoint


class Evidence:
    """Models in `folder`, and photographs (a folder or .tar) of the classes (`data`) and of other things (`others`)."""

    def __init__(self, folder, data, others):
        self.folder, self.data, self.others = Path(folder), data, others
        self.generator = load_generator(self.folder / "generator")

    @functools.cache  # noqa: B019 - one object a process
    def classifier(self, name):
        return load_classifier(self.folder / name)

    @functools.cached_property
    def names(self):
        """The classes in the order of the classifier, without "other"."""
        return [label.name for label in self.classifier("classifier").labels if not label.background]

    @functools.cache  # noqa: B019
    def images(self, source):
        """Return uint8 images [N, 64, 64, 3].

        Args:
          source: 'train' or 'val' for photographs of the classes; 'others' for held-out photographs of other things; 'prior'
            for prior draws, or 'fresh' for as many other prior draws as there are held-out photographs.
        """
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
        """Labels [N] of the 'val' photographs."""
        return photographs.load(self.data, "val", self.names)[1]

    @functools.cache  # noqa: B019
    def features(self, name, source):
        """Return the features [N, D] of the images of `source` by the network `name`."""
        signature = self.classifier(name).module.signatures["features"]
        return photographs.in_batches(lambda x: next(iter(signature(x).values())), self.images(source))

    @functools.cache  # noqa: B019
    def log_probs(self, name, source):
        """Return log p(class | image) [N, num_classes] of the images of `source` by the network `name`."""
        model = self.classifier(name)
        return photographs.in_batches(lambda x: tf.nn.log_softmax(model(x)), self.images(source))

    def probs(self, name, source):
        return np.exp(self.log_probs(name, source))


def draws(generator, num, seed):
    """Return uint8 images of `num` prior draws, in the same precision as photographs."""
    z = tf.random.stateless_normal([num, generator.latent_dim], as_seed(seed))
    return np.concatenate([to_uint8(generator(z[i : i + BATCH])) for i in range(0, num, BATCH)])
