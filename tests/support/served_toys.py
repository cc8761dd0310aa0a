"""Toy models for the module that an export contains."""

from typing import Any

import tensorflow as tf

from tests.support import toy
from tfgradgen.models.loading.metadata import Label
from tfgradgen.serving.chains import Plan


def with_shape(generator: Any) -> Any:
    """Return a toy `generator` with the shape of its images, which loaded generators have."""
    generator.image_shape = (2, 2, 1)
    return generator


class Mixing(toy.ToyGenerator):
    """A generator whose images depend on the others of their batch, like rounding in real networks, only more."""

    def __call__(self, z: Any) -> tf.Tensor:
        return super().__call__(z + tf.reduce_mean(z, 0))


def toy_plan(**changed: Any) -> Plan:
    labels = (Label("no"), Label("yes"))
    return Plan(labels, (0, 1), (1.5, 1.5), 1, 1.0, num_steps=4, max_steps=8, num_start_draws=4)._replace(**changed)
