"""Measures the compiled samplers on a GPU, by XLA programs that tools/device/export_programs.py wrote.

    python -m tools.device.measure_sampler [--folder=device_in] [--out=device_out] [--seconds=300] [--wait_for=FILE]

It needs JAX and NumPy. The parts `torch` and `blackjax` also need the packages of the extra `bench`, and SciPy. Each part runs
in a process of its own, with its own share of the time, so that none can take down or slow another. The parts, most important
first:

- programs: the programs against the references, and the seconds of a gradient;
- precision: the same programs with products in TF32 and bfloat16, and with gradients in bfloat16;
- errors: how far log densities and gradients in lower precision are from float32;
- torch: the bare value and gradient in PyTorch;
- blackjax: the bare value and gradient in JAX, and BlackJAX's kernels;
- large: the pair of the size of BigGAN-deep-128.

With `--wait_for`, all parts compile at once beside another program that uses the GPU. They measure, one after the other, when
that program has written FILE.

All records go to `records.jsonl` as they come, then to `measures.json`. A table is printed last.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from tools.device.arrays import read_weights

SHARES = {
    "programs": 0.45,
    "precision": 0.5,
    "errors": 0.2,
    "torch": 0.5,
    "blackjax": 0.5,
    "large": 1.0,
}  # of the time that is left
COMPILE_SHARE = 0.7  # of the time of a part, after which what is compiled is timed
TOLERANCE = 10  # times the difference of two ways to compute on a CPU
STEP_TOLERANCE = 1e-3  # of the scale, for the median chain after one transition
FLOOR = 16 * np.finfo(np.float32).eps  # smallest relative tolerance: the two CPU results can agree by chance
# Of a timing. Tests set MEASURE_QUICKLY.
MIN_SECONDS, MIN_REPEATS = (0.0, 1) if "MEASURE_QUICKLY" in os.environ else (float(os.environ.get("MEASURE_SECONDS", 1.0)), 3)
CHUNK_SECONDS = 2.0  # a chunk that takes longer is timed with fewer transitions, and repeated less
LOWERED_CHAINS = 256  # number of chains at which precisions are compared first
KERNELS = ("mala", "hmc")


class Recorder:
    """Writes records, and knows how much time is left.

    Args:
      path: File of the records.
      seconds: Time of this part.
      turn: A file. The time starts when it exists, and is what it holds instead of `seconds`.
    """

    def __init__(self, path: Path, seconds: float, turn: Path | None = None):
        self.path, self.turn, self.end = path, turn, time.monotonic() + seconds

    def is_waiting(self) -> bool:
        """Return whether it is another part's turn, or the GPU's user's."""
        if self.turn and self.turn.exists():
            self.end, self.turn = time.monotonic() + float(self.turn.read_text(encoding="utf-8")), None
        return self.turn is not None

    def wait(self) -> None:
        """Return when it is this part's turn."""
        while self.is_waiting():
            time.sleep(0.05)

    def left(self) -> float:
        return float("inf") if self.is_waiting() else self.end - time.monotonic()

    def put(self, kind: str, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **values}, default=float) + "\n")
        print(kind, " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()), flush=True)

    @contextlib.contextmanager
    def guarded(self, what: str) -> Any:
        """Record a failure of the block, which does not end the part."""
        try:
            yield
        except Exception as error:  # each library has its own errors
            traceback.print_exc()
            self.put("failed", what=what, error=f"{type(error).__name__}: {str(error)[:300]}")

    def is_over(self, what: str, needed: float = 0.0) -> bool:
        """Return whether less than `needed` seconds are left, and record that `what` was left out."""
        if self.left() > needed:
            return False
        self.put("skipped", what=what, why="time is over")
        return True


def median_seconds(run: Any, recorder: Recorder) -> tuple[float, int]:
    """Return the median seconds of `run()`, which waits for its results, and the number of repeats; one warm-up is left out."""
    run()
    times: list[float] = []
    start = time.monotonic()
    while not times or time.monotonic() - start < (MIN_SECONDS if len(times) >= MIN_REPEATS else CHUNK_SECONDS):
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
        if recorder.left() < 0:
            break
    return statistics.median(times), len(times)


def compiled_programs(folder: Any, jobs: list[tuple[str, str]], recorder: Recorder) -> Any:
    """Yield the programs of `jobs`, (name, precision), as they are compiled in parallel, with their precision."""
    from tools.device.programs import Program

    pool = ThreadPoolExecutor(max(1, min(len(jobs), (os.cpu_count() or 2) // 2)))
    futures = {pool.submit(Program, folder, *job): job for job in jobs}
    pending, end = set(futures), float("inf")
    try:
        while pending and time.monotonic() < end:
            done, pending = wait(pending, 0.2, FIRST_COMPLETED)
            for future in done:
                name, precision = futures[future]
                with recorder.guarded(f"compiling {name} {precision}"):
                    program = future.result()
                    recorder.put("compiled", program=name, precision=precision, seconds=program.compile_seconds)
                    yield program, precision
            if end == float("inf") and not recorder.is_waiting():
                end = time.monotonic() + max(1.0, COMPILE_SHARE * recorder.left())
        for future in pending:
            why = "compiling takes too long; it goes on beside the timings"
            recorder.put("skipped", what=" ".join(futures[future]), why=why)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def is_wanted(num_chains: int) -> bool:
    """Return whether programs for this number of chains are measured."""
    return num_chains <= int(os.environ.get("DEVICE_MAX_CHAINS", num_chains))


def measure_peaks(recorder: Recorder) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in each precision, as measured once."""
    import jax

    found = [json.loads(line) for line in recorder.path.read_text(encoding="utf-8").splitlines()]
    peaks = {record["precision"]: record["tflops"] * 1e12 for record in found if record["kind"] == "peak"}
    if len(peaks) == 3:
        return peaks
    size = 8192 if jax.default_backend() == "gpu" else 512
    x = jax.random.normal(jax.random.key(0), (size, size))
    for name, dtype, precision in (
        ("float32", "f4", "highest"),
        ("tf32", "f4", "default"),
        ("bfloat16", "bfloat16", "default"),
    ):
        with recorder.guarded(f"peak {name}"):
            a = x.astype(dtype)
            product = jax.jit(functools.partial(jax.numpy.matmul, precision=precision))
            seconds, _ = median_seconds(lambda: product(a, a).block_until_ready(), recorder)  # noqa: B023
            peaks[name] = 2 * size**3 / seconds
            recorder.put("peak", precision=name, tflops=peaks[name] / 1e12)
    return peaks


def compare(recorder: Recorder, what: str, ours: Any, xla: Any, native: Any) -> None:
    """Record how far `ours` is from the CPU result `xla`, and whether that is within the tolerance.

    The tolerance is `TOLERANCE` times the largest difference of `xla` and `native`, which round in other orders.
    """
    ours, xla, native = (np.asarray(a, np.float64) for a in (ours, xla, native))
    finite = np.isfinite(xla)
    same_finite = bool((np.isfinite(ours) == finite).all())
    worst = lambda a: float(np.abs(a - xla)[finite].max(initial=0.0))  # noqa: E731
    scale = float(np.abs(xla[finite]).max(initial=0.0))
    tolerance = TOLERANCE * worst(native) + FLOOR * scale
    is_same = bool(same_finite and worst(ours) <= tolerance)
    values = dict(difference=worst(ours), tolerance=tolerance, cpu_difference=worst(native), scale=scale)
    recorder.put("bits", what=what, ok=is_same, equal=bool(worst(ours) == 0), **values)


def check_programs(recorder: Recorder, folder: Any, key: str, bootstrap: Any, chunk: Any) -> None:
    """Compare the outputs of `bootstrap` and `chunk` with the references of kernel `key`."""
    reference = lambda way, *names: folder.reference["/".join([key, way, *map(str, names)])]  # noqa: E731
    z = folder.inputs["shipped/z"][: chunk.about["chains"]]
    results = bootstrap.run(bootstrap.arguments(z))
    for k, leaf in enumerate(results):
        xla, native = (reference(way, "bootstrap", k) for way in ("xla", "native"))
        if xla.dtype == np.float32 and xla.ndim and len(xla) == len(z):  # log densities, gradients, and what follows from them
            compare(recorder, f"{key} start leaf {k} {list(xla.shape)}", leaf, xla, native)
    counts = sorted(
        {int(name.split("/")[2]) for name in folder.reference if name.startswith(f"{key}/xla/") and name[-4:] == "cost"}
    )
    for count in counts:
        found = chunk.chunk(chunk.arguments(z, results, count))
        traces = {name: np.asarray(found[name])[:count] for name in chunk.kernel["traces"]}
        flips = np.argwhere((traces["is_accepted"] != reference("xla", count, "is_accepted")).any(0)).ravel()
        recorder.put("decisions", what=f"{key} {count} steps", chains=len(z), other_than_cpu=len(flips))
        same = np.setdiff1d(np.arange(len(z)), flips)  # a decision next to its threshold may differ
        recorder.put(
            "cost", what=f"{key} {count} steps", ok=bool((np.asarray(found["cost"]) == reference("xla", count, "cost")).all())
        )
        for name in ("z", "target_log_prob", "class_prob", "log_accept_ratio"):
            apart = (
                np.abs(traces[name][-1].astype(np.float64) - reference("xla", count, name)[-1]).reshape(len(z), -1).max(1)[same]
            )
            # Most chains stay close. Where the density is steep, rounding grows to any size within a transition.
            values = dict(median=float(np.median(apart)), worst=float(apart.max(initial=0.0)), flips=len(flips))
            recorder.put("drift", what=f"{key} {count} steps {name}", **values)
            if count == 1 and name != "log_accept_ratio":
                scale = float(np.abs(reference("xla", 1, name)).max())
                close, limit = float(np.median(apart)), STEP_TOLERANCE * scale
                values = dict(difference=close, tolerance=limit, scale=scale)
                recorder.put("bits", what=f"{key} first step, median of {name}", ok=close <= limit, equal=close == 0, **values)


def time_chunk(recorder: Recorder, folder: Any, chunk: Any, bootstrap: Any, precision: str, flop: float, peaks: Any) -> None:
    """Record the seconds of a gradient, the share of the peak, and the acceptance of one chunk."""
    from tools.device.programs import start_of

    key, chains = chunk.about["kernel"], chunk.about["chains"]
    z, results = start_of(bootstrap, chunk)
    before, transition = 0.0, chunk.arguments(z, results, 1)
    for _ in range(2):  # the first run loads kernels
        before = time.monotonic()
        chunk.run(transition)[0].block_until_ready()
    steps = max(1, min(chunk.kernel["transitions"], int(CHUNK_SECONDS / (time.monotonic() - before))))
    arguments = chunk.arguments(z, results, steps)
    found = chunk.chunk(arguments)
    if chains <= LOWERED_CHAINS:  # the acceptance is that of chains that have left their common starts
        found = chunk.chunk(chunk.arguments(found["end"], found["results"], steps))
    gradients = int(np.asarray(found["cost"])[0, 0])
    accepted = np.asarray(found["is_accepted"])[:steps]
    ratio = np.asarray(found["log_accept_ratio"], np.float64)[:steps]
    prob = np.exp(np.minimum(np.nan_to_num(ratio, nan=-np.inf), 0.0))
    seconds, repeats = median_seconds(lambda: chunk.run(arguments)[0].block_until_ready(), recorder)
    rate = flop * chains * gradients / seconds
    name = {"tf32": "tf32", "bfloat16": "bfloat16"}.get(precision, "float32")
    recorder.put(
        "sampler", kernel=key, chains=chains, precision=precision, seconds_per_gradient=seconds / gradients,
        gradients_per_second=chains * gradients / seconds, tflops=rate / 1e12,
        share_of_peak=rate / peaks[name] if name in peaks else None, accepted=float(accepted.mean()),
        transitions=steps, accept_prob=float(prob.mean()),
        accept_prob_error=float(prob.mean(0).std() / np.sqrt(chains)), repeats=repeats,
    )  # fmt: skip


def run_kernels(recorder: Recorder, wanted: list[tuple[str, Any]], checks: bool = False) -> None:
    """Compile and time chunks of both kernels.

    Args:
      recorder: The records.
      wanted: (pair, (numbers of chains) -> [(number of chains, precision)]), most important first. Pairs are shipped, lowered
        and large.
      checks: Whether to compare the programs for the fewest chains with the references.
    """
    folder = open_folder(recorder)
    chunks = [program for program in folder.programs.values() if program["role"] == "chunk" and is_wanted(program["chains"])]
    sizes = {key: sorted(program["chains"] for program in chunks if program["kernel"] == key) for key in folder.kernels}
    jobs: list[tuple[str, str]] = []
    for pair, jobs_of in wanted:
        keys = [f"{pair}_{name}" for name in KERNELS if f"{pair}_{name}" in folder.kernels]
        if not keys:
            recorder.put("skipped", what=pair, why="the export does not hold it")
            continue
        jobs += [
            (f"{key}_{count}", precision) for count, precision in jobs_of(sizes[keys[0]]) for key in keys if count in sizes[key]
        ]
    used = dict.fromkeys(folder.programs[name]["kernel"] for name, _ in jobs)
    jobs = [(f"{key}_bootstrap", "float32") for key in used] + jobs
    bootstraps: dict[str, Any] = {}
    waiting: list[tuple[Any, str]] = []
    flop = dict.fromkeys(used, float("nan"))
    for key in used:
        with recorder.guarded(f"FLOP of {key}"):
            flop[key] = folder.flop_of(f"{key}_bootstrap") / folder.programs[f"{key}_bootstrap"]["chains"]
            recorder.put("flop", kernel=key, gflop_per_gradient=flop[key] / 1e9)
    # Programs are timed when all are compiled: compilation takes cores, and can time kernels on the GPU, too.
    for program, precision in compiled_programs(folder, jobs, recorder):
        if program.about["role"] == "bootstrap":
            bootstraps[program.about["kernel"]] = program
        else:
            waiting.append((program, precision))
    waiting.sort(key=lambda item: jobs.index((item[0].name, item[1])))
    recorder.put("ready", programs=len(waiting))
    recorder.wait()
    for program, _ in waiting:
        key = program.about["kernel"]
        has_reference = f"{key}/xla/bootstrap/0" in folder.reference
        if checks and has_reference and key in bootstraps and program.about["chains"] == sizes[key][0]:
            with recorder.guarded(f"bits {program.name}"):
                check_programs(recorder, folder, key, bootstraps[key], program)
    peaks: dict[str, float] = {}
    with recorder.guarded("peaks"):
        peaks = measure_peaks(recorder)
    for program, precision in waiting:
        what, key = f"{program.name} {precision}", program.about["kernel"]
        if key not in bootstraps or recorder.is_over(what):
            continue
        with recorder.guarded(what):
            shown = "gradients_bfloat16" if key.startswith("lowered") else precision
            time_chunk(recorder, folder, program, bootstraps[key], shown, flop[key], peaks)


def open_folder(recorder: Recorder) -> Any:
    """Return the export, and record the device."""
    import jax

    from tools.device.programs import Folder

    device = jax.devices()[0]
    recorder.put("device", name=device.device_kind, platform=device.platform, jax=jax.__version__)
    return Folder(os.environ["DEVICE_FOLDER"])


def programs_part(recorder: Recorder) -> None:
    """Run the shipped pair in float32."""
    run_kernels(recorder, [("shipped", lambda counts: [(count, "float32") for count in counts])], checks=True)


def precision_part(recorder: Recorder) -> None:
    """Run the shipped pair in lower precision, then with gradients in bfloat16, with `LOWERED_CHAINS` chains first."""

    def first(counts: list[int]) -> list[int]:
        return [count for count in counts if count == LOWERED_CHAINS] or counts[-1:]

    def rest(counts: list[int]) -> list[int]:
        return [count for count in counts[1:] if count not in first(counts)]

    lower = lambda some: lambda counts: [(count, p) for count in some(counts) for p in ("tf32", "bfloat16")]  # noqa: E731
    plain = lambda some: lambda counts: [(count, "float32") for count in some(counts)]  # noqa: E731
    run_kernels(recorder, [pair for some in (first, rest) for pair in (("shipped", lower(some)), ("lowered", plain(some)))])


def errors_part(recorder: Recorder) -> None:
    """Record how far log densities and gradients in lower precision are from those in float32."""
    from tools.device.programs import PRECISIONS

    folder = open_folder(recorder)
    name = "shipped_mala_bootstrap"
    found = {}
    programs = list(compiled_programs(folder, [(name, precision) for precision in PRECISIONS], recorder))
    recorder.put("ready", programs=len(programs))
    recorder.wait()
    for program, precision in programs:
        z = folder.inputs["shipped/z"][: program.about["chains"]]
        found[precision] = [np.asarray(leaf, np.float64) for leaf in program.run(program.arguments(z))]
    exact = found["float32"]
    # The first float leaves with one row per chain are the gradient and, without further dimension, the log density.
    values = next(k for k, leaf in enumerate(exact) if leaf.shape == z.shape[:1] and np.abs(leaf).max() > 1)
    gradients = next(k for k, leaf in enumerate(exact) if leaf.shape == z.shape)
    for precision in PRECISIONS[1:]:
        if precision in found:
            value, gradient = (np.abs(found[precision][k] - exact[k]) for k in (values, gradients))
            relative = float(np.linalg.norm(gradient) / np.linalg.norm(exact[gradients]))
            recorder.put("error", precision=precision, log_density=float(value.max()), gradient=relative)


def large_part(recorder: Recorder) -> None:
    """Run the large pair, in float32 first."""
    precisions = ("float32", "tf32", "bfloat16")
    run_kernels(recorder, [("large", lambda counts: [(count, p) for p in precisions for count in counts])])


@contextlib.contextmanager
def shared_folder() -> Any:
    """Write the networks of the export in the form that tools/bench reads; yield (folder, settings)."""
    from tools.bench.bench_worker import write_shared

    folder = Path(os.environ["DEVICE_FOLDER"])
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    weights = read_weights(folder)
    with tempfile.TemporaryDirectory() as shared:
        arrays = {name: [weights[key] for key in keys] for name, keys in manifest["networks"].items()}
        write_shared(Path(shared), manifest["shared"], arrays)
        yield Path(shared), manifest


def start_points(manifest: Any) -> Any:
    """Return (z for the most chains, the numbers of chains) of the shipped pair."""
    with np.load(Path(os.environ["DEVICE_FOLDER"]) / "inputs.npz") as inputs:
        z = inputs["shipped/z"]
    chunks = (p for p in manifest["programs"].values() if p["kernel"] == "shipped_mala" and p["role"] == "chunk")
    return z, sorted(p["chains"] for p in chunks if is_wanted(p["chains"]))


def check_framework(recorder: Recorder, name: str, value_and_gradient: Any, z: np.ndarray) -> None:
    """Compare the log density of a framework with the reference, to show that it computes the same."""
    value = np.asarray(value_and_gradient(z)[0])
    with np.load(Path(os.environ["DEVICE_FOLDER"]) / "reference.npz") as reference:
        # The reference after one transition, where it did not move, has the log density of its start.
        accepted = reference["shipped_mala/xla/1/is_accepted"][0]
        exact = reference["shipped_mala/xla/1/target_log_prob"][0]
    still = ~accepted
    apart = float(np.abs(value - exact)[still].max(initial=0.0))
    recorder.put("agreement", what=name, chains=int(still.sum()), log_density=apart)


def torch_part(recorder: Recorder) -> None:
    """Time the value and gradient in PyTorch."""
    import torch

    from tools.bench.bench_worker import GRADIENT, torch_tasks

    has_gpu = torch.cuda.is_available()
    torch.set_default_device("cuda" if has_gpu else "cpu")
    if not has_gpu:
        recorder.put("note", what="PyTorch finds no GPU and runs on the CPU")
    with shared_folder() as (shared, manifest):
        z, counts = start_points(manifest)
        for precision in ("float32", "tf32", "bfloat16"):
            if precision != "float32" and recorder.is_over(f"PyTorch {precision}", 5):
                continue
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            for mode in (None, "reduce-overhead") if has_gpu else (None,):
                torch.compiler.reset()
                title, value_and_gradient, tasks = torch_tasks(shared, True, mode)
                if recorder.is_waiting():
                    compile_early(recorder, title, [GRADIENT], tasks, z, counts)
                    torch.cuda.empty_cache()
                recorder.wait()
                for count in counts:
                    what = f"{title} {mode or 'default'} {precision} {count} chains"
                    if recorder.is_over(what, 5):
                        continue
                    low = torch.autocast("cuda" if has_gpu else "cpu", torch.bfloat16, enabled=precision == "bfloat16")
                    with recorder.guarded(what), low:
                        if count == counts[0]:
                            check_framework(recorder, f"{title} {precision}", value_and_gradient, z[:count])
                        time_task(recorder, f"torch.compile {mode or 'default'}", GRADIENT, precision, tasks, z[:count])


def compile_early(recorder: Recorder, title: str, names: list[str], tasks: Any, z: np.ndarray, counts: list[int]) -> None:
    """Run tasks with few gradients before it is this part's turn, so that they are compiled."""
    for count in counts:
        for name in names:
            if recorder.is_waiting():
                with recorder.guarded(f"compiling {title} {name} {count} chains"):
                    start = time.monotonic()
                    tasks[name](z[:count], 1)
                    recorder.put("compiled", program=f"{title} {name} {count}", seconds=time.monotonic() - start)
    recorder.put("ready", programs=len(counts) * len(names))


def time_task(recorder: Recorder, framework: str, task: str, precision: str, tasks: Any, z: np.ndarray) -> None:
    """Record the seconds of a gradient in a task of tools/bench."""
    num_gradients = 18 if len(z) < 1000 else 6  # a whole number of transitions of hmc
    made: dict[str, Any] = {}
    seconds, repeats = median_seconds(lambda: made.update(tasks[task](z, num_gradients)), recorder)
    rate = {"accepted": made["accept_rate"]} if "accept_rate" in made else {}
    values = dict(framework=framework, task=task, precision=precision, chains=len(z), repeats=repeats)
    recorder.put("framework", **values, seconds_per_gradient=seconds / made["gradients"], **rate)


def blackjax_part(recorder: Recorder) -> None:
    """Time the gradient in JAX and BlackJAX's kernels, first in float32."""
    import jax

    from tools.bench.bench_worker import GRADIENT, jax_tasks

    with shared_folder() as (shared, manifest):
        z, counts = start_points(manifest)
        for precision, name in (("float32", "highest"), ("tf32", "tensorfloat32")):
            jax.config.update("jax_default_matmul_precision", name)
            title, value_and_gradient, tasks = jax_tasks(shared)
            if recorder.is_waiting():
                compile_early(recorder, title, [GRADIENT, *KERNELS], tasks, z, counts)
            recorder.wait()
            for count in counts:
                for task in (GRADIENT, *KERNELS):
                    what = f"{title} {task} {precision} {count} chains"
                    if recorder.is_over(what, 5):
                        continue
                    with recorder.guarded(what):
                        if task == GRADIENT and count == counts[0]:
                            check_framework(recorder, f"{title} {precision}", value_and_gradient, z[:count])
                        time_task(recorder, "JAX" if task == GRADIENT else "BlackJAX", task, precision, tasks, z[:count])


PARTS = {
    "programs": programs_part,
    "precision": precision_part,
    "errors": errors_part,
    "torch": torch_part,
    "blackjax": blackjax_part,
    "large": large_part,
}


def run_part(part: str, path: Path, seconds: float, turn: Path | None) -> None:
    """Run one part in this process."""
    recorder = Recorder(path, seconds, turn)
    try:
        PARTS[part](recorder)
    except ImportError as error:
        recorder.put("missing", what=part, error=f"{part} DID NOT RUN: {error}")
    except Exception as error:
        traceback.print_exc()
        recorder.put("failed", what=part, error=f"{type(error).__name__}: {str(error)[:300]}")


def main(
    folder: str = "device_in",
    out: str = "device_out",
    seconds: float = 300.0,
    parts: str = ",".join(PARTS),
    max_chains: int | None = None,
    wait_for: str = "",
    max_wait: float = 480.0,
) -> None:
    """Run the parts one after the other, each in a process, and print a table.

    Args:
      folder: What `export_programs` wrote.
      out: Where the records go.
      seconds: Time for all parts, after the wait.
      parts: Which ones, with commas between.
      max_chains: Leave out programs for more chains.
      wait_for: Compile all parts at once; measure when this file exists.
      max_wait: Seconds after which the parts no longer wait for it, and measure beside what else runs.
    """
    records = Path(out).absolute() / "records.jsonl"
    records.parent.mkdir(parents=True, exist_ok=True)
    records.unlink(missing_ok=True)
    # XLA takes memory as it needs it: the networks of PyTorch need it next.
    env = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ, "DEVICE_FOLDER": str(Path(folder).absolute())}
    if max_chains:
        env["DEVICE_MAX_CHAINS"] = str(max_chains)
    chosen = parts.split(",")
    if wait_for:
        env.setdefault("MEASURE_SECONDS", "0.3")

    def started(part: str, seconds: float) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tools.device.measure_sampler",
            f"--part={part}",
            f"--seconds={seconds}",
            f"--out={out}",
        ]
        return subprocess.Popen([*command, f"--turn={turn_of(part)}"] if wait_for else command, env=env)

    turn_of = lambda part: records.parent / f"turn_{part}"  # noqa: E731
    for part in chosen:
        turn_of(part).unlink(missing_ok=True)
    whole = Recorder(records, seconds)
    whole.put("start", parts=parts, seconds=seconds, xla_flags=env.get("XLA_FLAGS", ""))
    running = {part: started(part, seconds) for part in chosen} if wait_for else {}
    if wait_for:
        begin = time.monotonic()
        while not Path(wait_for).exists() and time.monotonic() - begin < max_wait:
            time.sleep(0.1)
        whole.put("waited", seconds=time.monotonic() - begin, came=Path(wait_for).exists())
    end = time.monotonic() + seconds
    for part in chosen:
        left = end - time.monotonic()
        share = left * (1.0 if part == chosen[-1] else SHARES[part])
        if share < (1 if wait_for else 5):
            whole.put("skipped", what=part, why="time is over")
            continue
        print(f"== {part}: at most {share:.0f} s", flush=True)
        start = time.monotonic()
        process = running.get(part) or started(part, share)
        if wait_for:
            draft = turn_of(part).with_suffix(".new")
            draft.write_text(str(share), encoding="utf-8")
            draft.replace(turn_of(part))
        try:
            code = process.wait(share + 10)
            if code:
                whole.put("failed", what=part, error=f"exit code {code}")
        except subprocess.TimeoutExpired:
            process.kill()
            whole.put("skipped", what=f"the rest of {part}", why="time is over")
        print(f"== {part}: {time.monotonic() - start:.0f} s", flush=True)
    for process in running.values():
        process.kill()
    for part in chosen:
        turn_of(part).unlink(missing_ok=True)
    found = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    (records.parent / "measures.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(table_of(found)), flush=True)


def table_of(records: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a short table."""
    of = lambda kind: [record for record in records if record["kind"] == kind]  # noqa: E731
    lines = [f"device: {r['name']}, JAX {r['jax']}" for r in of("device")[:1]]
    peaks = {r["precision"]: f"{r['precision']} {r['tflops']:.1f}" for r in of("peak")}
    lines += [f"peak TFLOP/s of a product: {', '.join(peaks.values())}"] if peaks else []
    lines += [f"{r['kernel']}: {r['gflop_per_gradient']:.3f} GFLOP a gradient of one chain" for r in of("flop")]
    bits = of("bits")
    if bits:
        worst = max(bits, key=lambda r: r["difference"] / r["tolerance"] if r["tolerance"] else 0.0)
        good = sum(r["ok"] for r in bits)
        lines.append(
            f"against CPU: {good} of {len(bits)} within tolerance; nearest to it: {worst['what']}, {worst['difference']:.2g}"
        )
        lines += [f"  OUT OF TOLERANCE {r['what']}: {r['difference']:.2g} > {r['tolerance']:.2g}" for r in bits if not r["ok"]]
    lines += [f"  NUMBER OF GRADIENTS DIFFERS {r['what']}" for r in of("cost") if not r["ok"]]
    lines += [f"  {r['what']}: {r['other_than_cpu']} of {r['chains']} chains decide otherwise" for r in of("decisions")]
    for r in of("sampler"):
        share = f"{r['share_of_peak']:.1%} of peak" if r["share_of_peak"] else "no peak"
        lines.append(
            f"{r['kernel']:12} {r['chains']:5} chains {r['precision']:18} {1e3 * r['seconds_per_gradient']:9.3f} ms, "
            f"{r['tflops']:.2f} TFLOP/s, {share}, accepts {r['accept_prob']:.4f} +- {r['accept_prob_error']:.4f}"
        )
    lines += [f"error {r['precision']}: log density {r['log_density']:.2g}, gradient {r['gradient']:.2g}" for r in of("error")]
    for r in of("framework"):
        name = f"{r['framework']} {r['task']}"
        lines.append(
            f"{name:32} {r['chains']:5} chains {r['precision']:9} {1e3 * r['seconds_per_gradient']:9.3f} ms a gradient"
        )
    lines += [f"{r['what']}: log density {r['log_density']:.2g} from the reference" for r in of("agreement")]
    lines += [
        f"{r['kind'].upper()} {r['what']}: {r.get('error') or r.get('why')}"
        for kind in ("missing", "failed", "skipped")
        for r in of(kind)
    ]
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="device_in")
    parser.add_argument("--out", default="device_out")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--max_chains", type=int)
    parser.add_argument("--wait_for", default="", help="compile first; measure when this file exists")
    parser.add_argument("--max_wait", type=float, default=480.0, help="seconds after which the file is not waited for")
    parser.add_argument("--turn", type=Path, help="of --part: the file with its time, which comes when it may measure")
    parser.add_argument("--part", help="run this part only, in this process")
    given = parser.parse_args()
    if given.part:
        run_part(given.part, Path(given.out).absolute() / "records.jsonl", given.seconds, given.turn)
        sys.stdout.flush()
        os._exit(0)  # threads that still compile would keep the process alive
    main(given.folder, given.out, given.seconds, given.parts, given.max_chains, given.wait_for, given.max_wait)
