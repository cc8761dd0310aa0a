"""Measures the effective sample size (ESS) per gradient of all kernels, on the shipped models or for growing dimension.

    python -m tools.bench.compare_kernels --work=work/kernels.json [--kernels=mala,hmc] [--baselines=True]
    python -m tools.bench.compare_kernels --work=work/rare.json --labels=pizza,orange --temperatures=0.5,1
    python -m tools.bench.compare_kernels --work=work/ladder.json --ladder --budget=1500 --num_chains=32

A column is a label or a condition, each with its own temperature. Each cell (kernel and column) is written into the file when
it is done, and not run again. Several processes may fill one file; it is for one budget, number of chains and seed.

The unit of work is a gradient; a forward pass counts as 0.45 gradients (measured on the shipped models on a CPU). The ESS is
(standard deviation / standard error)^2, averaged over p(class) and four projections of z. The standard error is the larger of
the one from autocorrelation and the one from the means of the chains. For independent draws it is their number.

The first figures leave out the prior draws of the starts, the burn-in and what a kernel learns; those "in all" count them. The
draws of `rejection` are as many as the budget's forward passes are expected to give, but at least one of each chain. Seconds
are CPU seconds of this process, and depend on the machine; compare their ratios. `hvi` runs with its setting `exact`.
`--baselines` adds other libraries (see `baselines`).
"""

import fcntl
import functools
import json
import sys
from pathlib import Path
from typing import Any

import fire
import numpy as np

# A class, another at a lower temperature, and a lighthouse by the sea: a composed condition.
LABELS, TEMPERATURES = "goldfish,water_tower,0.5*beacon & 0.5*seashore", "1,0.5,1"
SETTINGS = {"hvi": {"exact": True}}  # where they are not the defaults: without them, hvi's draws are approximate
DIMENSIONS = (32, 64, 128, 256, 512, 1024)
LADDER_KERNELS = ("hmc", "split_hmc")
NUM_FEATURES, STEEPNESS = 64, 6.0  # of the synthetic image, and of its classifier
KEPT_STATS = ("evidence", "learned", "fit", "step_size", "global_accept_rate", "leapfrogs", "num_adaptation_steps", "versions")


def synthetic_pair(latent_dim: int) -> "tuple[Any, Any]":
    """Return a generator z [B, latent_dim] -> image [B, 8, 8, 1] with one random layer, and a linear classifier."""
    import tensorflow as tf

    rng = np.random.default_rng(latent_dim)
    mixing = tf.constant(rng.standard_normal((latent_dim, NUM_FEATURES)) / np.sqrt(latent_dim), tf.float32)
    weights = tf.constant(STEEPNESS * rng.standard_normal((NUM_FEATURES, 2)) / np.sqrt(NUM_FEATURES), tf.float32)

    class Generator:
        def __init__(self):
            self.latent_dim = latent_dim

        def __call__(self, z):
            return tf.reshape(tf.tanh(2.0 * z @ mixing), [-1, 8, 8, 1])

    class Classifier:
        num_classes = 2

        def __call__(self, image):
            return tf.reshape(image, [-1, NUM_FEATURES]) @ weights

    return Generator(), Classifier()


def make_synthetic(latent_dim):
    """Return the posterior of a class of the synthetic pair."""
    from tfgradgen import ClassPosterior

    return ClassPosterior(*synthetic_pair(latent_dim), 1)


def worst_rhat(draws):
    """Return the largest R-hat of `draws`; None if there is none."""
    from tfgradgen.diagnostics.convergence import statistics

    return max((c.rhat for c in statistics(draws).values() if c.rhat is not None), default=None)


def schedule_of(method, config, budget, posterior=None, run=None):
    """Return a schedule with about `budget` gradients' work per chain for the kept draws, after the kernel's own burn-in."""
    from tfgradgen import Schedule
    from tfgradgen.core.contracts import FORWARD_COST

    if method.kind == "exact" and posterior is not None:
        share = prior_mass(posterior, run)
        return Schedule(max(1, round(budget * share / FORWARD_COST)), 0, 0)
    if not method.takes_starts and method.kind != "fitted":
        return method.schedule
    num_results = max(4, round(budget / method.cost_fn(config).work))
    return Schedule(num_results, method.schedule.num_burnin_steps, method.schedule.num_adaptation_steps)


def prior_mass(posterior, run):
    """Return the mean likelihood of the prior draws among which the chains' starts are chosen."""
    from tfgradgen.mcmc.pool import pool_of, weigh

    draws = pool_of(posterior, run).draws(0, run.num_chains * run.num_init_draws)
    return float(np.exp(weigh(posterior, draws, run).log_weight).mean())


def seconds_of_forward(posterior, run):
    """Return the CPU seconds of a forward pass, as a pool makes it, of points that no pool keeps."""
    from tfgradgen.mcmc.pool import CHUNK, pool_of
    from tools.bench.baselines import timed

    pool, z = pool_of(posterior, run), np.random.default_rng(0).standard_normal((CHUNK, posterior.latent_dim), np.float32)
    pool.scores(z)
    return timed(lambda: pool.scores(z))[1] / CHUNK


def run_kernel(posterior, method, config, schedule, run):
    """Run one kernel; return it `Measured`, whose seconds are the median over chunks, since the first one is compiled."""
    from tfgradgen.core.contracts import FORWARD_COST, Cost, Draws
    from tools.bench.baselines import Measured, timed

    chunks = method.chunks_fn(posterior, config, schedule, run, None)
    seconds, spent, kept, cost, stats = [], Cost(0, 0), [], Cost(0, 0), {}
    while True:
        chunk, taken = timed(lambda: next(chunks, None))
        if chunk is None:
            break
        more = Cost(*np.subtract(chunk.cost, cost).tolist())
        is_drawing = len(chunk.draws.class_prob) if method.takes_starts or method.kind == "fitted" else True
        if is_drawing:
            kept.append(chunk.draws)
            seconds.append(taken / more.work)
            spent = Cost(*np.add(spent, more).tolist())
        cost, stats = chunk.cost, chunk.stats
    draws = Draws(*map(np.concatenate, zip(*kept, strict=True)))
    if method.kind == "exact":  # some of its prior draws may have been evaluated before
        seconds = [seconds_of_forward(posterior, run) / FORWARD_COST]
    return Measured(draws, spent, cost, float(np.median(seconds)), stats)


def figures(measured, is_exact=False):
    """Return the figures of a cell."""
    from tfgradgen.core.contracts import accept_prob
    from tfgradgen.diagnostics.convergence import convergence
    from tfgradgen.evaluation.efficiency import mean_ess

    draws, spent = measured.draws, measured.kept
    size = draws.class_prob.size if is_exact else mean_ess(draws)
    prob = convergence(draws.class_prob, independent=is_exact)
    return {
        "draws": draws.class_prob.size,
        "effective": float(size),
        "num_gradients": spent.num_gradients,
        "num_forward": spent.num_forward,
        "per_1000_gradients": 1000 * size / spent.work,
        "work_in_all": measured.total.work,
        "per_1000_in_all": 1000 * size / measured.total.work,
        "per_second": size / (measured.seconds * spent.work),
        "accept_rate": float(accept_prob(draws).mean()),
        "rhat": worst_rhat(draws),
        "class_prob": float(draws.class_prob.mean()),
        "class_prob_error": prob.standard_error,
        "stats": {name: measured.stats.get(name) for name in KEPT_STATS if name in measured.stats},
    }


def show(cells, columns):
    """Print one row per kernel: its figures for each of `columns`."""
    kernels = list(dict.fromkeys(name.partition(" ")[0] for name in cells))
    columns = [c for c in columns if any(name.partition(" ")[2] == c for name in cells)]
    print("| kernel | " + " | ".join(f"{c}: ESS per 1000 | in all | per second | R-hat | mean p" for c in columns) + " |")
    print("|" + "---|" * (1 + 5 * len(columns)))
    for kernel in kernels:
        row = [kernel]
        for column in columns:
            cell = cells.get(f"{kernel} {column}")
            if cell is None:
                row += ["-"] * 5
                continue
            base = cells.get(f"mala {column}", cell)["per_second"]
            rhat, error = cell["rhat"] or np.nan, cell["class_prob_error"] or np.nan
            row += [f"{cell[key]:.1f}" for key in ("per_1000_gradients", "per_1000_in_all")]
            row += [f"{cell['per_second'] / base:.2f}", f"{rhat:.2f}", f"{cell['class_prob']:.3f} +- {error:.3f}"]
        print("| " + " | ".join(row) + " |")


def read(path, asked):
    """Return the cells in the file; raise SystemExit if one was `asked` with another budget, number of chains or seed."""
    cells = json.loads(path.read_text()) if path.exists() else {}
    for name, cell in cells.items():
        if cell.get("asked", asked) != asked:
            got = f"got {cell['asked']} ({name})"
            raise SystemExit(f"compare_kernels: expected cells of {asked} in {path}, {got}: give another file.")
    return cells


def write(path, name, cell):
    """Add a cell to the file, which other processes may have written to; return all its cells."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cells = read(path, cell["asked"]) | {name: cell}
        path.with_suffix(".new").write_text(json.dumps(cells, indent=1))
        path.with_suffix(".new").replace(path)
    return cells


def main(
    work,
    labels=LABELS,
    temperatures=None,
    kernels=None,
    baselines=False,
    ladder=False,
    budget=300,
    num_chains=16,
    seed=0,
    python=sys.executable,
):
    """Fill the table in the file `work` and print it.

    Args:
      work: The file, JSON.
      labels: Labels and conditions, separated by commas.
      temperatures: One for each of them; 1 by default, or those of the default labels.
      kernels: Names of kernels and of baselines; all kernels that draw by default.
      baselines: Whether to add all baselines.
      ladder: Whether to measure `hmc` and `split_hmc` on synthetic models of growing dimension instead.
      budget: Gradients' work per chain for the kept draws.
      num_chains: Number of chains.
      seed: Seed of all runs.
      python: The interpreter that has BlackJAX.
    """
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tfgradgen import ClassPosterior, RunConfig, load_classifier, load_generator
    from tfgradgen.core.config import changed_config
    from tfgradgen.mcmc.registry import SAMPLERS
    from tools.bench.baselines import BASELINES

    path = Path(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = {"budget": budget, "num_chains": num_chains, "seed": seed}
    cells = read(path, asked)
    names = lambda text: list(text) if isinstance(text, tuple | list) else str(text).split(",")  # noqa: E731
    if ladder:
        targets = {str(d): functools.partial(make_synthetic, d) for d in DIMENSIONS}
        wanted = list(LADDER_KERNELS)
    else:
        wanted = names(kernels) if kernels else [name for name, m in SAMPLERS.items() if m.kind != "ascent"]
        wanted += [name for name in BASELINES if baselines and name not in wanted]
        generator, classifier, labels = load_generator(), load_classifier(), names(labels)
        given = names(
            TEMPERATURES if temperatures is None and labels == names(LABELS) else temperatures or ("1",) * len(labels)
        )
        if len(given) != len(labels):
            raise SystemExit(f"temperatures: expected {len(labels)}, one for each label, got {len(given)}: give as many")
        targets = {
            label if float(t) == 1 else f"{label} at temperature {float(t):g}": functools.partial(
                ClassPosterior, generator, classifier, label, temperature=float(t)
            )
            for label, t in zip(labels, given, strict=True)
        }
    run = RunConfig(num_chains=num_chains, seed=seed)
    for column, make in targets.items():
        posterior = make()
        for name in wanted:
            if f"{name} {column}" in cells:
                continue
            if name in BASELINES:
                options = {"python": python} if name == "blackjax_mala" else {}
                try:
                    cell = figures(BASELINES[name](posterior, budget, run, **options))
                except ImportError as error:
                    print(f"{name} {column}: left out, {error}", file=sys.stderr, flush=True)
                    continue
            else:
                method = SAMPLERS[name]
                config = changed_config(method.defaults, SETTINGS.get(name, {}))
                schedule = schedule_of(method, config, budget, posterior, run)
                cell = figures(run_kernel(posterior, method, config, schedule, run), method.kind == "exact")
                cell |= {"schedule": schedule.to_dict(), "config": config.to_dict()}
            cells = write(path, f"{name} {column}", cell | {"asked": asked})
            print(f"{name} {column}: ESS {cell['per_1000_gradients']:.1f} per 1000 gradients", file=sys.stderr, flush=True)
    show(cells, list(targets))


if __name__ == "__main__":
    fire.Fire(main)
