"""Annealed starts: a population moves from the prior to the class while the temperature falls.

From a prior draw of another class, the gradient of log p(class) often ends where the class is still unlikely. A population of
particles, as in `smc`, does not stay there: at each temperature, particles are resampled by their weights, so that those that
are ahead replace those left behind, and then they move by MALA. The particles of the last temperature have the distribution
of the posterior up to an error of order 1 / number of particles (Del Moral, Doucet and Jasra 2006). They are dependent, as
several may have one ancestor, and they are not exact.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

import numpy as np

from tfgradgen.core.backend import fold_in, full_float32, use_xla
from tfgradgen.core.contracts import Cost, Jit
from tfgradgen.core.lazy import tf
from tfgradgen.mcmc.smc import SmcConfig, compiled, next_stage, start_population

if TYPE_CHECKING:
    from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

PARTICLES_PER_CHAIN = 4


def annealed_points(
    posterior: ClassPosterior, num_chains: int, seed: tf.Tensor, jit: Jit
) -> tuple[np.ndarray, Cost, np.ndarray]:
    """Return points from a population of four times as many particles.

    Args:
      posterior: The target, with one label and without a discriminator.
      num_chains: Number of points, each a different particle.
      seed: Seed of the population.
      jit: As in `RunConfig`.

    Returns:
      The points [num_chains, latent_dim], what they cost, and the numbers [2] of prior draws without a finite p(class) and of
        all prior draws.

    Raises:
      UserError: The target has a discriminator, or p(class) is finite at no prior draw.
    """
    posterior.check_without_energy("init='annealed'")
    full_float32()
    config, num_particles = SmcConfig(), PARTICLES_PER_CHAIN * num_chains
    start_fn, mutate_fn = compiled(posterior.networks, config.num_mutations, use_xla(jit))
    population, scored = start_population(functools.partial(start_fn, posterior.label), num_particles, config, fold_in(seed, 0))
    cost = np.array([0, int(scored[1])])
    while population.inverse_temperature < 1.0:
        stage_seed = fold_in(seed, 1 + int(population.stage))
        population, accepted = next_stage(posterior, config, mutate_fn, population, stage_seed, None)
        cost += np.array([num_particles * (1 + config.num_mutations), num_particles])
        logger.info(
            "annealing %d particles: likelihood ** %.2g, acceptance %.2f, p(class) %.2f",
            num_particles,
            population.inverse_temperature,
            accepted,
            np.exp(population.log_prob).mean(),
        )
    chosen = np.argsort(tf.random.stateless_uniform([num_particles], fold_in(seed, 1 + int(population.stage))).numpy())
    return population.z[chosen[:num_chains]], Cost(*cost.tolist()), scored
