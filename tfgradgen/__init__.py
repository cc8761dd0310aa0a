"""Class-conditional images from an unconditional generator and a classifier, by gradient-based MCMC.

    p(z | class) ∝ p(class | g(z)) Normal(z; 0, I)

    import tfgradgen as tg

    posterior = tg.ClassPosterior(tg.load_generator(), tg.load_classifier(), label="goldfish")
    result = tg.sample(posterior, kernel="mala", num_chains=16, seed=0)

Names are resolved on first use, so importing the package imports neither TensorFlow, NumPy nor any of its own modules.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "CheesConfig": "tfgradgen.mcmc.chees",
    "ClassPosterior": "tfgradgen.posterior",
    "ConditionClassifier": "tfgradgen.models.condition",
    "Draws": "tfgradgen.core.contracts",
    "HmcConfig": "tfgradgen.mcmc.hmc",
    "KernelConfig": "tfgradgen.core.config",
    "LocalGlobalConfig": "tfgradgen.mcmc.local_global",
    "MalaConfig": "tfgradgen.mcmc.mala",
    "MapConfig": "tfgradgen.mcmc.map_ascent",
    "Networks": "tfgradgen.core.contracts",
    "NutsConfig": "tfgradgen.mcmc.nuts",
    "Recipe": "tfgradgen.mcmc.recipe",
    "Regularization": "tfgradgen.core.contracts",
    "ReplicaConfig": "tfgradgen.mcmc.replica_exchange",
    "RunConfig": "tfgradgen.core.config",
    "SAMPLERS": "tfgradgen.mcmc.registry",
    "SampleResult": "tfgradgen.results.result",
    "Schedule": "tfgradgen.core.config",
    "SmcConfig": "tfgradgen.mcmc.smc",
    "HviConfig": "tfgradgen.mcmc.hvi",
    "SurrogateConfig": "tfgradgen.mcmc.surrogate",
    "UserError": "tfgradgen.core.checks",
    "class_moments": "tfgradgen.mcmc.rejection",
    "collect": "tfgradgen.core.contracts",
    "initial_points": "tfgradgen.mcmc.starts",
    "iter_chunks": "tfgradgen.api",
    "load_classifier": "tfgradgen.models.classifier",
    "load_discriminator": "tfgradgen.models.discriminator",
    "load_generator": "tfgradgen.models.generator",
    "film": "tfgradgen.play.film",
    "load_posterior": "tfgradgen.play.source",
    "load_run": "tfgradgen.results.result",
    "load_text_model": "tfgradgen.models.text",
    "lower_gradients": "tfgradgen.models.precision",
    "morph": "tfgradgen.play.morph",
    "nearest_photographs": "tfgradgen.evaluation.nearest",
    "parse_condition": "tfgradgen.models.condition",
    "read_recipe": "tfgradgen.mcmc.recipe",
    "sample": "tfgradgen.api",
    "sample_chains": "tfgradgen.mcmc.chains",
    "sample_exact": "tfgradgen.mcmc.rejection",
    "show": "tfgradgen.play.show",
    "vary": "tfgradgen.play.vary",
}

__all__ = sorted(["__version__", *_HOMES])

_WITH_TENSORFLOW = tuple(
    f"tfgradgen.{name}"
    for name in (
        "api",
        "evaluation.nearest",
        "mcmc.chains",
        "mcmc.starts",
        "models.",
        "play.film",
        "play.morph",
        "play.source",
        "play.vary",
        "posterior",
    )
)

if TYPE_CHECKING:  # the public names, for editors and type checkers
    from tfgradgen.api import iter_chunks as iter_chunks
    from tfgradgen.api import sample as sample
    from tfgradgen.core.checks import UserError as UserError
    from tfgradgen.core.config import KernelConfig as KernelConfig
    from tfgradgen.core.config import RunConfig as RunConfig
    from tfgradgen.core.config import Schedule as Schedule
    from tfgradgen.core.contracts import Draws as Draws
    from tfgradgen.core.contracts import Networks as Networks
    from tfgradgen.core.contracts import Regularization as Regularization
    from tfgradgen.core.contracts import collect as collect
    from tfgradgen.evaluation.nearest import nearest_photographs as nearest_photographs
    from tfgradgen.mcmc.chains import sample_chains as sample_chains
    from tfgradgen.mcmc.chees import CheesConfig as CheesConfig
    from tfgradgen.mcmc.hmc import HmcConfig as HmcConfig
    from tfgradgen.mcmc.hvi import HviConfig as HviConfig
    from tfgradgen.mcmc.local_global import LocalGlobalConfig as LocalGlobalConfig
    from tfgradgen.mcmc.mala import MalaConfig as MalaConfig
    from tfgradgen.mcmc.map_ascent import MapConfig as MapConfig
    from tfgradgen.mcmc.nuts import NutsConfig as NutsConfig
    from tfgradgen.mcmc.recipe import Recipe as Recipe
    from tfgradgen.mcmc.recipe import read_recipe as read_recipe
    from tfgradgen.mcmc.registry import SAMPLERS as SAMPLERS
    from tfgradgen.mcmc.rejection import class_moments as class_moments
    from tfgradgen.mcmc.rejection import sample_exact as sample_exact
    from tfgradgen.mcmc.replica_exchange import ReplicaConfig as ReplicaConfig
    from tfgradgen.mcmc.smc import SmcConfig as SmcConfig
    from tfgradgen.mcmc.starts import initial_points as initial_points
    from tfgradgen.mcmc.surrogate import SurrogateConfig as SurrogateConfig
    from tfgradgen.models.classifier import load_classifier as load_classifier
    from tfgradgen.models.condition import ConditionClassifier as ConditionClassifier
    from tfgradgen.models.condition import parse_condition as parse_condition
    from tfgradgen.models.discriminator import load_discriminator as load_discriminator
    from tfgradgen.models.generator import load_generator as load_generator
    from tfgradgen.models.precision import lower_gradients as lower_gradients
    from tfgradgen.models.text import load_text_model as load_text_model
    from tfgradgen.play.film import film as film
    from tfgradgen.play.morph import morph as morph
    from tfgradgen.play.show import show as show
    from tfgradgen.play.source import load_posterior as load_posterior
    from tfgradgen.play.vary import vary as vary
    from tfgradgen.posterior import ClassPosterior as ClassPosterior
    from tfgradgen.results.result import SampleResult as SampleResult
    from tfgradgen.results.result import load_run as load_run
else:

    def __getattr__(name):
        import importlib

        if name not in _HOMES:
            raise AttributeError(f"module 'tfgradgen' has no attribute {name!r}")
        home = _HOMES[name]
        if home.startswith(_WITH_TENSORFLOW):  # import it without its start-up messages
            importlib.import_module("tfgradgen.core.quiet").import_tensorflow()
        return getattr(importlib.import_module(home), name)

    def __dir__():
        return [*__all__, "__doc__"]
