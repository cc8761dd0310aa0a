"""Where a run comes from: the machine, the versions and the models, as its record names them."""

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfgradgen
from tfgradgen.core.backend import use_xla
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Jit


def environment(jit: Jit) -> dict[str, Any]:
    """Versions and the device: what decides the bits of a result besides the arguments."""
    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    xla = use_xla(jit)
    return {
        "versions": {
            "tfgradgen": tfgradgen.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "tensorflow_probability": tfp.__version__,
            "numpy": np.__version__,
        },
        "device": [device.name for device in devices],
        "machine": platform.machine(),
        "jit": xla,
        "backend": "xla" if xla else "graph",  # the two draw different random numbers from one seed
    }


def model_record(model: Any) -> dict[str, Any]:
    """What identifies a generator, a classifier or a discriminator. Of a callable that is none of ours, what it has of that."""
    own = ("latent_dim", "image_shape", "image_size", "output", "prior", "truncation", "generator_class", "signature", "tags")
    return {
        "path": getattr(model, "path", ""),
        "sha256": getattr(model, "sha256", ""),
        "image_range": list(getattr(model, "image_range", (-1.0, 1.0))),
        **{name: as_json(value) for name in own if (value := getattr(model, name, None)) not in (None, "", ())},
        "assumed": list(getattr(model, "assumed", ())),
        **{name: found for name in ("range_scores", "doubts") if (found := as_json(getattr(model, name, ())))},
    }


def as_json(value: Any) -> Any:
    """Tuples as JSON has them, so that a record compares with one that was read."""
    return [as_json(item) for item in value] if isinstance(value, tuple) else value


def plan(
    label: Mapping[str, Any], kernel: str, run: RunConfig, arguments: Mapping[str, Any], models: Mapping[str, Any]
) -> dict[str, Any]:
    """The part of run.json that is known before the run.

    Args:
      label: its index, name and WordNet id. arguments: all of the run, JSON-able. models: by role, 'generator', 'classifier'
        and, where one is in the target, 'discriminator'.
    """
    return {
        "command": "sample",
        "label": dict(label),
        "kernel": kernel,
        "seed": run.seed,
        "arguments": dict(arguments),
        **{role: model_record(model) for role, model in models.items()},
        **environment(run.jit),
    }
