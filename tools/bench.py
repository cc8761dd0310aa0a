"""What the main command costs, part by part, and what the sampler adds to the bare gradient. All in one run:

    python tools/bench.py [--label=goldfish] [--num_chains=16]

Seconds depend on the machine; the shares and ratios are what to compare.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire


def timed(parts, name, fn):
    start = time.monotonic()
    result = fn()
    parts[name] = time.monotonic() - start
    return result


def show(title, parts, total):
    print(f"\n| {title} | seconds | share |\n|---|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.2f} | {seconds / total:.2f} |")


def whole_command(label, kernel):
    """Wall seconds and peak memory in GB of the command with its defaults, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        before = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "tfgradgen", "sample", f"--label={label}", f"--kernel={kernel}", f"--out={folder}/run"],
            check=True,
            capture_output=True,
        )
        seconds = time.monotonic() - before
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def main(label="goldfish", num_chains=16, repeats=5):
    """Prints three tables: the parts of a mala run, the whole commands, the sampler against the bare gradient."""
    parts: dict[str, float] = {}

    def start():
        from tfgradgen.cli.quiet import start_tensorflow

        start_tensorflow()

    timed(parts, "importing TensorFlow and TFP", start)
    import numpy as np
    import tensorflow as tf

    import tfgradgen as tg
    from tfgradgen.cli.options import default_model
    from tfgradgen.models.labels import resolve_labels

    models = timed(
        parts,
        "loading the models",
        lambda: (tg.load_generator(default_model("generator")), tg.load_classifier(default_model("classifier"))),
    )
    posterior = tg.ClassPosterior(*models, resolve_labels(models[1].labels, label)[0])
    run = tg.RunConfig(num_chains=num_chains)
    z = timed(parts, "choosing the starts", lambda: tg.initial_points(posterior, run)[0])
    mala = tg.KERNELS["mala"]
    draw = lambda steps, family=mala: tg.sample_chains(  # noqa: E731
        posterior, family.name, family.defaults, tg.Schedule(steps, 0, 0), run, z
    )
    timed(parts, "tracing and optimizing the graph, and 20 steps", lambda: draw(20))
    steps = mala.schedule.num_steps - 20
    timed(parts, f"{steps} further steps", lambda: draw(steps))
    show(f"parts of `sample --kernel=mala`, {num_chains} chains", parts, sum(parts.values()))

    print("\n| whole command, defaults | seconds | peak memory of the largest so far, GB |\n|---|---|---|")
    for kernel in (*tg.KERNELS, "rejection"):
        seconds, memory = whole_command(label, kernel)
        print(f"| {kernel} | {seconds:.1f} | {memory:.2f} |")

    @tf.function(autograph=False)
    def bare(z, num_steps):
        def step(i, z, total):
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = posterior.unnormalized_log_prob(z)
            return i + 1, z + 1e-6 * tape.gradient(value, z), total + tf.reduce_sum(value)

        return tf.while_loop(lambda i, *_: i < num_steps, step, (0, z, 0.0), parallel_iterations=1)

    # Interleaved, so that both meet the same load of the machine; medians over the repeats.
    ratios: dict[str, list[float]] = {family.name: [] for family in tg.KERNELS.values()}
    for family in tg.KERNELS.values():
        draw(8, family)
    bare(z, tf.constant(2))
    for _ in range(repeats):
        for family in tg.KERNELS.values():
            gradients = 40
            costs: dict[str, float] = {}
            timed(costs, "bare", lambda: bare(z, tf.constant(gradients)))  # noqa: B023
            timed(costs, "kernel", lambda: draw(gradients // family.defaults.num_leapfrog_steps, family))  # noqa: B023
            ratios[family.name].append(costs["kernel"] / costs["bare"])
    print("\n| kernel | seconds a gradient over those of the bare value and gradient, median | least to most |\n|---|---|---|")
    for name, values in ratios.items():
        print(f"| {name} | {np.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    fire.Fire(main)
