"""Lazy imports of TensorFlow: `tf`, `tfp` and `unnest` are imported on first use.

A sampler's file also holds its settings. Help and the checks of flags read these and must not wait for TensorFlow.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfgradgen.core._tf_private import MODULES
from tfgradgen.core.quiet import import_tensorflow

__all__ = ["LazyModule", "tf", "tfp", "unnest"]


class LazyModule(ModuleType):
    """A stand-in for TensorFlow, or for a module that needs it, that imports it on the first access to an attribute."""

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
