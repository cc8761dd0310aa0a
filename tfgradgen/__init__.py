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
    "Draws": "tfgradgen.core.contracts",
    "SAMPLERS": "tfgradgen.mcmc.registry",
    "CheesConfig": "tfgradgen.mcmc.chees",
    "HmcConfig": "tfgradgen.mcmc.hmc",
    "KernelConfig": "tfgradgen.core.config",
    "LocalGlobalConfig": "tfgradgen.mcmc.local_global",
    "MalaConfig": "tfgradgen.mcmc.mala",
    "MapConfig": "tfgradgen.mcmc.map_ascent",
    "Networks": "tfgradgen.core.contracts",
    "NutsConfig": "tfgradgen.mcmc.nuts",
    "Regularization": "tfgradgen.core.contracts",
    "ReplicaConfig": "tfgradgen.mcmc.replica_exchange",
    "Recipe": "tfgradgen.mcmc.recipe",
    "RunConfig": "tfgradgen.core.config",
    "Schedule": "tfgradgen.core.config",
    "SmcConfig": "tfgradgen.mcmc.smc",
    "UserError": "tfgradgen.core.checks",
    "class_moments": "tfgradgen.mcmc.rejection",
    "collect": "tfgradgen.core.contracts",
    "initial_points": "tfgradgen.mcmc.starts",
    "lower_gradients": "tfgradgen.models.precision",
    "load_classifier": "tfgradgen.models.classifier",
    "load_discriminator": "tfgradgen.models.discriminator",
    "load_generator": "tfgradgen.models.generator",
    "parse_condition": "tfgradgen.models.condition",
    "sample_chains": "tfgradgen.mcmc.chains",
    "read_recipe": "tfgradgen.mcmc.recipe",
    "sample_exact": "tfgradgen.mcmc.rejection",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tfgradgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
