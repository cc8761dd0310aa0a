"""Workers that are actors of a Ray cluster. This is the only file that imports Ray."""

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from tfgradgen.core.checks import fail
from tfgradgen.core.text import as_text
from tfgradgen.engine.work import Reply, Runner, Work

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 5.0  # within which the head of a cluster must accept a connection
LOOK_SECONDS = 2.0  # between looks at the head
HEAD_SECONDS = 15.0  # without the head after which the command ends: workers go on without it, but none is found or replaced
STOP_SECONDS = 10.0  # for which the end of workers or of the connection is awaited
# After this time without the head Ray would end the process of the command, in the middle of whatever it writes.
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
RECONNECT_SECONDS = 3600
LOCAL_STORE = 200_000_000  # bytes of shared memory of a cluster that is started for one command
# Variables that can change the bits or the speed of TensorFlow, which workers get from the command.
PASSED = ("TF_", "OMP_", "XLA_", "NVIDIA_TF32")


class Actor:
    """A worker process: see `work.Runner`."""

    def __init__(self) -> None:
        self._runner = Runner()

    def ready(self) -> Reply:
        """Start TensorFlow, and return what this worker is."""
        from tfgradgen.core.quiet import start_tensorflow

        start_tensorflow()
        from tfgradgen.results.origin import environment

        return Reply("ready", value=environment("auto"))

    def begin(self, token: int, work: Work) -> Reply:
        """Begin a block and return its first piece."""
        return self._runner.begin(token, work)

    def step(self) -> Reply:
        """Return the next piece of the block."""
        return self._runner.step()


class Stored:
    """A value in Ray's object store, which each node copies once."""

    def __init__(self, value: Any):
        self._ref = ray.put(value)

    def get(self) -> Any:
        """Return the value."""
        return ray.get(self._ref)


class Head:
    """The head of the cluster, at which this process looks now and then.

    Args:
      address: HOST:PORT.
    """

    def __init__(self, address: str):
        self.address = address
        self._looked = time.monotonic()
        self._missed: float | None = None  # time of the first of the looks that have found no head since the last that did

    def check(self) -> None:
        """Raise `UserError` if no look at the head has found it for HEAD_SECONDS."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        why = unreachable(self.address)
        self._looked = time.monotonic()
        if not why:
            self._missed = None
        elif self._missed is None:  # a single look says little, however long ago the one before it was
            self._missed = self._looked
        elif self._looked - self._missed > HEAD_SECONDS:
            remedy = "use another cluster, or leave --engine out"
            error = fail("engine", "the head of the Ray cluster", f"none at {self.address} ({why})", remedy)
            error.can_resume = True
            raise error


class RayFleet:
    """See `schedule.Fleet`. The process is connected to a cluster (`connected`).

    Args:
      variables: Environment of the workers, in addition to that of their node.
      actor: The class of the workers.
    """

    def __init__(self, variables: Mapping[str, str], actor: type = Actor):
        has_gpus = bool(ray.cluster_resources().get("GPU"))
        self._class: Any = ray.remote(actor).options(
            num_cpus=1,
            num_gpus=1 if has_gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": dict(variables)} if variables else None,
        )
        self._actors: dict[int, Any] = {}
        self._refs: dict[int, deque[Any]] = {}
        self._head = Head(ray.get_runtime_context().gcs_address)

    def start(self, number: int) -> None:
        self._forget(number)
        self._actors[number] = self._class.remote()
        self._refs[number] = deque([self._actors[number].ready.remote()])

    def begin(self, number: int, token: int, work: Work) -> None:
        self._refs[number].append(self._actors[number].begin.remote(token, work))

    def step(self, number: int) -> None:
        self._refs[number].append(self._actors[number].step.remote())

    def share(self, value: Any) -> Any:
        return Stored(value)

    def wait(self, timeout: float) -> list[tuple[int, Reply]]:
        self._head.check()
        heads = {refs[0]: number for number, refs in self._refs.items() if refs}
        if not heads:
            return []
        done, _ = ray.wait(list(heads), num_returns=1, timeout=timeout)
        return [(heads[ref], self._reply(heads[ref])) for ref in done]

    def _reply(self, number: int) -> Reply:
        ref = self._refs[number].popleft()
        try:
            reply: Reply = ray.get(ref)
        except RayTaskError as error:  # a worker that cannot import or read what it is sent
            cause = as_text(" ".join(str(error.cause or error).split()), 200)
            remedy = "install the same tfgradgen[ray] on every node"
            fault = fail("engine", "workers with this version of tfgradgen", cause, remedy)
            fault.can_resume = True
            raise fault from error
        except RayError as error:
            why = as_text((str(error).strip() or type(error).__name__).splitlines()[0], 120)
            self._forget(number)
            return Reply("lost", value=why)
        return reply

    def _forget(self, number: int) -> None:
        """Drop a worker; end it if it is alive."""
        self._refs.pop(number, None)
        actor = self._actors.pop(number, None)
        if actor is not None:
            bounded(_kill, [actor])

    def stop(self) -> None:
        self._refs.clear()
        actors = [*self._actors.values()]
        self._actors.clear()
        bounded(_kill, actors)


def _kill(actors: Sequence[Any]) -> None:
    for actor in actors:
        with suppress(RayError, ValueError):
            ray.kill(actor)


def bounded(fn: Callable[..., Any], *args: Any) -> None:
    """Call `fn`, but wait at most STOP_SECONDS for its end: without the head some calls of Ray never return."""
    thread = threading.Thread(target=fn, args=args, daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)


def variables() -> dict[str, str]:
    """Return the environment that workers get from this process."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED)}


@contextmanager
def connected(address: str | None, num_cpus: int | None = None) -> Iterator[int]:
    """Connect to a cluster during the block.

    A cluster of one node that listens on the loopback interface only is started without an address.

    Args:
      address: HOST:PORT of the head; 'auto' for that of $RAY_ADDRESS or of the cluster that runs on this machine; None to start
        one.
      num_cpus: Workers that a cluster started here is to have; by default one for each CPU.

    Yields:
      The number of workers that fit: one for each GPU, or for each CPU if there is no GPU.

    Raises:
      UserError: There is no cluster, or one with another version of Ray or Python.
    """
    if address not in (None, "auto"):
        _check_reachable(str(address))
    os.environ.setdefault(RECONNECT, str(RECONNECT_SECONDS))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    given: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it announces that it asks for a token
        given |= {"address": "local", "include_dashboard": False, "_node_ip_address": LOOPBACK}
        given |= {"object_store_memory": LOCAL_STORE, "num_cpus": num_cpus}
    else:
        given |= {"address": address}
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)} if is_main else {}
    try:
        ray.init(**given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        got = as_text(" ".join(str(error).split()).rstrip("."), 300)
        expected = "a Ray cluster with the versions of Ray and Python that this command has"
        raise fail("address", expected, got, "start one with `ray start --head`, or leave --address out") from error
    finally:
        for signum, handler in handlers.items():  # Ray's own would end the process without a word about --resume
            signal.signal(signum, handler)
    with silent():
        try:
            resources = ray.cluster_resources()
            yield max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))
        finally:
            bounded(ray.shutdown)


@contextmanager
def silent() -> Iterator[None]:
    """Keep what Ray says by itself, such as that a node is lost, out of stdout during the block: results stand there."""
    module, name = ray._private.worker, "_worker_logs_enabled"
    before = getattr(module, name, True)
    setattr(module, name, False)
    try:
        yield
    finally:
        setattr(module, name, before)


def unreachable(address: str) -> str:
    """Return why nobody accepts a connection at `address`; '' if someone does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _check_reachable(address: str) -> None:
    why = unreachable(address)
    if why:
        remedy = "check HOST:PORT, start one with `ray start --head`, or leave --address out"
        raise fail("address", "the head of a Ray cluster", f"{address} ({why})", remedy)
