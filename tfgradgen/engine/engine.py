"""An engine: workers, the blocks that they run, and what their results record of the machine."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Jit
from tfgradgen.core.text import value_text
from tfgradgen.engine.schedule import Fleet, Scheduler

ENGINES = ("local", "ray")
ADDRESS = re.compile(r"(auto|(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5})", re.ASCII)
DEVICES = re.compile(r"all|\d{1,4}(,\d{1,4})*", re.ASCII)
RAY_MISSING = "Ray: pip install 'tfgradgen[ray]'"


class Place(NamedTuple):
    """Where blocks run.

    Attributes:
      engine: 'local' or 'ray'.
      address: Of a Ray cluster, 'auto' or HOST:PORT; None to start one on this machine.
      devices: 'all', a number of GPUs or numbers such as '0,2', for one process a GPU; None for this process.
    """

    engine: str = "local"
    address: str | None = None
    devices: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether blocks run in this process, one after another."""
        return self.engine == "local" and self.devices is None


def checked_place(engine: Any = "local", address: Any = None, devices: Any = None) -> Place:
    """Return the place that these arguments name.

    Raises:
      UserError: One is invalid or does not fit the others, or Ray is not installed.
    """
    if engine not in ENGINES:
        raise fail("engine", "one of local, ray", value_text(engine), "give --engine=ray, or leave it out")
    if address is not None and engine != "ray":
        raise fail("address", "--engine=ray with it", f"--engine={engine}", "add --engine=ray, or leave --address out")
    if address is not None and not ADDRESS.fullmatch(str(address)):
        raise fail("address", "auto or HOST:PORT", value_text(address), "give --address=auto, for example")
    if devices is not None and engine == "ray":
        raise fail("devices", "--engine=local with it", "--engine=ray", "leave it out: Ray gives each block a GPU of its own")
    if isinstance(devices, list | tuple):  # Fire parses 0,2
        devices = ",".join(map(str, devices))
    if devices is not None and (isinstance(devices, bool) or not DEVICES.fullmatch(str(devices))):
        raise fail("devices", "all, a number of GPUs, or their numbers as 0,2", value_text(devices), "give --devices=all")
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise fail("engine", RAY_MISSING, "none", "install it here and on every node, or leave --engine out")
    return Place(engine, None if address is None else str(address), None if devices is None else str(devices))


class Engine:
    """Workers that run blocks.

    Args:
      fleet: The workers.
      num_workers: Most of them at a time.
      is_elsewhere: Whether workers may be on other machines.
    """

    def __init__(self, fleet: Fleet, num_workers: int, is_elsewhere: bool):
        self.fleet, self.scheduler, self.is_elsewhere = fleet, Scheduler(fleet, num_workers), is_elsewhere
        self.scheduler.start_one()  # it starts while this process loads its models

    def environment(self, jit: Jit) -> dict[str, Any]:
        """Return what a record says of the machine (`results.origin.environment`), as a worker sees itself.

        The first worker that is ready speaks for all: a block refuses to run on a worker that differs.
        """
        seen: dict[str, Any] = self.scheduler.wait_for_one()
        xla = bool(seen["jit"]) if jit == "auto" else bool(jit)
        return seen | {"jit": xla, "backend": "xla" if xla else "graph"}


@contextmanager
def running(place: Place) -> Iterator[Engine | None]:
    """Start the workers of `place`, and end them after the block; None if blocks run in this process.

    Raises:
      UserError: There is no such device or cluster.
    """
    if place.is_here:
        yield None
    elif place.engine == "ray":
        from tfgradgen.engine.ray_workers import RayFleet, connected, variables

        with connected(place.address) as num_workers:
            fleet = RayFleet(variables())
            try:
                yield Engine(fleet, num_workers, is_elsewhere=place.address is not None)
            finally:
                fleet.stop()
    else:
        from tfgradgen.engine.devices import DeviceFleet, chosen_devices

        devices = DeviceFleet(chosen_devices(str(place.devices)))
        try:
            yield Engine(devices, len(devices.devices), is_elsewhere=False)
        finally:
            devices.stop()
