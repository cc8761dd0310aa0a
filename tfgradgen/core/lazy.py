"""TensorFlow for files that are read without it: `tf`, `tfp` and `unnest` are imported when they are first used.

A sampler's file holds its settings too, and those are asked for by help and by the checks of flags, which have no time for it.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfgradgen.core._tf_private import MODULES
from tfgradgen.core.quiet import import_tensorflow

__all__ = ["LazyModule", "tf", "tfp", "unnest"]


class LazyModule(ModuleType):
    """Stands for `name`, TensorFlow or a module that needs it, and imports it when one of its attributes is asked for."""

    def __getattr__(self, attribute: str) -> Any:
        import_tensorflow()
        return getattr(importlib.import_module(self.__name__), attribute)


if TYPE_CHECKING:
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfgradgen.core._tf_private import unnest
else:
    tf, tfp = LazyModule("tensorflow"), LazyModule("tensorflow_probability")
    unnest = LazyModule(MODULES["unnest"])
