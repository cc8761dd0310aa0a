"""The parts of tools/device/measure_sampler.py that run other frameworks. They need the packages of the extra `bench`."""

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.device.arrays import read_weights
from tools.device.recorder import KERNELS, Recorder, is_wanted, median_seconds


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
