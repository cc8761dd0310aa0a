"""TensorFlow for files that are read without it: `tf`, `tfp` and `unnest` are imported when they are first used.

A sampler's file holds its settings too, and those are asked for by help and by the checks of flags, which have no time for it.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfgradgen.core._tf_private import MODULES

__all__ = ["LazyModule", "tf", "tfp", "unnest"]


class LazyModule(ModuleType):
    """Stands for the module `name`, and imports it at the first look at one of its attributes."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfgradgen.core._tf_private import unnest
else:
    tf, tfp = LazyModule("tensorflow"), LazyModule("tensorflow_probability")
    unnest = LazyModule(MODULES["unnest"])
