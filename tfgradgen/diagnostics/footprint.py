"""What one evaluation costs: seconds and bytes."""

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
USABLE = 0.8  # of the memory that is free now: the sampler needs some of its own


class Footprint(NamedTuple):
    """Of one evaluation. seconds: median of `NUM_TIMED` calls after the first. num_bytes: the most memory that was in use
    meanwhile, over what was in use before."""

    seconds: float
    num_bytes: int


def free_bytes() -> int:
    """Main memory that this machine has left, in bytes."""
    return int(psutil.virtual_memory().available)


def measure(fn: Callable[[Any], Any], z: tf.Tensor, num_bytes_before: int) -> Footprint:
    """The footprint of `fn(z)`. Measure small batches first: what an allocator has once it keeps, so `num_bytes_before` (see
    `resident_bytes`) is that before the first of them."""
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
    """Memory of this process, in bytes; with `is_trimmed` after its C library gave back what it can."""
    if is_trimmed:
        with suppress(OSError, AttributeError, TypeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _timed(fn: Callable[[Any], Any], z: tf.Tensor) -> float:
    start = time.perf_counter()
    for value in tf.nest.flatten(fn(z)):
        if value is not None:  # no gradient
            value.numpy()
    return time.perf_counter() - start


def bytes_per_row(small: tuple[int, int], large: tuple[int, int]) -> float:
    """Growth by one more row, from (rows, bytes) of two batches; at least the mean of the larger, where the smaller hid it."""
    (rows, num_bytes), (more_rows, more_bytes) = small, large
    return max((more_bytes - num_bytes) / (more_rows - rows), more_bytes / more_rows / 2, 1.0)
