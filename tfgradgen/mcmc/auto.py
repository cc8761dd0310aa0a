"""`--kernel=auto`: the choice of a sampler by the target's mass under the prior.

The mass is the mean of likelihood ** (1 / temperature) under the prior; at temperature 1 it is the mean of p(class). It is
also the share of prior draws that rejection accepts. It is estimated from the first rows of the pool, from which chains start,
too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfgradgen.core.config import RunConfig
from tfgradgen.mcmc.pool import CHUNK, pool_of, weigh
from tfgradgen.mcmc.recipe import settings_of
from tfgradgen.mcmc.registry import SAMPLERS

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

NAME = "auto"
NUM_DRAWS = 4096  # prior draws for the choice: as many as 16 chains start from
# Each sampler with the least mass at which it is chosen; the first that fits is taken. At this mass, rejection needs 32,000
# prior draws for two exact draws of each of 16 chains, for one label or for many. That is not much more than the chains of one
# label cost, whose draws are dependent. Below it, elliptical_slice has the largest ESS for its work and the lowest R-hat of
# these methods.
CHOICES = (("rejection", 0.001), ("elliptical_slice", 0.0))


class Choice(NamedTuple):
    """The chosen sampler and the reason for it.

    Attributes:
      kernel: A key of `SAMPLERS`.
      mass: Mass of the target under the prior; the smallest one if there are several labels.
      error: Standard error of `mass`.
      num_draws: Number of prior draws from which `mass` was estimated.
      why: The reason, as a phrase.
    """

    kernel: str
    mass: float
    error: float
    num_draws: int
    why: str

    @property
    def stats(self) -> dict[str, Any]:
        """The choice as it is written to run.json."""
        return self._asdict()

    @property
    def text(self) -> str:
        """The mass and its standard error as text."""
        return f"{_two_digits(self.mass)} +- {_two_digits(self.error)}"


def _two_digits(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0095 else f"{value:.2g}"


def about() -> str:
    """Return a phrase that describes the choice by the share of prior draws that show the class."""
    return ", ".join(f"{kernel} if it is at least {least:g}" if least else f"else {kernel}" for kernel, least in CHOICES)


def known_settings() -> tuple[str, ...]:
    """Return the names of the settings that all samplers that can be chosen have in common."""
    first, *others = (settings_of(SAMPLERS[kernel]) for kernel, _ in CHOICES)
    return tuple(name for name in first if all(name in other for other in others))


def choose(posterior: ClassPosterior, run: RunConfig) -> Choice:
    """Choose the sampler for `posterior`, by the pool of `run.seed`.

    Raises:
      UserError: The models would invalidate a run of any sampler (`model_checks.admit`).
    """
    from tfgradgen.diagnostics.model_checks import admit

    posterior = admit(posterior, run, takes_gradients=False).posterior
    mass, error = min(_mass(each, run) for each, _ in posterior.each_label())
    kernel, least = next((name, least) for name, least in CHOICES if mass >= least and not _is_refused(name, posterior))
    return Choice(kernel, mass, error, NUM_DRAWS, _why(kernel, least, posterior))


def _is_refused(kernel: str, posterior: ClassPosterior) -> bool:
    return SAMPLERS[kernel].kind == "exact" and posterior.has_energy


def _why(kernel: str, least: float, posterior: ClassPosterior) -> str:
    if SAMPLERS[kernel].kind == "exact":
        return f"at least {least:g} of the prior, so exact draws are affordable"
    if posterior.has_energy:
        return "the target has a discriminator, which rejection cannot use"
    bound = max(least for _, least in CHOICES)
    return f"less than {bound:g} of the prior, so chains find more of it than rejection"


def _mass(posterior: ClassPosterior, run: RunConfig) -> tuple[float, float]:
    """Return the mean of likelihood ** (1 / temperature) over prior draws, and its standard error.

    The discriminator is left out. A draw without a finite p(class) counts as 0.
    """
    shares = []
    for draws in pool_of(posterior, run).blocks(CHUNK, NUM_DRAWS // CHUNK):
        log_share = weigh(posterior, draws, run).class_log_prob / float(posterior.temperature)
        shares.append(np.exp(np.where(np.isfinite(log_share), log_share, -np.inf)))
    share = np.concatenate(shares)
    return float(share.mean()), float(share.std(ddof=1) / np.sqrt(share.size))
