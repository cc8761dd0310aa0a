"""Breaks the source in one place at a time and runs the tests of that place: each time, some must fail.

    python -m tools.mutations [--only=TEXT]

`--only` takes the mutations whose text contains it. They are made in a copy of the repository. The command prints a row for
each, and exits with 1 if the tests of one still pass.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import fire

from tools.gate import ONE_CORE, ROOT

LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "out", "work", "build")
COUNTS = re.compile(r"(\d+) (failed|passed|error)")


class Mutation(NamedTuple):
    """A change that breaks the source.

    Attributes:
      what: What is wrong after it.
      path: The file, relative to the root.
      before: Text that stands there once.
      after: What takes its place.
      tests: Arguments of pytest.
    """

    what: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "the temperature is ignored",
        "tfgradgen/posterior.py",
        "return self._of_class(of_each) / self.temperature",
        "return self._of_class(of_each)",
        ("tests/test_posterior.py",),
    ),
    Mutation(
        "mala keeps the drift of an earlier step size",
        "tfgradgen/mcmc/mala.py",
        "with_drift(previous_kernel_results.inner_results, step_size)",
        "previous_kernel_results.inner_results",
        ("tests/mcmc/test_single_kernels.py", "tests/mcmc/test_kernels.py", "-k", "mala"),
    ),
    Mutation(
        "elliptical_slice takes points that are less likely than its threshold",
        "tfgradgen/mcmc/elliptical_slice.py",
        "takes = ~now.is_found & (value > threshold)",
        "takes = ~now.is_found & (value > threshold - 1.0)",
        ("tests/mcmc/test_kernels.py", "-k", "elliptical_slice"),
    ),
    Mutation(
        "smc does not resample",
        "tfgradgen/mcmc/smc.py",
        "chosen = resample_systematic(np.exp(log_weight - total), offset)",
        "chosen = np.arange(len(log_weight))",
        ("tests/mcmc/test_smc.py",),
    ),
    Mutation(
        "rejection accepts by the probability of another class",
        "tfgradgen/mcmc/pool.py",
        "prob[:, : index + 1].sum(1)",
        "prob[:, :index].sum(1)",
        ("tests/mcmc/test_pool.py",),
    ),
    Mutation(
        "hvi takes its walk for the walk back",
        "tfgradgen/mcmc/hvi_path.py",
        "log_back = prior + tf.where(is_ahead, end.log_to, end.log_from)",
        "log_back = prior + tf.where(is_ahead, end.log_from, end.log_to)",
        ("tests/mcmc/test_hvi.py",),
    ),
    Mutation(
        "the smaller of two errors of a mean is given",
        "tfgradgen/diagnostics/convergence.py",
        "error = float(max(errors, default=0.0)) or None",
        "error = float(min(errors, default=0.0)) or None",
        ("tests/diagnostics/test_diagnostics.py",),
    ),
    Mutation(
        "a model may call functions that are not its own",
        "tfgradgen/models/loading/allowlist.py",
        "or not named <= functions:",
        "or False:",
        ("tests/models/test_allowlist.py",),
    ),
    Mutation(
        "the place of a row follows from its position in the request",
        "tfgradgen/serving/chains.py",
        "tf.math.floormod(rows.seed[:, 0] + rows.index, size)",
        "tf.math.floormod(tf.range(tf.size(rows.index)), size)",
        ("tests/serving/test_batched.py", "-k", "place"),
    ),
    Mutation(
        "all blocks of a run have its seed",
        "tfgradgen/engine/blocks.py",
        "return seed if number == 0 else seed_of(seed, BLOCK_SEED, number)",
        "return seed",
        ("tests/engine/test_blocks.py",),
    ),
    Mutation(
        "KID counts the distance of a row from itself",
        "tfgradgen/evaluation/distances.py",
        "within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]",
        "within = [k.mean() for k in (xx, yy)]",
        ("tests/evaluation/test_distances.py",),
    ),
    Mutation(
        "a resampled sound is late by a sample",
        "tfgradgen/media/resample.py",
        "padded = tf.pad(waveform, [[0, 0], [before, after]])",
        "padded = tf.pad(waveform, [[0, 0], [before + 1, after]])",
        ("tests/media/test_media.py",),
    ),
    Mutation(
        "the interval of a gain is too narrow",
        "tfgradgen/tuning/gain.py",
        "* logs.std(ddof=1) / np.sqrt(len(logs)))",
        "* logs.std(ddof=1) / len(logs))",
        ("tests/tuning",),
    ),
)


def broken(source: str, mutation: Mutation) -> str:
    """Return `source` after the mutation.

    Raises:
      ValueError: Its text does not stand there once.
    """
    if source.count(mutation.before) != 1:
        raise ValueError(f"{mutation.path}: expected {mutation.before!r} once, got it {source.count(mutation.before)} times")
    return source.replace(mutation.before, mutation.after)


def run(copy: Path, mutation: Mutation) -> dict[str, int]:
    """Run the tests of `mutation` in a copy of the repository, which is whole again afterwards; count them by outcome."""
    file = copy / mutation.path
    source = file.read_text(encoding="utf-8")
    file.write_text(broken(source, mutation), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *mutation.tests]
        environment = {**os.environ, **ONE_CORE, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        said = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, errors="replace")
    finally:
        file.write_text(source, encoding="utf-8")
    counts = {what: int(number) for number, what in COUNTS.findall(said.stdout.rstrip().rpartition("\n")[2])}
    if said.returncode not in (0, 1) or not counts:
        raise SystemExit(f"mutations: pytest {' '.join(mutation.tests)} did not run: {(said.stdout + said.stderr)[-500:]}")
    return counts


def main(only: str = "") -> None:
    """Print a row for each mutation whose text contains `only`."""
    chosen = [m for m in MUTATIONS if only in m.what]
    if not chosen:
        raise SystemExit(f"mutations: expected --only to be in the text of a mutation, got {only!r}; leave it out for all.")
    survived = []
    print("| what is wrong | file | tests that fail | that pass |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=LEFT_OUT))
        for mutation in chosen:
            counts = run(copy, mutation)
            failed = counts.get("failed", 0) + counts.get("error", 0)
            print(f"| {mutation.what} | {mutation.path} | {failed} | {counts.get('passed', 0)} |", flush=True)
            survived += [] if failed else [mutation.what]
    if survived:
        raise SystemExit(f"mutations: no test fails when {', '.join(survived)}; write one.")


if __name__ == "__main__":
    fire.Fire(main)
