"""The shipped generator and classifier as Keras networks of tools/train, on any backend, with the shipped weights."""

import numpy as np

from tools.train.consensus_network import Student
from tools.train.generator_network import LATENT_CONTENT_DIM, SHIPPED_SHARPNESS, FoldedGenerator, Generator


def load_networks(arrays, latent_dim, num_classes):
    """Return (`FoldedGenerator`, `Student`).

    Args:
      arrays: {"generator", "classifier": the variables in the order of the SavedModel}.
      latent_dim: Size of z.
      num_classes: Outputs of the classifier.
    """
    trained = Generator(latent_dim - LATENT_CONTENT_DIM, sharpness=SHIPPED_SHARPNESS)
    trained(np.zeros([1, latent_dim], "float32"))  # builds it
    generator, classifier = FoldedGenerator(trained), Student(num_classes, weight_dtype="float16")
    variables = [*generator.variables, *classifier.variables]
    for variable, value in zip(variables, [*arrays["generator"], *arrays["classifier"]], strict=True):
        variable.assign(value)
    return generator, classifier
