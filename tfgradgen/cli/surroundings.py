"""What a run record says of the machine and the models."""

import platform
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfgradgen
from tfgradgen.cli.load import Loaded, Target
from tfgradgen.cli.options import SampleOptions
from tfgradgen.core.backend import use_xla
from tfgradgen.models.classifier import Classifier
from tfgradgen.models.condition import ConditionClassifier
from tfgradgen.models.generator import Generator


def environment(jit: bool | str) -> dict[str, Any]:
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


def model_record(model: Generator | Classifier | ConditionClassifier) -> dict[str, Any]:
    own = ("latent_dim", "image_shape", "image_size", "output", "prior", "truncation", "generator_class", "signature", "tags")
    return {
        "path": model.path,
        "sha256": model.sha256,
        "image_range": list(model.image_range),
        **{name: value for name in own if (value := getattr(model, name, None)) not in (None, "", ())},
        "assumed": list(model.assumed),
        **{name: found for name in ("range_scores", "doubts") if (found := as_json(getattr(model, name, ())))},
    }


def as_json(value: Any) -> Any:
    """Tuples as JSON has them, so that a record compares with one that was read."""
    return [as_json(item) for item in value] if isinstance(value, tuple) else value


def plan(options: SampleOptions, loaded: Loaded, target: Target) -> dict[str, Any]:
    """The part of run.json that is known before the run."""
    return {
        "command": "sample",
        "label": {"index": target.index, "name": target.label.name, "wnid": target.label.wnid},
        "kernel": options.kernel,
        "seed": options.run.seed,
        "arguments": options.to_dict(),
        "generator": model_record(loaded.generator),
        "classifier": model_record(target.classifier),
        **({"discriminator": model_record(loaded.discriminator)} if loaded.discriminator else {}),
        **environment(options.run.jit),
    }
