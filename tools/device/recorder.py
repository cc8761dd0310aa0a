"""Records and timings of tools/device/measure_sampler.py. It needs NumPy only."""

import contextlib
import json
import os
import statistics
import time
import traceback
from pathlib import Path
from typing import Any

# Of a timing. Tests set MEASURE_QUICKLY.
MIN_SECONDS, MIN_REPEATS = (0.0, 1) if "MEASURE_QUICKLY" in os.environ else (float(os.environ.get("MEASURE_SECONDS", 1.0)), 3)
CHUNK_SECONDS = 2.0  # a chunk that takes longer is timed with fewer transitions, and repeated less
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
        self.put("skipped", what=what, why="the time is up")
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


def is_wanted(num_chains: int) -> bool:
    """Return whether programs for this number of chains are measured."""
    return num_chains <= int(os.environ.get("DEVICE_MAX_CHAINS", num_chains))
