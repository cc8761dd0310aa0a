"""Measures what one program for many labels gains over a program for each label: the shipped models, `mala`, equal gradients.

Both ways draw the same numbers of chains and steps of each label, in turn, so that they have the same load of the machine. The
first round traces and optimizes the graphs, of which the batch has one and label by label has one for each. Seconds of the CPU
are those of this process: unlike wall clock, other programs hardly change them.

    python -m tools.bench.batch [--num_labels=20] [--num_chains=1,4,16] [--num_steps=20] [--repeats=3]
"""

import statistics
import time
from collections.abc import Callable

import fire
import numpy as np
import tensorflow as tf

import tfgradgen as tg
from tfgradgen.core.config import changed_config
from tfgradgen.core.contracts import Draws
from tfgradgen.posterior import ClassPosterior

STEP_SIZE = 0.4  # close to a tuned one; nothing is tuned here


def timed(fn: Callable[[], object]) -> np.ndarray:
    """Return the seconds of the clock and of the CPU that `fn` takes."""
    start, spent = time.monotonic(), time.process_time()
    fn()
    return np.array([time.monotonic() - start, time.process_time() - spent])


def main(num_labels: int = 20, num_chains: tuple[int, ...] = (1, 4, 16), num_steps: int = 20, repeats: int = 3) -> None:
    """Print, for each number of chains of a label, how many times the seconds of the batch the runs label by label take."""
    posterior = tg.ClassPosterior(tg.load_generator(), tg.load_classifier(), 0)
    config = changed_config(tg.SAMPLERS["mala"].defaults, {"step_size": STEP_SIZE})
    schedule = tg.Schedule(num_steps, 0, 0)
    print("| chains a label | first round: clock | CPU | further rounds: clock | CPU |\n|---|---|---|---|---|")
    for count in num_chains if isinstance(num_chains, list | tuple) else (num_chains,):
        rng = np.random.default_rng(0)
        z = rng.standard_normal((num_labels, count, posterior.latent_dim)).astype(np.float32)
        indices = np.arange(num_labels)
        batch = ClassPosterior.of(posterior.networks, np.repeat(indices, count))
        single = [ClassPosterior.of(posterior.networks, int(index)) for index in indices]

        def draw(target: ClassPosterior, starts: np.ndarray) -> Draws:
            run = tg.RunConfig(num_chains=len(starts))
            return tg.sample_chains(target, "mala", config, schedule, run, tf.constant(starts))[0]

        ways = {
            "labels": lambda: [draw(target, starts) for target, starts in zip(single, z, strict=True)],  # noqa: B023
            "batch": lambda: draw(batch, z.reshape(-1, z.shape[-1])),  # noqa: B023
        }
        ratios = []
        for number in range(1 + repeats):
            seconds = {name: timed(ways[name]) for name in sorted(ways, reverse=number % 2 == 1)}
            ratios.append(seconds["labels"] / seconds["batch"])
        later = [statistics.median(each) for each in zip(*ratios[1:], strict=True)]
        shown = [f"{value:.2f}" for value in (*ratios[0], *later)]
        low, high = min(ratio[1] for ratio in ratios[1:]), max(ratio[1] for ratio in ratios[1:])
        print(f"| {count} | {' | '.join(shown)} ({low:.2f} to {high:.2f}) |", flush=True)


if __name__ == "__main__":
    fire.Fire(main)
