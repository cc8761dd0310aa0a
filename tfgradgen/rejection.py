"""Exact draws: the likelihood is a probability, so accepting z ~ Normal(0, I) with it is rejection sampling."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from tfgradgen.backend import as_seed, fold_in, use_xla
from tfgradgen.checks import fail
from tfgradgen.config import RunConfig
from tfgradgen.contracts import ClassifierLike, Cost, Draws, GeneratorLike, Progress, ProgressFn
from tfgradgen.posterior import ClassPosterior

BATCH_SIZE = 128
MAX_FRUITLESS_DRAWS = 200_000  # p(class) under the prior is then most likely below 2e-5
REJECTION_STREAM = 2


@functools.lru_cache(maxsize=8)
def _compiled(networks: tuple[GeneratorLike, ClassifierLike], temperature: float, xla: bool) -> Any:
    def propose(label: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        posterior = ClassPosterior(*networks, label, temperature)
        z = posterior.sample_prior(BATCH_SIZE, fold_in(seed, 0))
        log_prob = posterior.class_log_prob(z)
        log_uniform = tf.math.log(tf.random.stateless_uniform([BATCH_SIZE], fold_in(seed, 1)))
        is_accepted = log_uniform < log_prob / temperature
        return z, tf.exp(log_prob), posterior.prior_log_prob(z) + log_prob / temperature, is_accepted

    return tf.function(propose, jit_compile=xla, autograph=False)


def sample_exact(
    posterior: ClassPosterior, num_results: int, run: RunConfig, progress_fn: ProgressFn | None = None
) -> tuple[Draws, Cost, float, float]:
    """Independent exact draws from `posterior` (von Neumann 1951), num_results x run.num_chains of them.

    It costs about 1 / p(class) forward passes a draw, p(class) being its mean under the prior.

    Returns:
      The draws (every one accepted, no step size), what they cost, the mean p(class | g(z)) under the prior, and
      the accepted share of the prior draws.

    Raises:
      UserError: nothing was accepted in `MAX_FRUITLESS_DRAWS` draws.
    """
    propose_fn = _compiled((posterior.generator, posterior.classifier), posterior.temperature, use_xla(run.jit))
    seed = fold_in(as_seed(run.seed), REJECTION_STREAM)
    wanted = num_results * run.num_chains
    accepted: list[list[np.ndarray]] = []
    num_accepted, num_drawn, sum_prob, sum_accepted_prob = 0, 0, 0.0, 0.0
    while num_accepted < wanted:
        z, prob, target, mask = (t.numpy() for t in propose_fn(posterior.label, fold_in(seed, num_drawn // BATCH_SIZE)))
        accepted.append([z[mask], prob[mask], target[mask]])
        sum_accepted_prob += float(prob[mask].sum())
        num_accepted, num_drawn, sum_prob = (
            num_accepted + int(mask.sum()),
            num_drawn + BATCH_SIZE,
            sum_prob + prob.sum(),
        )
        if not num_accepted and num_drawn >= MAX_FRUITLESS_DRAWS:
            raise fail(
                "rejection",
                "a class that the generator can draw",
                f"none accepted in {num_drawn} prior draws",
                "use --kernel=hmc or a higher --temperature",
            )
        if progress_fn:
            mean = sum_accepted_prob / num_accepted if num_accepted else float("nan")
            progress_fn(Progress(min(num_accepted, wanted), wanted, num_accepted / num_drawn, float("nan"), mean))
    shape = (num_results, run.num_chains)
    z, prob, target = (
        np.concatenate(parts)[:wanted].reshape(*shape, *parts[0].shape[1:]) for parts in zip(*accepted, strict=True)
    )
    draws = Draws(z, prob, target, np.ones(shape, bool), np.full(shape, np.nan, np.float32))
    return draws, Cost(0, num_drawn), float(sum_prob / num_drawn), num_accepted / num_drawn
