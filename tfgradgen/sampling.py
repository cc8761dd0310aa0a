"""Runs chains: pure functions of (posterior, kernel settings, seed). No pictures, no paths.

Each transition's seed is folded from (seed, index of the transition), so the draws do not depend on how a run is cut into
chunks, nor on where it was interrupted. One compiled function serves every label, seed and phase of a run.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.backend import as_seed, fold_in, use_xla
from tfgradgen.checks import fail
from tfgradgen.config import KernelConfig, RunConfig, Schedule
from tfgradgen.contracts import Chunk, ClassifierLike, Cost, Draws, GeneratorLike, Progress, ProgressFn
from tfgradgen.kernels import KERNELS
from tfgradgen.kernels.base import adaptive_kernel, step_info
from tfgradgen.posterior import ClassPosterior

GRADIENTS_PER_CHUNK = 20  # about a second on two cores: often enough to show progress, rare enough to cost nothing
INIT_STREAM, CHAIN_STREAM = 0, 1


class Compiled(NamedTuple):
    """bootstrap_fn: (label, z) -> kernel results. chunk_fn: (label, seed, first, count, z, results) -> state and traces."""

    bootstrap_fn: Any
    chunk_fn: Any
    chunk_size: int


def initial_points(posterior: ClassPosterior, run: RunConfig) -> tuple[tf.Tensor, float, int]:
    """Start points [num_chains, latent_dim], the mean p(class) of the prior draws that were looked at, and their number.

    'prior' draws each from Normal(0, I). 'resample' picks each from `RunConfig.num_init_draws` prior draws of its own with
    weight likelihood ** (1 / temperature): sampling importance resampling (Rubin 1987), forward passes only. Chains share
    no draws, so that they stay independent and the spread of their means is an honest Monte Carlo error.
    """
    seed = fold_in(as_seed(run.seed), INIT_STREAM)
    num_draws = run.num_init_draws if run.init == "resample" else 1
    starts, probs = [], []
    for chain in range(run.num_chains):
        chain_seed = fold_in(seed, chain)
        draws = posterior.sample_prior(num_draws, fold_in(chain_seed, 0))
        log_prob = posterior.class_log_prob(draws)
        weights = tf.where(tf.math.is_finite(log_prob), log_prob / posterior.temperature, -np.inf)
        if run.init == "resample" and not bool(tf.reduce_any(weights > -np.inf)):
            raise fail(
                "p(class)",
                "a finite likelihood at some prior draw",
                f"none in {num_draws}",
                "check the models' ranges and labels",
            )
        picked = tf.random.stateless_categorical(weights[None], 1, fold_in(chain_seed, 1))[0, 0] if num_draws > 1 else 0
        starts.append(draws[picked])
        probs.append(tf.exp(log_prob))
    return tf.stack(starts), float(tf.reduce_mean(probs)), num_draws * run.num_chains


@functools.lru_cache(maxsize=8)
def compiled(
    networks: tuple[GeneratorLike, ClassifierLike],
    temperature: float,
    kernel_name: str,
    config: KernelConfig,
    num_adaptation_steps: int,
    xla: bool,
) -> Compiled:
    """The compiled parts of a run; the same object, without tracing again, for the same settings."""
    family = KERNELS[kernel_name]
    chunk_size = max(1, GRADIENTS_PER_CHUNK // config.num_leapfrog_steps)

    def parts(label: tf.Tensor, z: tf.Tensor) -> tuple[ClassPosterior, Any]:
        posterior = ClassPosterior(*networks, label, temperature)
        kernel = adaptive_kernel(family, posterior.unnormalized_log_prob, config, z.shape[0], num_adaptation_steps)
        return posterior, kernel

    def bootstrap(label: tf.Tensor, z: tf.Tensor) -> Any:
        return parts(label, z)[1].bootstrap_results(z)

    def chunk(label: tf.Tensor, seed: tf.Tensor, first: tf.Tensor, count: tf.Tensor, z: tf.Tensor, results: Any) -> Any:
        posterior, kernel = parts(label, z)

        def trace(z: tf.Tensor, results: Any) -> tuple[tf.Tensor, ...]:
            info = step_info(results)
            return (
                z,
                posterior.class_prob_of(z, info.target_log_prob),
                info.target_log_prob,
                info.is_accepted,
                info.step_size,
                info.log_accept_ratio,
            )

        def step(i: tf.Tensor, z: tf.Tensor, results: Any, arrays: Any) -> Any:
            z, results = kernel.one_step(z, results, seed=fold_in(seed, first + i))
            return i + 1, z, results, tuple(a.write(i, t) for a, t in zip(arrays, trace(z, results), strict=True))

        arrays = tuple(tf.TensorArray(t.dtype, chunk_size, element_shape=t.shape) for t in trace(z, results))
        _, z, results, arrays = tf.while_loop(
            lambda i, *_: i < count, step, (tf.constant(0), z, results, arrays), parallel_iterations=1
        )
        return z, results, tuple(a.stack() for a in arrays)

    function = functools.partial(tf.function, jit_compile=xla, autograph=False, reduce_retracing=False)
    return Compiled(function(bootstrap), function(chunk), chunk_size)


def chain_chunks(
    posterior: ClassPosterior,
    kernel_name: str,
    config: KernelConfig,
    schedule: Schedule,
    run: RunConfig,
    init_z: Any,
    state: dict[str, np.ndarray] | None = None,
) -> Iterator[Chunk]:
    """Runs one chain from each row of `init_z` [num_chains, latent_dim], a compiled chunk at a time.

    Args:
      kernel_name: a key of `tfgradgen.kernels.KERNELS`.
      config, schedule: settings of the kernel, and how many transitions; the step size is tuned in the first
        `num_adaptation_steps` and frozen after.
      run: gives the seed and `jit`; the same arguments give the same draws bit for bit on the same machine and backend.
      state: that of an earlier chunk of the same run, to go on after it; `init_z` then gives the shape only.

    Yields:
      One `Chunk` after every about `GRADIENTS_PER_CHUNK` gradients of each chain; none where `state` is the last one.
    """
    functions = compiled(
        (posterior.generator, posterior.classifier),
        posterior.temperature,
        kernel_name,
        config,
        schedule.num_adaptation_steps,
        use_xla(run.jit),
    )
    seed = fold_in(as_seed(run.seed), CHAIN_STREAM)
    done, z = 0, tf.convert_to_tensor(init_z)
    results = functions.bootstrap_fn(posterior.label, z)
    if state is not None:
        leaves = [state[f"kernel_{k}"] for k in range(len(tf.nest.flatten(results)))]
        done, z, results = int(state["num_done"]), tf.constant(state["z"]), tf.nest.pack_sequence_as(results, leaves)
        results = tf.nest.map_structure(tf.convert_to_tensor, results)
    while done < schedule.num_steps:
        # Chunks end where the burn-in ends, so that every chunk is kept or discarded as a whole.
        is_kept = done >= schedule.num_burnin_steps
        end = schedule.num_steps if is_kept else schedule.num_burnin_steps
        count = min(functions.chunk_size, end - done)
        z, results, traces = functions.chunk_fn(posterior.label, seed, tf.constant(done), tf.constant(count), z, results)
        rows = Draws(*(t.numpy()[:count] for t in traces))
        draws = rows if is_kept else Draws(*(row[:0] for row in rows))
        done += count
        accept_prob = np.exp(np.minimum(np.nan_to_num(rows.log_accept_ratio, nan=-np.inf), 0.0))
        means = (float(np.mean(values)) for values in (accept_prob, rows.step_size, rows.class_prob))
        kernel_state = {f"kernel_{k}": leaf.numpy() for k, leaf in enumerate(tf.nest.flatten(results))}
        yield Chunk(
            Progress(done, schedule.num_steps, *means),
            draws,
            {"num_done": np.asarray(done), "z": z.numpy(), **kernel_state},
        )


def num_gradients(num_chains: int, config: KernelConfig, schedule: Schedule) -> int:
    """Gradients that a whole run takes: one to begin with, then one a leapfrog step of each chain."""
    return num_chains * (1 + schedule.num_steps * config.num_leapfrog_steps)


def sample_chains(
    posterior: ClassPosterior,
    kernel_name: str,
    config: KernelConfig,
    schedule: Schedule,
    run: RunConfig,
    init_z: tf.Tensor,
    progress_fn: ProgressFn | None = None,
) -> tuple[Draws, Cost]:
    """All draws of `chain_chunks` (see there for the arguments) and what they cost.

    `progress_fn` is called with a `Progress` after each compiled chunk.
    """
    kept = []
    for chunk in chain_chunks(posterior, kernel_name, config, schedule, run, init_z):
        kept.append(chunk.draws)
        if progress_fn:
            progress_fn(chunk.progress)
    draws = Draws(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))
    return draws, Cost(num_gradients(len(init_z), config, schedule), 0)
