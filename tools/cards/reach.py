"""Reach: the share of starts from which a gradient kernel finds the class.

Images of a class may be good even if no chain reaches them.
"""

import functools

import numpy as np
import tensorflow as tf

from tfgradgen.core.backend import as_seed, fold_in
from tfgradgen.mcmc.annealing import annealed_points
from tfgradgen.mcmc.hmc import HmcConfig
from tfgradgen.mcmc.kernel import adaptive_kernel
from tfgradgen.mcmc.mala import MalaConfig
from tfgradgen.mcmc.registry import kernel_samplers
from tfgradgen.posterior import ClassPosterior

# (settings, number of adaptation steps). These steps are longer than the defaults of `sample`, which maximize the ESS: reach
# asks how far the gradient leads.
SETTINGS = {"mala": (MalaConfig(0.4, 0.4), 110), "hmc": (HmcConfig(0.4, 0.4, num_leapfrog_steps=2), 56)}
NUM_GRADIENTS = 300  # of a chain, with those of its start, by default
LONG = 900  # gradients with which 0.8 of the chains reach every class
CHAINS_LEFT = (16, 8)  # compiled batch sizes; chains that have arrived leave the batch


@functools.lru_cache(maxsize=16)
def _compiled(networks, kernel_name):
    family, (generator, classifier) = kernel_samplers()[kernel_name], networks
    config, num_adaptation_steps = SETTINGS[kernel_name]

    def class_prob(posterior, z, results):
        return posterior.class_prob_of(z, family.info_fn(posterior, config, z, results).target_log_prob)

    def kernel_of(label):
        posterior = ClassPosterior(generator, classifier, label)
        return posterior, adaptive_kernel(family, posterior, config, num_adaptation_steps)

    def bootstrap(label, z):
        posterior, kernel = kernel_of(label)
        results = kernel.bootstrap_results(z)
        return results, class_prob(posterior, z, results)

    def steps(label, seed, count, z, results, best):
        posterior, kernel = kernel_of(label)

        def step(i, z, results, best):
            z, results = kernel.one_step(z, results, seed=fold_in(seed, i))
            return i + 1, z, results, tf.maximum(best, class_prob(posterior, z, results))

        state = tf.while_loop(lambda i, *_: i < count, step, (tf.constant(0), z, results, best), parallel_iterations=1)
        return state[1:]

    return tf.function(bootstrap, autograph=False), tf.function(steps, autograph=False)


def annealed_arrivals(networks, label, num_gradients=NUM_GRADIENTS, seed=0):
    """Return the arrivals of mala from 16 annealed starts, in gradients with those of the start, and how many a start took."""
    posterior, num_chains = ClassPosterior(networks[0], networks[1], label), CHAINS_LEFT[0]
    z, spent, _ = annealed_points(posterior, num_chains, fold_in(as_seed(seed), 0), jit=False)
    cost = spent.num_gradients / num_chains
    left = num_gradients - round(cost)
    return cost + arrivals(networks, label, "mala", left, seed=seed, z=tf.constant(z)), cost


def arrivals(networks, label, kernel_name, num_gradients=NUM_GRADIENTS, threshold=0.5, seed=0, z=None):
    """Return after how many gradients p(class) of each of 16 chains exceeded `threshold`, [16]; inf if never.

    They are counted in steps of about ten, up to `num_gradients`. Step sizes are tuned as in `sample`, from `SETTINGS`.
    `networks` is (generator, classifier), `label` an index. The chains start at `z` [16, latent_dim], or at prior draws.
    """
    bootstrap_fn, steps_fn = _compiled(networks, kernel_name)
    gradients_per_step = kernel_samplers()[kernel_name].cost_fn(SETTINGS[kernel_name][0]).num_gradients
    label, seed = tf.constant(label, tf.int32), as_seed(seed)
    num_chains = CHAINS_LEFT[0]
    if z is None:
        z = ClassPosterior(networks[0], networks[1], label).sample_prior(num_chains, fold_in(seed, 0))
    results, best = bootstrap_fn(label, z)
    arrived, chains = np.full(num_chains, np.inf), np.arange(num_chains)
    arrived[best.numpy() > threshold] = 0
    per_call = max(1, 10 // gradients_per_step)
    num_steps = num_gradients // gradients_per_step
    for done in range(0, num_steps, per_call):
        left = np.flatnonzero(np.isinf(arrived[chains]))
        if not len(left):
            break
        size = min(s for s in CHAINS_LEFT if s >= len(left))
        if size < len(chains):
            # Chains that have arrived leave, and the others continue to tune the shared step size. Some stay to fill the batch.
            rows = np.concatenate([left, np.setdiff1d(np.arange(len(chains)), left)])[:size]
            keep = functools.partial(_rows, rows=rows, batch=len(chains))
            z, best, results, chains = keep(z), keep(best), tf.nest.map_structure(keep, results), chains[rows]
        count = min(per_call, num_steps - done)
        z, results, best = steps_fn(label, fold_in(seed, done + 1), tf.constant(count), z, results, best)
        new = chains[(best.numpy() > threshold) & np.isinf(arrived[chains])]
        arrived[new] = (done + count) * gradients_per_step
    return arrived


def _rows(value, rows, batch):
    return tf.gather(value, rows) if value.shape.rank and value.shape[0] == batch else value
