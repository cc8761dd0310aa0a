"""What -v adds to the output: versions, device, time and memory."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version

import tfgradgen
from tfgradgen.cli.terminal import more

PACKAGES = {"TensorFlow": "tensorflow", "TensorFlow Probability": "tensorflow_probability", "NumPy": "numpy"}
MIB = 2**20


@contextmanager
def timed() -> Iterator[None]:
    """Show the versions at the start of the block, and what it took at its end."""
    start, cpu = time.monotonic(), time.process_time()
    more(f"versions {versions()}")
    try:
        yield
    finally:
        more(f"took     {time.monotonic() - start:.1f} s, {time.process_time() - cpu:.1f} s of CPU time{_memory()}")


def versions() -> str:
    """Return the versions of tfgradgen and of what it runs on. Nothing is imported to find them."""
    found = [f"tfgradgen {tfgradgen.__version__}", f"Python {platform.python_version()}"]
    for name, package in PACKAGES.items():
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(package)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{', '.join(found)}; {platform.system()} {platform.machine()}, {cores} cores"


def show_device() -> None:
    """Show the device on which TensorFlow computes."""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
    details = [tf.config.experimental.get_device_details(device).get("device_name") for device in devices]
    names = [str(detail or device.name.rpartition("device:")[2]) for detail, device in zip(details, devices, strict=True)]
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    more(f"device   {', '.join(names)}, {f'{threads} threads' if threads else 'threads as TensorFlow chooses'} in an operation")


def _memory() -> str:
    """Return the largest resident size so far, as the end of a line; '' if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    return f", at most {largest / MIB:,.0f} MiB of memory"
