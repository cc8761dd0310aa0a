"""Workers of an engine in the process of the test, which can be lost at a chosen reply."""

import pickle
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tfgradgen.engine.engine import Engine, Place
from tfgradgen.engine.shared import Inline
from tfgradgen.engine.work import Reply, Runner, Work
from tfgradgen.results.origin import environment


class HereFleet:
    """A fleet whose workers reply in turn. Messages are pickled, as for another process.

    Args:
      lost_at: Numbers of the replies, counted over all workers, at which the worker is lost instead.
      seen_fn: Called with each reply.
    """

    def __init__(self, lost_at: Collection[int] = (), seen_fn: Callable[[Reply], None] = lambda reply: None):
        self.lost_at, self.seen_fn = lost_at, seen_fn
        self.count = 0
        self.kinds: list[str] = []
        self._asked: dict[int, deque[Any]] = {}
        self._runners: dict[int, Runner] = {}
        self._turn = 0

    def start(self, number: int) -> None:
        self._runners[number] = Runner()
        self._asked[number] = deque(["ready"])

    def begin(self, number: int, token: int, work: Work) -> None:
        self._asked[number].append(pickle.dumps((token, work)))

    def step(self, number: int) -> None:
        self._asked[number].append(None)

    def share(self, value: Any) -> Any:
        return Inline(value)

    def wait(self, timeout: float) -> list[tuple[int, Reply]]:
        able = [number for number, asked in self._asked.items() if asked]
        if not able:
            return []
        self._turn += 1
        number = able[self._turn % len(able)]
        message = self._asked[number].popleft()
        if message == "ready":
            return [(number, Reply("ready", value=environment("auto")))]
        self.count += 1
        if self.count in self.lost_at:
            del self._asked[number], self._runners[number]
            reply = Reply("lost", value="it was killed")
        else:
            runner = self._runners[number]
            reply = runner.step() if message is None else runner.begin(*pickle.loads(message))
        self.kinds.append(reply.kind)
        self.seen_fn(reply)
        return [(number, reply)]

    def stop(self) -> None:
        self._asked.clear()


@contextmanager
def on_engine(engine: Engine) -> Iterator[list[Place]]:
    """Make commands with --engine=ray or --devices, and `tg.sample`, run on `engine` during the block.

    Yields the places that they ask for.
    """
    places: list[Place] = []

    @contextmanager
    def running(place: Place) -> Iterator[Engine | None]:
        places.append(place)
        yield None if place.is_here else engine

    with pytest.MonkeyPatch.context() as patch:
        for module in ("api", "cli.sample", "cli.compare", "cli.tune"):
            patch.setattr(f"tfgradgen.{module}.running", running)
        yield places


@contextmanager
def on_fleet(fleet: Any, num_workers: int = 2, is_elsewhere: bool = False) -> Iterator[Engine]:
    """As `on_engine`, with an engine of the workers of `fleet`; yields it."""
    engine = Engine(fleet, num_workers, is_elsewhere)
    with on_engine(engine):
        yield engine
