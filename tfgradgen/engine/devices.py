"""Workers that are processes on this machine, one for each device."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from tfgradgen.core.checks import fail
from tfgradgen.engine.shared import Inline
from tfgradgen.engine.work import Reply, Runner, Work

VISIBLE = "CUDA_VISIBLE_DEVICES"
# TensorFlow takes all memory of a device otherwise, and this process needs some of the first one.
GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
STOP_SECONDS = 2.0


def found_devices() -> list[str]:
    """Return the names of the GPUs of this machine, as $CUDA_VISIBLE_DEVICES knows them."""
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return visible[:count] if visible else [str(k) for k in range(count)]


def chosen_devices(wanted: str) -> list[str]:
    """Return the devices that --devices names: 'all', their number, or numbers such as 0,2.

    Raises:
      UserError: There is no GPU, or not that one.
    """
    known = found_devices()
    if not known:
        raise fail("devices", "a machine with a GPU", "none", "leave --devices out; --engine=ray runs blocks on CPUs")
    if wanted == "all":
        return known
    numbers = [int(word) for word in wanted.split(",")]
    if "," not in wanted:
        if 1 <= numbers[0] <= len(known):
            return known[: numbers[0]]
        raise fail("devices", f"at most the {len(known)} GPUs of this machine", wanted, "give --devices=all")
    if len({*numbers}) < len(numbers) or max(numbers) >= len(known):
        raise fail("devices", f"different numbers below {len(known)}", wanted, "give --devices=all")
    return [known[k] for k in numbers]


@contextmanager
def environment_of(device: str) -> Iterator[None]:
    """Set the environment of a process that sees `device` alone, during the block."""
    given = {VISIBLE: device, GROWTH: "true"}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(pipe: Connection) -> None:
    """Answer what comes through `pipe` until its other end is closed: the main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the command ends this one
    from tfgradgen.core.quiet import start_tensorflow

    start_tensorflow()
    from tfgradgen.results.origin import environment

    runner = Runner()
    with suppress(EOFError, OSError):
        pipe.send(Reply("ready", value=environment("auto")))
        while True:
            message = pipe.recv()
            pipe.send(runner.begin(*message) if message else runner.step())


class DeviceFleet:
    """See `schedule.Fleet`.

    Args:
      devices: The device of each worker, as $CUDA_VISIBLE_DEVICES names it; '' for the CPU.
    """

    def __init__(self, devices: Sequence[str]):
        self.devices = devices
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[Any, Connection]] = {}

    def start(self, number: int) -> None:
        self._end(number)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        with environment_of(self.devices[number]):
            process.start()
        theirs.close()
        self._workers[number] = process, ours

    def begin(self, number: int, token: int, work: Work) -> None:
        self._send(number, (token, work))

    def step(self, number: int) -> None:
        self._send(number, None)

    def _send(self, number: int, message: Any) -> None:
        if number in self._workers:
            with suppress(OSError):  # `wait` finds out that the process is gone
                self._workers[number][1].send(message)

    def share(self, value: Any) -> Any:
        return Inline(value)

    def wait(self, timeout: float) -> list[tuple[int, Reply]]:
        pipes: dict[Any, int] = {pipe: number for number, (_, pipe) in self._workers.items()}
        return [(pipes[pipe], self._reply(pipes[pipe])) for pipe in wait(list(pipes), timeout)]

    def _reply(self, number: int) -> Reply:
        try:
            reply: Reply = self._workers[number][1].recv()
            return reply
        except (EOFError, OSError):
            process = self._workers[number][0]
            process.join(STOP_SECONDS)
            why = f"its process ended with code {process.exitcode}"
            self._end(number)
            return Reply("lost", value=why)

    def _end(self, number: int) -> None:
        process, pipe = self._workers.pop(number, (None, None))
        if process is not None and pipe is not None:
            pipe.close()
            process.kill()
            process.join(STOP_SECONDS)

    def stop(self) -> None:
        for number in list(self._workers):
            self._end(number)
