"""Measures what an engine costs in addition to the work itself, and fits a model of its time.

Simulated workers sleep instead of sampling, so that two cores can stand for many machines. Each block sends pieces of a given
size to this process, which appends them to stores on disk, as `sample` does. The model is

    seconds = start + pieces / workers * (work + idle) + pieces * (serial + megabytes * transfer)

where work is the sleep. Serial and transfer are fitted to the CPU time of this process, which other programs on the machine
change little; then start and idle to the seconds.

    python -m tools.bench.scaling [--num_workers=1,2,4,8] [--engine=ray] [--num_blocks=16] [--work=0.05]

With --overhead, two workers of Ray and two local processes draw the same blocks from the shipped models, in turn:

    python -m tools.bench.scaling --overhead [--num_results=60]

With --memory, two blocks of many pieces and then of eight times as many come back to this process, whose memory is looked at
after each piece:

    python -m tools.bench.scaling --memory [--engine=ray]
"""

import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fire
import numpy as np

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Draws
from tfgradgen.engine.schedule import Scheduler
from tfgradgen.engine.shared import Inline
from tfgradgen.engine.work import Piece, Reply, Runner, Work
from tfgradgen.io.store import RunStore

ROOT = Path(__file__).resolve().parents[2]
NUM_CHAINS, LATENT_DIM = 16, 84
ROWS = (20, 200)  # draws in a piece: of the size of a chunk of `mala`, and ten times as large
PIECES = (5, 15)  # in a block
MANY = 40  # pieces in a block of --memory, of the larger size
TERMS = ("start", "idle", "serial", "transfer")


def simulated(spec: tuple[int, int, float], resume: Any) -> Iterator[Piece]:
    """Yield pieces of `rows` draws after `work` seconds each."""
    num_pieces, rows, work = spec
    shape = (rows, NUM_CHAINS)
    scalar = np.zeros(shape, np.float32)
    for _ in range(num_pieces):
        time.sleep(work)
        draws = Draws(np.zeros((*shape, LATENT_DIM), np.float32), scalar, scalar, np.ones(shape, bool), scalar, scalar)
        state = {"z": np.zeros((NUM_CHAINS, LATENT_DIM), np.float32)}
        yield Piece((draws, state))


class Threads:
    """Workers that are threads of this process: an engine without any transport."""

    def __init__(self) -> None:
        self._asked: dict[int, queue.SimpleQueue[Any]] = {}
        self._answers: queue.SimpleQueue[tuple[int, Reply]] = queue.SimpleQueue()

    def start(self, number: int) -> None:
        self._asked[number] = queue.SimpleQueue()
        threading.Thread(target=self._serve, args=(number,), daemon=True).start()

    def _serve(self, number: int) -> None:
        runner = Runner()
        self._answers.put((number, Reply("ready", value={})))
        while (message := self._asked[number].get()) is not None:
            self._answers.put((number, runner.begin(*message) if message else runner.step()))

    def begin(self, number: int, token: int, work: Work) -> None:
        self._asked[number].put((token, work))

    def step(self, number: int) -> None:
        self._asked[number].put(())

    def share(self, value: Any) -> Any:
        return Inline(value)

    def wait(self, timeout: float) -> list[tuple[int, Reply]]:
        try:
            return [self._answers.get(timeout=timeout)]
        except queue.Empty:
            return []

    def stop(self) -> None:
        for asked in self._asked.values():
            asked.put(None)


@contextmanager
def workers(engine: str, most: int) -> Iterator[Any]:
    """Yield a fleet of at most `most` simulated workers."""
    if engine == "threads":
        fleet: Any = Threads()
        yield fleet
        fleet.stop()
        return
    if engine != "ray":
        raise fail("engine", "one of ray, threads", engine, "give --engine=ray")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    from tfgradgen.engine.ray_workers import Actor, RayFleet, connected

    class Light(Actor):
        """A worker without TensorFlow."""

        def ready(self) -> Reply:
            return Reply("ready", value={})

    with connected(None, most):
        fleet = RayFleet({}, Light)
        yield fleet
        fleet.stop()


def seconds_of(
    scheduler: Scheduler,
    num_blocks: int,
    spec: tuple[int, int, float],
    folder: Path,
    seen_fn: Callable[[], Any] = lambda: None,
) -> tuple[float, float]:
    """Return the seconds from the first block to the last append, and those of the CPU in this process.

    `seen_fn` is called after each append.
    """
    stores = []
    for k in range(num_blocks):
        place = folder / f"{k}"
        place.mkdir(parents=True)
        stores.append(RunStore(place, {"number": k}))
        scheduler.add(k, Work(simulated, spec))
    start, spent = time.monotonic(), time.process_time()
    for event in scheduler.events():
        if event.piece:
            stores[event.key].append(*event.piece.value, {})  # type: ignore[call-overload]
            seen_fn()
    return time.monotonic() - start, time.process_time() - spent


def fitted(rows: Sequence[tuple[int, int, float, float, float, float]]) -> dict[str, float]:
    """Return the terms of the model, in seconds, by least squares with no term below 0.

    Args:
      rows: Of each measurement the workers, pieces, megabytes of a piece, seconds of work of a piece, seconds in all, and those
        of the CPU.
    """
    from scipy.optimize import nnls

    count, pieces, size, work, seconds, spent = np.array(rows, float).T
    # Relative errors: a long measurement is not more accurate than a short one.
    serial, _ = nnls(np.stack([pieces, pieces * size], 1) / spent[:, None], np.ones_like(spent))
    rest = seconds - pieces / count * work - pieces * (serial[0] + size * serial[1])
    first, _ = nnls(np.stack([np.ones_like(count), pieces / count], 1) / seconds[:, None], rest / seconds)
    return dict(zip(TERMS, [*first.tolist(), *serial.tolist()], strict=True))


def predicted(terms: dict[str, float], num_workers: float, pieces: float, size: float, work: float) -> float:
    """Return the seconds that the model gives."""
    per_worker = pieces / num_workers * (work + terms["idle"])
    return terms["start"] + per_worker + pieces * (terms["serial"] + size * terms["transfer"])


def main(
    num_workers: tuple[int, ...] = (1, 2, 4, 8),
    engine: str = "ray",
    num_blocks: int = 16,
    work: float = 0.05,
    overhead: bool = False,
    num_results: int = 60,
    memory: bool = False,
) -> None:
    """Print a line for each number of workers and size, and the terms of the model."""
    if overhead:
        compare_engines(num_results)
        return
    if memory:
        show_memory(engine)
        return
    counts = num_workers if isinstance(num_workers, list | tuple) else (num_workers,)
    rows = []
    with tempfile.TemporaryDirectory() as folder, workers(engine, max(counts)) as fleet:
        for count in counts:
            scheduler = Scheduler(fleet, count)
            for num_pieces, num_rows in ((PIECES[0], ROWS[0]), (PIECES[1], ROWS[0]), (PIECES[1], ROWS[1])):
                seconds_of(scheduler, count, (1, 1, 0.5), Path(folder) / f"warm-{count}-{num_pieces}-{num_rows}")
                place = Path(folder) / f"{count}-{num_pieces}-{num_rows}"
                seconds, spent = seconds_of(scheduler, num_blocks, (num_pieces, num_rows, work), place)
                size = num_rows * NUM_CHAINS * (LATENT_DIM + 5) * 4 / 2**20
                rows.append((count, num_blocks * num_pieces, size, work, seconds, spent))
                ideal = num_blocks * num_pieces * work / count
                print(
                    f"{count} workers, {num_blocks} blocks of {num_pieces} pieces of {size:.2f} MB: {num_blocks / seconds:.2f} "
                    f"blocks a second, {seconds / ideal:.2f} times the work alone, "
                    f"{1000 * spent / rows[-1][1]:.1f} ms of the CPU a piece",
                    flush=True,
                )
            fleet.stop()
    terms = fitted(rows)
    errors = [abs(predicted(terms, *row[:4]) / row[4] - 1) for row in rows]
    shown = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in terms.items())
    print(f"{engine}: {shown} (transfer per MB); the model is off by {100 * max(errors):.0f} % at most")


def show_memory(engine: str) -> None:
    """Print the peak memory of this process for some draws and for eight times as many, and their ratio."""
    import psutil

    process = psutil.Process()
    peaks: list[tuple[float, float]] = []

    def look() -> None:
        info = process.memory_info()
        peaks.append(((info.rss - info.shared) / 2**20, info.rss / 2**20))

    found = []
    with tempfile.TemporaryDirectory() as folder, workers(engine, 2) as fleet:
        scheduler = Scheduler(fleet, 2)
        for number, num_pieces in enumerate((MANY, MANY, 8 * MANY)):  # the first round warms up
            peaks.clear()
            seconds_of(scheduler, 2, (num_pieces, ROWS[1], 0.0), Path(folder) / str(number), look)
            own, whole = (max(values) for values in zip(*peaks, strict=True))
            found.append(own)
            size = 2 * num_pieces * ROWS[1] * NUM_CHAINS * (LATENT_DIM + 5) * 4 / 2**20
            if number:
                print(f"{size:.0f} MB of draws: peak {own:.0f} MB, with what is shared {whole:.0f} MB", flush=True)
        fleet.stop()
    print(f"ratio {found[2] / found[1]:.2f} for eight times the draws")


def compare_engines(num_results: int) -> None:
    """Print the seconds of two workers of Ray and of two processes for the same blocks, and their ratio."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    from tfgradgen.cli.options import parse_sample
    from tfgradgen.cli.remote import Block, Models, sample_chunks
    from tfgradgen.engine.blocks import blocks_of
    from tfgradgen.engine.devices import DeviceFleet
    from tfgradgen.engine.ray_workers import RayFleet, connected, variables

    flags = {"label": "goldfish", "kernel": "mala", "num_chains": 16, "block": 4, "num_results": num_results}
    options = parse_sample(flags | {"num_burnin_steps": 0, "init": "prior"})
    blocks = [
        Block(Models(options.models), options.label, (0,), options.recipe, run) for run in blocks_of(options.run, options.block)
    ]
    with connected(None, 2):
        fleets: dict[str, Any] = {"processes": DeviceFleet(["", ""]), "ray": RayFleet(variables())}
        schedulers = {name: Scheduler(fleet, 2) for name, fleet in fleets.items()}
        seconds: dict[str, list[float]] = {name: [] for name in fleets}
        digests = set()
        for _ in range(3):  # the first round loads and compiles
            for name, scheduler in schedulers.items():
                start, total = time.monotonic(), 0.0
                for k, block in enumerate(blocks):
                    scheduler.add(k, Work(sample_chunks, block))
                for event in scheduler.events():
                    if event.error:
                        raise event.error
                    if event.piece:
                        total += float(np.sum(event.piece.value.draws.z, dtype=np.float64))
                seconds[name].append(time.monotonic() - start)
                digests.add(round(total, 2))
        for fleet in fleets.values():
            fleet.stop()
    best = {name: min(found[1:]) for name, found in seconds.items()}
    print(f"{len(blocks)} blocks of 4 chains: " + ", ".join(f"{name} {value:.2f} s" for name, value in best.items()))
    print(f"ratio {best['ray'] / best['processes']:.2f}; {'the same' if len(digests) == 1 else 'other'} draws")


if __name__ == "__main__":
    fire.Fire(main)
