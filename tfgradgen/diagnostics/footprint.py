"""Time and memory of one evaluation."""

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
import tensorflow as tf

NUM_TIMED = 3
POLL_SECONDS = 0.002
USABLE = 0.8  # share of the free memory; the sampler itself needs the rest


class Footprint(NamedTuple):
    """Cost of one evaluation.

    Attributes:
      seconds: Median of `NUM_TIMED` calls after the first.
      num_bytes: Peak memory during the calls minus the memory in use before.
    """

    seconds: float
    num_bytes: int


def free_bytes() -> int:
    """Return the main memory that is available on this machine, in bytes."""
    return int(psutil.virtual_memory().available)


def measure(fn: Callable[[Any], Any], z: tf.Tensor, num_bytes_before: int) -> Footprint:
    """Return the footprint of `fn(z)`.

    Measure small batches first, because allocators rarely return memory.

    Args:
      fn: The function.
      z: Its argument.
      num_bytes_before: The `resident_bytes` before the first measurement of a series.
    """
    peak, is_done = [num_bytes_before], threading.Event()

    def watch() -> None:
        while not is_done.wait(POLL_SECONDS):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        seconds = sorted(_timed(fn, z) for _ in range(1 + NUM_TIMED))[NUM_TIMED // 2]
    finally:
        is_done.set()
        watcher.join()
    return Footprint(seconds, peak[0] - num_bytes_before)


def resident_bytes(is_trimmed: bool = False) -> int:
    """Return the memory of this process, in bytes; with `is_trimmed`, after the C library has released what it can."""
    if is_trimmed:
        with suppress(OSError, AttributeError, TypeError):  # only in glibc
            ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _timed(fn: Callable[[Any], Any], z: tf.Tensor) -> float:
    start = time.perf_counter()
    for value in tf.nest.flatten(fn(z)):
        if value is not None:  # None stands for a missing gradient
            value.numpy()
    return time.perf_counter() - start


def bytes_per_row(small: tuple[int, int], large: tuple[int, int]) -> float:
    """Return the memory for one more row, in bytes, from (rows, bytes) of two batches.

    It is at least half the mean per row of the larger batch, because the memory kept from the smaller one can hide the growth.
    """
    (rows, num_bytes), (more_rows, more_bytes) = small, large
    return max((more_bytes - num_bytes) / (more_rows - rows), more_bytes / more_rows / 2, 1.0)
