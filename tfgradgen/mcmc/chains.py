"""Runs chains of a transition kernel, as pure functions of (posterior, kernel settings, seed).

They handle neither images nor file paths. The seed of each transition is folded from (seed, index of the transition). The
draws therefore depend neither on how a run is divided into chunks nor on where it was interrupted. One compiled function
serves all labels, seeds and phases of a run.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfgradgen.core.arrays import Layout, check_state, check_within
from tfgradgen.core.backend import Stream, compile_fn, fold_in, full_float32, use_xla
from tfgradgen.core.checks import check_num_chains, check_type
from tfgradgen.core.config import KernelConfig, RunConfig, Schedule
from tfgradgen.core.contracts import (
    FORWARD_COST,
    Chunk,
    Cost,
    Draws,
    Networks,
    Progress,
    ProgressFn,
    Regularization,
    accept_prob,
    collect,
)
from tfgradgen.core.lazy import unnest
from tfgradgen.core.memo import per_networks
from tfgradgen.diagnostics.model_checks import admit, checked_start, warn_of, with_number
from tfgradgen.mcmc.kernel import TunableParams, adaptive_kernel, start
from tfgradgen.mcmc.registry import kernel_sampler
from tfgradgen.mcmc.sampler import check_config
from tfgradgen.posterior import ClassPosterior

logger = logging.getLogger(__name__)

MIN_ESTIMATE = 5  # seconds; a shorter run is over before anyone has read how long it takes
GRADIENTS_PER_CHUNK = 20  # about a second on two cores: often enough to show progress, rarely enough to cost nothing


class Condition(NamedTuple):
    """The inputs of a compiled run that depend on the class, as tensors, so that one run serves all classes.

    Attributes:
      label: int32, [] or one per chain.
      mean: [latent_dim] float32, or one row per chain: mean of the latent points of the class; 0 if it is not needed.
      scale: Like `mean`: their standard deviation; 1 if it is not needed.
    """

    label: tf.Tensor
    mean: tf.Tensor
    scale: tf.Tensor


class Compiled(NamedTuple):
    """The compiled parts of a run.

    Attributes:
      bootstrap_fn: (condition, tunable_params, z) -> kernel results.
      chunk_fn: (condition, tunable_params, seed, first, count, z, results) -> z, results, traces, and evaluations
        [num_chains, 2].
      max_count: The largest number of transitions in a chunk.
    """

    bootstrap_fn: Any
    chunk_fn: Any
    max_count: int


@per_networks
def compiled(
    networks: Networks,
    temperature: float,
    kernel_name: str,
    config: KernelConfig,
    num_adaptation_steps: int,
    xla: bool,
) -> Compiled:
    """Return the compiled parts of a run; the same object, without retracing, for the same settings.

    Only the settings that `KernelSampler.compiled_as` leaves in `config` are compiled in; the others are passed as
    `TunableParams`.

    Args:
      networks: The models.
      temperature: Temperature of the likelihood.
      kernel_name: A key of `registry.kernel_samplers()`.
      config: Settings of the kernel.
      num_adaptation_steps: Number of adaptation steps if the kernel `counts_adaptation`, else 0.
      xla: Whether to compile with XLA.
    """
    sampler = kernel_sampler(kernel_name)
    # A chunk of another config has as many transitions as the cost of that config allows: at most one per gradient.
    max_count = max(GRADIENTS_PER_CHUNK, chunk_size(kernel_name, config))
    weight = config.to_dict().get("class_reg", 0.0)

    def parts(condition: Condition, tunable_params: TunableParams | None, z: tf.Tensor) -> tuple[ClassPosterior, Any]:
        regularization = Regularization(weight, *condition[1:]) if config.needs_class_moments else None
        posterior = ClassPosterior.of(networks, condition.label, temperature, regularization)
        labels = condition.label if posterior.is_batched else None
        return posterior, adaptive_kernel(sampler, posterior, config, num_adaptation_steps, tunable_params, labels)

    def bootstrap(condition: Condition, tunable_params: TunableParams | None, z: tf.Tensor) -> Any:
        return start(sampler, parts(condition, tunable_params, z)[1], z, tunable_params)

    def chunk(
        condition: Condition,
        tunable_params: TunableParams | None,
        seed: tf.Tensor,
        first: tf.Tensor,
        count: tf.Tensor,
        z: tf.Tensor,
        results: Any,
    ) -> Any:
        posterior, kernel = parts(condition, tunable_params, z)

        def trace(z: tf.Tensor, results: Any) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
            info = sampler.info_fn(posterior, config, z, results)
            row = Draws(
                z,
                posterior.class_prob_of(z, info.target_log_prob),
                info.target_log_prob,
                info.is_accepted,
                info.step_size,
                info.log_accept_ratio,
            )
            num_looks = 1 if posterior.has_energy else 0  # for class_prob_of
            return tuple(row), tf.stack([info.num_gradients, info.num_forward + num_looks], 1)

        def step(i: tf.Tensor, z: tf.Tensor, results: Any, arrays: Any, cost: tf.Tensor) -> Any:
            z, results = kernel.one_step(z, results, seed=fold_in(seed, first + i))
            row, spent = trace(z, results)
            return i + 1, z, results, tuple(a.write(i, t) for a, t in zip(arrays, row, strict=True)), cost + spent

        arrays = tuple(tf.TensorArray(t.dtype, max_count, element_shape=t.shape) for t in trace(z, results)[0])
        _, z, results, arrays, cost = tf.while_loop(
            lambda i, *_: i < count,
            step,
            (tf.constant(0), z, results, arrays, tf.zeros([z.shape[0], 2], tf.int32)),
            parallel_iterations=1,
        )
        return z, results, tuple(a.stack() for a in arrays), cost

    return Compiled(compile_fn(bootstrap, jit_compile=xla), compile_fn(chunk, jit_compile=xla), max_count)


def chunk_size(kernel_name: str, config: KernelConfig) -> int:
    """Return the number of transitions in a chunk of about `GRADIENTS_PER_CHUNK` gradients."""
    return max(1, int(GRADIENTS_PER_CHUNK / kernel_sampler(kernel_name).cost_fn(config).work))


def chain_chunks(
    posterior: ClassPosterior,
    kernel_name: str,
    config: KernelConfig,
    schedule: Schedule,
    run: RunConfig,
    init_z: Any,
    state: dict[str, np.ndarray] | None = None,
) -> Iterator[Chunk]:
    """Run one chain from each row of `init_z` [num_chains, latent_dim], one compiled chunk at a time.

    A kernel with replicas can also start from [num_replicas, num_chains, latent_dim], one row per replica and chain (see
    `KernelSampler.powers`).

    Args:
      posterior: The target. If `config.needs_class_moments`, it needs a `regularization`, whose mean and scale are used; the
        weight is that of `config`. With a vector of labels, each chain has its own target, and the chains of one label share a
        step size.
      kernel_name: A sampler that runs a kernel, a key of `registry.kernel_samplers()`.
      config: Settings of the kernel.
      schedule: Numbers of transitions. The step size is tuned in the first `num_adaptation_steps` and frozen afterwards.
      run: Provides the seed and `jit`. The same arguments give the same draws, bit for bit, on the same machine and backend.
      init_z: The starting points.
      state: The state of an earlier chunk of the same run, to continue after it; then only the shape of `init_z` is used.

    Yields:
      A `Chunk` after about every `GRADIENTS_PER_CHUNK` gradients of each chain; none if `state` is the last one. Unless
        `state` is given, its stats are `doubts`, the warnings of the model checks, one line each, and, if the kernel learns,
        `learned`, what it learned of its target.

    Raises:
      UserError: Arguments do not fit, or the models would invalidate the run (`model_checks.admit`).
    """
    sampler = kernel_sampler(kernel_name)
    check_config(kernel_name, config, sampler.defaults)
    check_type("schedule", schedule, Schedule)
    check_type("run", run, RunConfig)
    if not config.needs_class_moments:
        posterior.check_without_regularization()
    first = checked_start(init_z, posterior, run, len(sampler.powers(config)), is_resumed=state is not None)
    z = first[0] if first.shape.rank == 3 else first
    check_num_chains(kernel_name, len(z), sampler.min_chains)
    posterior.check_num_chains(len(z))
    if not sampler.tunes_by_label:
        posterior.check_one_label(kernel_name)
    stats: dict[str, Any] = {}
    if state is None:
        posterior, stats["doubts"], *_ = admit(posterior, run, sampler.cost_fn(config).num_gradients > 0)
    else:  # checked at the start of the run
        posterior = with_number(posterior)
    learned = sampler.learn_fn(posterior, config, run) if sampler.learn_fn and state is None else None
    if learned:
        stats |= {"doubts": [*stats["doubts"], *learned.warnings], "learned": learned.stats}
    functions = compiled(
        posterior.networks,
        posterior.temperature,
        kernel_name,
        sampler.compiled_as(config),
        schedule.num_adaptation_steps if sampler.counts_adaptation else 0,
        use_xla(run.jit),
    )
    seed = fold_in(posterior.own_seed(run.seed), Stream.CHAINS)
    tunable_params = sampler.tunable_params(config, schedule.num_adaptation_steps, len(z) if posterior.is_batched else 1)
    condition = condition_of(posterior)
    class_state = {"class_mean": condition.mean.numpy(), "class_scale": condition.scale.numpy()}
    if not functions.chunk_fn.experimental_get_tracing_count():
        logger.info("compiling %s", kernel_name)
    results = functions.bootstrap_fn(condition, tunable_params, first)
    spent = _seconds(functions.bootstrap_fn, condition, tunable_params, first)
    results = unnest.replace_innermost(results, **learned.results) if learned else results
    done, cost = 0, np.tile(np.asarray(sampler.start_cost(config), np.int64), [len(z), 1])
    cost = cost if posterior.is_batched else cost.sum(0)
    if state is not None:
        leaves = tf.nest.flatten(results)
        check_state(state, _layout(posterior, config, z, leaves))
        check_within(state, "num_done", 0, schedule.num_steps)
        leaves = [state[f"kernel_{k}"] for k in range(len(leaves))]
        z, results = tf.constant(state["z"]), tf.nest.pack_sequence_as(results, leaves)
        results = tf.nest.map_structure(tf.convert_to_tensor, results)
        done, cost = int(state["num_done"]), state["cost"]
    work = sampler.cost_fn(config).work * (schedule.num_steps - done)
    seconds = spent / max(sampler.start_cost(config).work, FORWARD_COST) * work
    if seconds >= MIN_ESTIMATE and not schedule.is_open:
        logger.info("sampling: %d transitions, about %.0f s", schedule.num_steps - done, seconds)
    most = min(functions.max_count, chunk_size(kernel_name, config))
    if posterior.is_batched and not use_xla(run.jit):  # on a CPU each label takes its own time; on a GPU the launches dominate
        most = max(1, most // len(posterior.each_label()))
    while done < schedule.num_steps:
        # End a chunk at the end of the burn-in, so that each chunk is either discarded or kept as a whole.
        is_kept = done >= schedule.num_burnin_steps
        end = schedule.num_steps if is_kept else schedule.num_burnin_steps
        count = min(most, end - done)
        full_float32()
        z, results, traces, spent = functions.chunk_fn(
            condition, tunable_params, seed, tf.constant(done), tf.constant(count), z, results
        )
        rows = Draws(*(t.numpy()[:count] for t in traces))
        draws = rows if is_kept else Draws(*(row[:0] for row in rows))
        done, cost = done + count, cost + (spent.numpy() if posterior.is_batched else spent.numpy().sum(0))
        rate, step, prob = (float(np.mean(values)) for values in (accept_prob(rows), rows.step_size, rows.class_prob))
        kernel_state = {f"kernel_{k}": leaf.numpy() for k, leaf in enumerate(tf.nest.flatten(results))}
        yield Chunk(
            Progress(done, schedule.num_steps, rate, step, prob),
            draws,
            {"num_done": np.asarray(done), "z": z.numpy(), "cost": cost, **class_state, **kernel_state},
            Cost(*cost.reshape(-1, 2).sum(0).tolist()),
            stats,
            None if is_kept else rows,
        )


def _seconds(fn: Any, *arguments: Any) -> float:
    """Return how long a compiled function takes that has run before."""
    start = time.monotonic()
    tf.nest.map_structure(lambda tensor: tensor.numpy(), fn(*arguments))  # waits for a GPU, too
    return time.monotonic() - start


def _layout(posterior: ClassPosterior, config: KernelConfig, z: tf.Tensor, leaves: list[tf.Tensor]) -> Layout:
    """Return the layout of the state of chains at `z` [num_chains, latent_dim]; `leaves` are those of the kernel's results."""
    return {
        "num_done": (np.int64, ()),
        "cost": (np.int64, (len(z), 2) if posterior.is_batched else (2,)),
        **state_layout(posterior, config, len(z)),
        **{f"kernel_{k}": (leaf.dtype.as_numpy_dtype, tuple(leaf.shape)) for k, leaf in enumerate(leaves)},
    }


def state_layout(posterior: ClassPosterior, config: KernelConfig, num_chains: int) -> Layout:
    """Return the layout of the part of a state that is read before a kernel is built."""
    of_chains = (np.float32, (num_chains, posterior.latent_dim))
    moments = of_chains if posterior.is_batched and config.needs_class_moments else (np.float32, (posterior.latent_dim,))
    return {"z": of_chains, "class_mean": moments, "class_scale": moments}


def condition_of(posterior: ClassPosterior) -> Condition:
    """Return the label of `posterior` and, if known, the moments of the class."""
    if posterior.regularization is None:
        return Condition(posterior.label, tf.zeros([posterior.latent_dim]), tf.ones([posterior.latent_dim]))
    _, mean, scale = posterior.regularization
    return Condition(posterior.label, tf.constant(mean, tf.float32), tf.constant(scale, tf.float32))


def sample_chains(
    posterior: ClassPosterior,
    kernel_name: str,
    config: KernelConfig,
    schedule: Schedule,
    run: RunConfig,
    init_z: tf.Tensor,
    progress_fn: ProgressFn | None = None,
) -> tuple[Draws, Cost]:
    """Return all draws of `chain_chunks`, which documents the arguments, and their cost. Issue its warnings.

    `progress_fn` is called with a `Progress` after each compiled chunk.
    """
    found = collect(chain_chunks(posterior, kernel_name, config, schedule, run, init_z), progress_fn)
    warn_of(found.stats["doubts"])
    return found.draws, found.cost
