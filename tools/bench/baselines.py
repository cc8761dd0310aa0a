"""Baselines for `compare_kernels`: the samplers of other libraries on the same densities, and a learned flow.

- `tfp_hmc`: TFP's Hamiltonian Monte Carlo with its own SimpleStepSizeAdaptation. (TFP's MALA takes its step size as a constant,
  so TFP's adaptation cannot tune it.)
- `tfp_nuts`: `tfp.experimental.mcmc.windowed_adaptive_nuts`, called with the posterior itself.
- `flow`: global-local sampling as flowMC does it (Gabrie, Rotskoff and Vanden-Eijnden 2022; Wong, Gabrie and Foreman-Mackey
  2023). Rounds of mala steps alternate with training a RealNVP on all states so far, by maximum likelihood, and with
  independent Metropolis steps that propose the flow's draws. Then the flow is frozen, and the same rounds go on.
- `blackjax_mala`: BlackJAX's mala on JAX, in a process of its own (`blackjax_draws`), with a step size that is given.

All of them start at prior draws, and discard what they adapt or train on.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LEAPFROG_STEPS = 3  # of tfp_hmc, as in `hmc`
FIRST_STEP = 0.4  # distance in z
NUM_ADAPTED = 60  # first transitions of tfp_nuts, which its windows adapt; with fewer, TFP's windows fail
MALA_STEP = 0.45  # of the flow's and of BlackJAX's mala: about what `mala` tunes
NUM_ROUNDS, ROUND_STEPS = 5, 12  # training rounds of the flow, and the local and the global steps of each round
NUM_LAYERS, WIDTH = 6, 64  # couplings of the flow, and the width of their networks
EPOCHS, BATCH, FLOW_RATE = 30, 128, 1e-3


class Measured(NamedTuple):
    """The draws of a run and what they took.

    Attributes:
      draws: `Draws`, the kept ones.
      kept: `Cost` of the transitions that are kept.
      total: `Cost` of everything: starts, burn-in, and what was learned, too.
      seconds: CPU seconds of a gradient's work in the kept transitions.
      stats: Further numbers, JSON-serializable.
    """

    draws: Any
    kept: Any
    total: Any
    seconds: float
    stats: dict[str, Any]


def as_draws(posterior, z, is_accepted):
    """Return `Draws` of z [num_results, num_chains, latent_dim]; forward passes for p(class) are not counted."""
    import tensorflow as tf

    from tfgradgen.core.contracts import Draws

    values = tf.function(posterior.class_and_likelihood_log_prob, autograph=False)
    pairs = [values(tf.constant(row)) for row in z]
    class_log_prob, log_likelihood = (np.stack([pair[k].numpy() for pair in pairs]) for k in (0, 1))
    none = np.zeros_like(log_likelihood)
    target = posterior.prior_log_prob(z).numpy() + log_likelihood
    return Draws(np.asarray(z), np.exp(class_log_prob), target, np.asarray(is_accepted), none + np.nan, none)


def timed(fn):
    """Return what `fn` returns, and its CPU seconds."""
    start = time.process_time()
    found = fn()
    return found, time.process_time() - start


def tfp_hmc(posterior, budget, run):
    """Run TFP's HMC; as many transitions adapt its step size, and are discarded, as are kept."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfgradgen.core.contracts import Cost

    num = max(4, budget // LEAPFROG_STEPS)
    kernel = tfp.mcmc.SimpleStepSizeAdaptation(
        tfp.mcmc.HamiltonianMonteCarlo(posterior.unnormalized_log_prob, FIRST_STEP, LEAPFROG_STEPS), num
    )
    start = posterior.sample_prior(run.num_chains, tf.constant([run.seed, 1]))

    @tf.function(autograph=False)
    def go(z):
        return tfp.mcmc.sample_chain(
            num,
            z,
            kernel=kernel,
            num_burnin_steps=num,
            seed=tf.constant([run.seed, 2]),
            trace_fn=lambda _, results: (results.inner_results.is_accepted, results.new_step_size),
        )

    traced = go.get_concrete_function(start)
    (z, (accepted, step_size)), seconds = timed(lambda: traced(start))
    kept = Cost(num * LEAPFROG_STEPS * run.num_chains, 0)
    total = Cost(2 * kept.num_gradients + run.num_chains, 0)
    stats = {"step_size": float(step_size[-1])}
    return Measured(as_draws(posterior, z.numpy(), accepted.numpy()), kept, total, seconds / total.work, stats)


def tfp_nuts(posterior, budget, run):
    """Run TFP's windowed NUTS. As for `nuts`, each chain's gradients count, although all wait for the longest trajectory."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfgradgen.core.contracts import Cost

    num = max(4, budget // 8)

    @tf.function(autograph=False)
    def go():
        return tfp.experimental.mcmc.windowed_adaptive_nuts(
            num,
            posterior,
            n_chains=run.num_chains,
            num_adaptation_steps=NUM_ADAPTED,
            discard_tuning=False,
            seed=tf.constant([run.seed, 2]),
        )

    traced = go.get_concrete_function()
    (states, trace), seconds = timed(traced)
    z, steps = states["z"].numpy()[-num:], trace["n_steps"].numpy()
    kept, total = (Cost(int(part.sum()), 0) for part in (steps[-num:], steps))
    accepted = trace["is_accepted"].numpy()[-num:]
    stats = {"num_adaptation_steps": NUM_ADAPTED, "leapfrogs": float(steps[-num:].mean())}
    return Measured(as_draws(posterior, z, accepted), kept, total, seconds / total.work, stats)


def make_flow(latent_dim, seed):
    """Return a RealNVP of `latent_dim` dimensions as a TFP distribution, the standard normal at first, and its variables."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    tfb, rng, variables, layers = tfp.bijectors, np.random.default_rng(seed), [], []
    half = latent_dim // 2

    def coupling():
        sizes = [(half, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * (latent_dim - half))]
        scales = [1 / np.sqrt(half), 1 / np.sqrt(WIDTH), 0.0]
        weights = [
            tf.Variable(scale * rng.standard_normal(size), dtype=tf.float32) for size, scale in zip(sizes, scales, strict=True)
        ]
        biases = [tf.Variable(tf.zeros(size[1])) for size in sizes]
        variables.extend([*weights, *biases])

        def shift_and_log_scale(x, num, **_):
            for k in (0, 1):
                x = tf.nn.relu(x @ weights[k] + biases[k])
            shift, log_scale = tf.split(x @ weights[2] + biases[2], 2, -1)
            return shift, tf.tanh(log_scale)

        return tfb.RealNVP(half, shift_and_log_scale_fn=shift_and_log_scale)

    for _ in range(NUM_LAYERS):
        layers += [coupling(), tfb.Permute(rng.permutation(latent_dim).astype("int32"))]
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros([latent_dim]))
    return tfp.distributions.TransformedDistribution(base, tfb.Chain(layers)), variables


def flow(posterior, budget, run):
    """Run global-local sampling with a learned flow."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    from tfgradgen.core.backend import fold_in, log_uniform
    from tfgradgen.core.contracts import Cost
    from tfgradgen.mcmc.mala import Mala

    density, variables = make_flow(posterior.latent_dim, run.seed)
    optimizer, rng = tf.keras.optimizers.Adam(FLOW_RATE), np.random.default_rng(run.seed)
    optimizer.build(variables)
    kernel = Mala(posterior.unnormalized_log_prob, tf.fill([1, 1], MALA_STEP))

    @tf.function(autograph=False)
    def local(z, seed):
        return tfp.mcmc.sample_chain(ROUND_STEPS, z, kernel=kernel, seed=seed, trace_fn=None)

    @tf.function(autograph=False)
    def jump(z, log_weight, seed):
        """Make one independent Metropolis step; the flow is frozen meanwhile. `log_weight` is of z."""
        new = density.sample(run.num_chains, seed=fold_in(seed, 0))
        own = posterior.unnormalized_log_prob(new) - density.log_prob(new)
        takes = log_uniform([run.num_chains], fold_in(seed, 1)) < own - log_weight
        return tf.where(takes[:, None], new, z), tf.where(takes, own, log_weight), takes

    @tf.function(autograph=False)
    def weigh(z):
        return posterior.unnormalized_log_prob(z) - density.log_prob(z)

    def jumps(z, seed):
        log_weight, states, moves = weigh(z), [], []
        for k in range(ROUND_STEPS):
            z, log_weight, takes = jump(z, log_weight, fold_in(seed, k))
            states.append(z.numpy())
            moves.append(takes.numpy())
        return np.stack(states), np.stack(moves)

    @tf.function(autograph=False, reduce_retracing=True)
    def train(z):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(density.log_prob(z))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def rounds(z, num, first, trains):
        states, moves, history = [], [], []
        for k in range(first, first + num):
            near = local(z, tf.constant([run.seed, 10 * k + 3])).numpy()
            history.append(near)
            if trains:
                rows = np.concatenate(history).reshape(-1, posterior.latent_dim)
                for _ in range(EPOCHS):
                    order = rng.permutation(len(rows))
                    for start in range(0, len(rows) - BATCH + 1, BATCH):
                        train(tf.constant(rows[order[start : start + BATCH]]))
            far, taken = jumps(tf.constant(near[-1]), tf.constant([run.seed, 10 * k + 4]))
            z = tf.constant(far[-1])
            history.append(far)
            states += [near, far]
            moves.append(taken)
        return z, np.concatenate(states), np.concatenate(moves)

    num = max(1, round(budget / (ROUND_STEPS * 1.45)))
    z = posterior.sample_prior(run.num_chains, tf.constant([run.seed, 1]))
    z, _, _ = rounds(z, NUM_ROUNDS, 0, trains=True)
    (_, kept_z, moves), seconds = timed(lambda: rounds(z, num, NUM_ROUNDS, trains=False))
    of_round = Cost((ROUND_STEPS + 1) * run.num_chains, (ROUND_STEPS + 1) * run.num_chains)
    kept, total = (Cost(*(count * part for part in of_round)) for count in (num, num + NUM_ROUNDS))
    accepted = np.ones(kept_z.shape[:2], bool)
    stats = {"global_accept_rate": float(moves.mean())}
    return Measured(as_draws(posterior, kept_z, accepted), kept, total, seconds / kept.work, stats)


def blackjax_mala(posterior, budget, run, python=sys.executable):
    """Run BlackJAX's mala by the interpreter `python`; half of its steps are discarded.

    Raises:
      ImportError: That interpreter lacks a package, or the target is a condition, which JAX does not have.
    """
    import tensorflow as tf

    from tfgradgen.core.contracts import Cost
    from tools.bench.bench_worker import network_arrays, write_shared

    if getattr(posterior.classifier, "of_log_probs", None):
        raise ImportError("conditions are not written in JAX")
    shared = {
        "label": int(posterior.label),
        "temperature": float(posterior.temperature),
        "latent_dim": posterior.latent_dim,
        "num_classes": int(posterior.classifier.num_classes),
        "step_size": MALA_STEP,
        "num_steps": 2 * budget,
        "seed": run.seed,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shared(folder, shared, network_arrays())
        np.save(folder / "start.npy", posterior.sample_prior(run.num_chains, tf.constant([run.seed, 1])).numpy())
        done = subprocess.run([python, "-m", "tools.bench.blackjax_draws", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ImportError((done.stderr.strip().splitlines() or ["it failed"])[-1][:200])
        stats = json.loads(done.stdout.splitlines()[-1])
        with np.load(folder / "draws.npz") as data:
            z, accepted = data["z"][budget:], data["is_accepted"][budget:]
    kept = Cost(budget * run.num_chains, 0)
    total = Cost(2 * kept.num_gradients + run.num_chains, 0)
    seconds = stats.pop("cpu_seconds") / (2 * kept.work)
    return Measured(as_draws(posterior, z, accepted), kept, total, seconds, stats)


BASELINES = {"tfp_hmc": tfp_hmc, "tfp_nuts": tfp_nuts, "flow": flow, "blackjax_mala": blackjax_mala}
