"""Measures the effective sample size (ESS) per gradient of all kernels, on the shipped models or for growing dimension.

    python -m tools.bench.compare_kernels --work=work/kernels.json [--labels=goldfish,monarch,beacon,pizza] [--kernels=mala,hmc]
    python -m tools.bench.compare_kernels --work=work/ladder.json --ladder --budget=1500 --num_chains=32

Each cell (kernel and label, or kernel and dimension) is written into the file when it is done, and not run again. The unit of
work is a gradient; a forward pass counts as 0.45 gradients (measured on the shipped models on a CPU). The ESS is (standard
deviation / standard error)^2, averaged over p(class) and four projections of z. The standard error is the larger of the one
from autocorrelation and the one from the means of the chains. The kernel's own burn-in counts neither as draws nor as work.
Seconds depend on the machine; compare their ratios.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import fire
import numpy as np

LABELS = "goldfish,monarch,beacon,pizza"
DIMENSIONS = (32, 64, 128, 256, 512, 1024)
LADDER_KERNELS = ("hmc", "split_hmc")
NUM_FEATURES, STEEPNESS = 64, 6.0  # of the synthetic image, and of its classifier


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


def worst_rhat(draws):
    """Return the largest R-hat of `draws`; None if there is none."""
    from tfgradgen.diagnostics.convergence import statistics

    return max((c.rhat for c in statistics(draws).values() if c.rhat is not None), default=None)


def schedule_of(method, budget):
    """Return a schedule with about `budget` gradients per chain for the kept draws, after the kernel's own burn-in."""
    from tfgradgen import Schedule

    if not method.takes_starts:
        return method.schedule
    cost = method.cost_fn(method.defaults)
    num_results = max(4, round(budget / cost.work))
    return Schedule(num_results, method.schedule.num_burnin_steps, method.schedule.num_adaptation_steps)


def measure(posterior, method, schedule, run):
    """Run one cell and return its measurements."""
    from tfgradgen.core.contracts import Cost, Draws, accept_prob
    from tfgradgen.evaluation.efficiency import mean_ess

    chunks = method.chunks_fn(posterior, method.defaults, schedule, run, None)
    seconds, spent, kept, cost, stats = [], Cost(0, 0), [], Cost(0, 0), {}
    while True:
        start = time.monotonic()
        chunk = next(chunks, None)
        if chunk is None:
            break
        more = Cost(*np.subtract(chunk.cost, cost).tolist())
        if chunk.progress.num_done > schedule.num_burnin_steps or not schedule.num_burnin_steps:
            kept.append(chunk.draws)
            seconds.append((time.monotonic() - start) / more.work)
            spent = Cost(*np.add(spent, more).tolist())
        cost, stats = chunk.cost, chunk.stats
    draws = Draws(*map(np.concatenate, zip(*kept, strict=True)))
    size = mean_ess(draws)
    return {
        "draws": draws.class_prob.size,
        "effective": size,
        "num_gradients": spent.num_gradients,
        "num_forward": spent.num_forward,
        "per_1000_gradients": 1000 * size / spent.work,
        # The median, because the first chunk includes compilation.
        "per_second": size / float(np.median(seconds) * spent.work),
        "accept_rate": float(accept_prob(draws).mean()),
        "rhat": worst_rhat(draws),
        "class_prob": float(draws.class_prob.mean()),
        "evidence": stats.get("evidence"),
    }


def show(cells, columns):
    """Print one row per kernel: means over `columns`, and the ESS per 1000 gradients for each of them."""
    kernels = list(dict.fromkeys(name.split()[0] for name in cells))
    columns = [c for c in columns if any(name.split()[1] == str(c) for name in cells)]
    heads = [
        "kernel",
        "ESS per 1000 gradients",
        "per second, mala = 1",
        "acceptance",
        "worst R-hat",
        *map(str, columns),
    ]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    mean = lambda kernel, key: np.mean([cells[f"{kernel} {c}"][key] for c in columns if f"{kernel} {c}" in cells])  # noqa: E731
    base = mean("mala", "per_second") if "mala" in kernels else mean(kernels[0], "per_second")
    for kernel in kernels:
        rhats = [cells[f"{kernel} {c}"]["rhat"] or np.nan for c in columns if f"{kernel} {c}" in cells]
        own = [f"{cells[f'{kernel} {c}']['per_1000_gradients']:.1f}" if f"{kernel} {c}" in cells else "-" for c in columns]
        figures = (f"{mean(kernel, 'per_1000_gradients'):.1f}", f"{mean(kernel, 'per_second') / base:.2f}")
        row = [kernel, *figures, f"{mean(kernel, 'accept_rate'):.2f}", f"{max(rhats):.2f}", *own]
        print("| " + " | ".join(row) + " |")


def main(work, labels=LABELS, kernels=None, ladder=False, budget=300, num_chains=16, seed=0):
    """Fill the table in the file `work` and print it."""
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tfgradgen import ClassPosterior, RunConfig, load_classifier, load_generator
    from tfgradgen.mcmc.registry import SAMPLERS
    from tfgradgen.models.labels import resolve_labels

    path = Path(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = json.loads(path.read_text()) if path.exists() else {}
    names = lambda text: list(text) if isinstance(text, tuple | list) else str(text).split(",")  # noqa: E731
    if ladder:
        columns, wanted = [str(d) for d in DIMENSIONS], list(LADDER_KERNELS)
        posterior_of = lambda column: ClassPosterior(*synthetic_pair(int(column)), 1)  # noqa: E731
    else:
        columns = names(labels)
        wanted = names(kernels) if kernels else [name for name, m in SAMPLERS.items() if m.kind not in ("ascent", "fitted")]
        generator, classifier = load_generator(), load_classifier()
        index = lambda column: resolve_labels(classifier.labels, column)[0]  # noqa: E731
        posterior_of = lambda column: ClassPosterior(generator, classifier, index(column))  # noqa: E731
    for name in wanted:
        for column in columns:
            if f"{name} {column}" in cells:
                continue
            schedule = schedule_of(SAMPLERS[name], budget)
            cell = measure(posterior_of(column), SAMPLERS[name], schedule, RunConfig(num_chains=num_chains, seed=seed))
            cells[f"{name} {column}"] = cell | {"schedule": schedule.to_dict(), "config": SAMPLERS[name].defaults.to_dict()}
            path.with_suffix(".new").write_text(json.dumps(cells, indent=1))
            path.with_suffix(".new").replace(path)
            print(f"{name} {column}: ESS {cell['per_1000_gradients']:.1f} per 1000 gradients", file=sys.stderr, flush=True)
    show(cells, columns)


if __name__ == "__main__":
    fire.Fire(main)
