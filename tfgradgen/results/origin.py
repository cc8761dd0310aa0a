"""Provenance of a run: the machine, the versions and the models in its record."""

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

_GUESSED = {"range_scores": "range_scores", "doubts": "warnings"}  # key in run.json: attribute of a model


def environment(jit: Jit) -> dict[str, Any]:
    """Return versions and device. Together with the arguments they determine the bits of a result."""
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
        "backend": "xla" if xla else "graph",  # their random numbers for one seed differ
    }


def model_record(model: Any) -> dict[str, Any]:
    """Return what identifies a model. A callable from elsewhere has only some of the entries."""
    sizes = ("latent_dim", "image_shape", "image_size", "rate")
    own = (*sizes, "output", "prior", "truncation", "generator_class", "signature", "tags", "texts")
    return {
        "path": getattr(model, "path", ""),
        "sha256": getattr(model, "sha256", ""),
        "image_range": as_json(tuple(getattr(model, "image_range", (-1.0, 1.0)))),
        **{name: as_json(value) for name in own if (value := getattr(model, name, None)) not in (None, "", ())},
        "assumed": list(getattr(model, "assumed", ())),
        **{key: found for key, name in _GUESSED.items() if (found := as_json(getattr(model, name, ())))},
    }


def as_json(value: Any) -> Any:
    """Return `value` with tuples as lists, so that a record equals its copy read from JSON."""
    return [as_json(item) for item in value] if isinstance(value, tuple) else value


def plan(
    label: Mapping[str, Any], kernel: str, run: RunConfig, arguments: Mapping[str, Any], models: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the part of run.json that is known before the run.

    Args:
      label: Index, name and WordNet id.
      kernel: Name of the sampler.
      run: Settings of the run.
      arguments: All arguments of the run, JSON-serializable.
      models: Models by role: 'generator', 'classifier' and, if the target has one, 'discriminator'.
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
