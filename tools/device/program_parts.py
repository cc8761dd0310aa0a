"""The parts of tools/device/measure_sampler.py that run exported programs. They need JAX and NumPy."""

import functools
import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from tools.device.recorder import CHUNK_SECONDS, KERNELS, Recorder, is_wanted, median_seconds

COMPILE_SHARE = 0.7  # of the time of a part, after which what is compiled is timed
TOLERANCE = 10  # times the difference of two ways to compute on a CPU
STEP_TOLERANCE = 1e-3  # of the scale, for the median chain after one transition
FLOOR = 16 * np.finfo(np.float32).eps  # smallest relative tolerance: the two CPU results can agree by chance
LOWERED_CHAINS = 256  # number of chains at which precisions are compared first


def compiled_programs(folder: Any, jobs: list[tuple[str, str]], recorder: Recorder) -> Any:
    """Yield the programs of `jobs`, (name, precision), as they are compiled, with their precision.

    One after the other by default: parallel compilation crashed on a GPU. DEVICE_THREADS changes that.
    """
    from tools.device.programs import Program

    pool = ThreadPoolExecutor(int(os.environ.get("DEVICE_THREADS", 1)))
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
