"""Class-conditional images from an unconditional generator and a classifier, by gradient-based MCMC.

    p(z | class) ∝ p(class | g(z)) Normal(z; 0, I)

Names are resolved on first use, so that importing the package imports neither TensorFlow nor any file.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ClassPosterior": "tfgradgen.posterior",
    "ConditionClassifier": "tfgradgen.models.condition",
    "Draws": "tfgradgen.contracts",
    "KERNELS": "tfgradgen.kernels",
    "METHODS": "tfgradgen.methods",
    "CheesConfig": "tfgradgen.config",
    "HmcConfig": "tfgradgen.config",
    "KernelConfig": "tfgradgen.config",
    "LocalGlobalConfig": "tfgradgen.config",
    "MalaConfig": "tfgradgen.config",
    "MapConfig": "tfgradgen.config",
    "Networks": "tfgradgen.contracts",
    "NutsConfig": "tfgradgen.config",
    "Regularization": "tfgradgen.contracts",
    "ReplicaConfig": "tfgradgen.config",
    "Recipe": "tfgradgen.recipe",
    "RunConfig": "tfgradgen.config",
    "Schedule": "tfgradgen.config",
    "SmcConfig": "tfgradgen.config",
    "UserError": "tfgradgen.checks",
    "class_moments": "tfgradgen.rejection",
    "collect": "tfgradgen.contracts",
    "initial_points": "tfgradgen.starts",
    "lower_gradients": "tfgradgen.models.precision",
    "load_classifier": "tfgradgen.models.classifier",
    "load_discriminator": "tfgradgen.models.discriminator",
    "load_generator": "tfgradgen.models.generator",
    "parse_condition": "tfgradgen.models.condition",
    "sample_chains": "tfgradgen.sampling",
    "read_recipe": "tfgradgen.recipe",
    "sample_exact": "tfgradgen.rejection",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfgradgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
