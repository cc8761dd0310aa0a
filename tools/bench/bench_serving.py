"""Times requests to an export per image, with TensorFlow's loader (that of the server), without network and queue.

    python -m tools.bench.bench_serving [--export=BASE/VERSION] [--label=goldfish] [--batch_sizes=1,4,16] [--repeats=5]
                                  [--threads=2] [--clock=wall]
    python -m tools.bench.bench_serving --batched=4,16,64 [--num_steps=4] [--repeats=5] [--threads=2] [--clock=wall]

Without --export the shipped models are exported first. Each batch size is timed in its own process, so that its first call
prepares the graph, as the warm-up requests do in a server. Seconds depend on the machine; compare the ratios.
`--threads=1 --clock=cpu` measures CPU seconds of one thread, which are comparable even on a busy machine.

With --batched it compares, for each of these sizes, a request of as many rows to `continue` and to `continue_batched`: chains
of the shipped models without the choice of a start, which is the same for both. The two take turns, in one process.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fire

from tools.bench.bench import CLOCKS, ROOT, spread, table

TICKS = {"wall": time.monotonic, "cpu": time.process_time}


def measure(job):
    """Return the seconds for loading, per image in the first call, and per image in later calls."""
    export, label, size, repeats, clock = job
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    def seconds_of(fn):
        start = TICKS[clock]()
        result = fn()
        return TICKS[clock]() - start, result

    loading, module = seconds_of(lambda: tf.saved_model.load(export))
    served, calls = module.signatures["serving_default"], []
    for call in range(1 + repeats):
        seeds = tf.range(call * size, (call + 1) * size, dtype=tf.int64)
        seconds, _ = seconds_of(lambda: served(label=tf.fill([size], label), seed=seeds)["image_bytes"].numpy())  # noqa: B023
        calls.append(seconds / size)
    return loading, calls[0], calls[1:]


def show(export, label, batch_sizes, repeats, clock):
    """Print the table."""
    rows, base = [], None
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for size in batch_sizes:
            loading, first, later = pool.apply(measure, ((str(export), str(label), size, repeats, clock),))
            base = base or statistics.median(later)
            ratios = f"{first / base:.2f}", spread([seconds / base for seconds in later])
            rows.append((size, f"{loading:.2f}", f"{first:.2f}", f"{statistics.median(later):.2f}", *ratios))
    head = ("batch", "loading", "first call, per image", "later calls, per image")
    table((*head, f"first call, relative to later calls of batch {batch_sizes[0]}", "later calls, relative to these"), rows)


def compare_batched(label, sizes, num_steps, repeats, clock):
    """Print images per second, row by row and together."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    from tfgradgen.core.contracts import Networks
    from tfgradgen.models.classifier import load_classifier
    from tfgradgen.models.generator import load_generator
    from tfgradgen.serving.chains import Plan
    from tfgradgen.serving.module import Serving

    generator, classifier = load_generator(), load_classifier()
    index = next(k for k, each in enumerate(classifier.labels) if each.name == label)
    rows = []
    for size in sizes:
        plan = Plan((classifier.labels[index],), (index,), (0.4,), 1, 1.0, num_steps, num_steps, 1, batched=size)
        signatures = Serving(Networks(generator, classifier), [], plan).signatures()
        seconds: dict[str, list[float]] = {"continue": [], "continue_batched": []}
        for call in range(1 + repeats):
            for name, found in seconds.items():
                seeds = tf.range(call * size, (call + 1) * size, dtype=tf.int64)
                z = tf.random.stateless_normal([size, generator.latent_dim], [call, size])
                start = TICKS[clock]()
                signatures[name](label=tf.fill([size], label), seed=seeds, num_steps=tf.fill([size], num_steps), z=z)
                found.append((TICKS[clock]() - start) / size)
        alone, together = (found[1:] for found in seconds.values())  # the first call prepares the graph
        ratios = [a / b for a, b in zip(alone, together, strict=True)]
        rows.append((size, f"{1 / statistics.median(alone):.2f}", f"{1 / statistics.median(together):.2f}", spread(ratios)))
    table(("rows", "row by row, images per second", "together", "together, relative to row by row"), rows)


def sizes_of(given):
    """Return the sizes of a flag."""
    return (given,) if isinstance(given, int) else tuple(given)


def main(export="", label="goldfish", batch_sizes=(1, 4, 16), repeats=5, threads=2, clock="wall", batched=(), num_steps=4):
    """Print one table with a row for each batch size."""
    sizes = sizes_of(batch_sizes)
    if clock not in CLOCKS:
        raise SystemExit(f"bench_serving: expected --clock to be one of {', '.join(CLOCKS)}, got {clock!r}; give one of these.")
    if export and not Path(export, "saved_model.pb").is_file():
        raise SystemExit(f"bench_serving: expected --export=BASE/VERSION, got {export!r}; give the folder of a version.")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # TensorFlow uses as many threads as there are cores
    if batched:
        return compare_batched(label, sizes_of(batched), num_steps, repeats, clock)
    if export:
        return show(Path(export).absolute(), label, sizes, repeats, clock)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfgradgen", "export", f"--labels={label}", f"--out={folder}/shipped"]
        subprocess.run(command, check=True, cwd=ROOT)
        return show(Path(folder, "shipped", "1"), label, sizes, repeats, clock)


if __name__ == "__main__":
    fire.Fire(main)
