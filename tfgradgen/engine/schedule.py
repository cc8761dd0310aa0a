"""The distribution of blocks over workers that may be lost: a block goes on from its last piece, elsewhere if need be."""

import logging
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from tfgradgen.core.checks import UserError, fail
from tfgradgen.engine.work import Piece, Reply, Work, error_of

logger = logging.getLogger(__name__)

LOOKAHEAD = 2  # pieces of a block that are requested at a time, so that a worker does not wait for this process
TICK = 1.0  # seconds between looks at the clock
PATIENCE = 60.0  # seconds without any worker after which it is said what is awaited
MAX_LOSSES = 4  # workers lost in a row for each one in use, without a piece in between, after which it is no accident


class Fleet(Protocol):
    """Worker processes by number. Each answers what it is sent in turn, through a `work.Runner`."""

    def start(self, number: int) -> None:
        """Start a worker in place of any earlier one of that number; it answers 'ready'."""

    def begin(self, number: int, token: int, work: Work) -> None:
        """Send a block, of which it answers the first piece."""

    def step(self, number: int) -> None:
        """Ask for the next piece."""

    def wait(self, timeout: float) -> list[tuple[int, Reply]]:
        """Return answers as soon as there are some, or none after `timeout` seconds."""

    def share(self, value: Any) -> Any:
        """Return an object that stands for `value` in a spec and is sent to each machine at most once; it has `get()`."""

    def stop(self) -> None:
        """End all workers at once."""


class Event(NamedTuple):
    """What happened to a block.

    Attributes:
      key: That of `Scheduler.add`.
      piece: Its next piece; None at its end.
      error: Why it failed, which is its end; None if it did not.
    """

    key: Hashable
    piece: Piece | None
    error: UserError | None = None


class _Attempt(NamedTuple):
    key: Hashable
    work: Work


class Scheduler:
    """Runs blocks on the workers of a fleet.

    Args:
      fleet: The workers.
      num_workers: Most workers at a time. No more are started than there are blocks.

    Attributes:
      seen: What the first worker that was ready says of itself; None before.
      num_lost: Number of workers that were lost.
    """

    def __init__(self, fleet: Fleet, num_workers: int):
        self.fleet, self.num_workers = fleet, num_workers
        self.seen: Any = None
        self.num_lost = 0
        self._queue: deque[_Attempt] = deque()
        self._busy: dict[int, tuple[int, _Attempt]] = {}  # by worker, with the token
        self._idle: set[int] = set()
        self._starting: set[int] = set()
        self._num_tokens = self._losses = 0
        self._alive = time.monotonic()

    @property
    def num_open(self) -> int:
        """Number of blocks that wait or run."""
        return len(self._queue) + len(self._busy)

    def add(self, key: Hashable, work: Work) -> None:
        """Append a block, known by `key` in events."""
        self._queue.append(_Attempt(key, work))

    def events(self) -> Iterator[Event]:
        """Run all blocks, with those that are added meanwhile, and yield what happens.

        The pieces of one block come in their order, each once. Those of several blocks come as they are ready.

        Raises:
          UserError: Workers are lost one after another.
        """
        self._alive = time.monotonic()
        while self.num_open:
            self._assign()
            replies = self.fleet.wait(TICK)
            self._check_patience(bool(replies))
            for number, reply in replies:
                event = self._take(number, reply)
                if event:
                    yield event

    def all_of(self, works: Mapping[Any, Work]) -> dict[Any, Any]:
        """Return the value of the last piece of each block by key.

        Raises:
          UserError: A block failed.
        """
        found: dict[Any, Any] = {}
        for key, work in works.items():
            self.add(key, work)
        for event in self.events():
            if event.error:
                raise event.error
            if event.piece:
                found[event.key] = event.piece.value
        return {key: found[key] for key in works}

    def call(self, work: Work) -> Any:
        """Return the value of the last piece of one block; raise `UserError` if it failed."""
        return self.all_of({"": work})[""]

    def start_one(self) -> None:
        """Start a worker unless there is one, without waiting for it."""
        if not (self._starting or self._idle or self._busy):
            self._start(0)

    def wait_for_one(self) -> Any:
        """Return `seen`, as soon as a worker is ready."""
        self._alive = time.monotonic()
        while self.seen is None:
            self.start_one()
            replies = self.fleet.wait(TICK)
            self._check_patience(bool(replies))
            for number, reply in replies:
                self._take(number, reply)
        return self.seen

    def _start(self, number: int) -> None:
        self._starting.add(number)
        self.fleet.start(number)

    def _assign(self) -> None:
        while self._idle and self._queue:
            number, attempt = self._idle.pop(), self._queue.popleft()
            self._num_tokens += 1
            self._busy[number] = self._num_tokens, attempt
            self.fleet.begin(number, self._num_tokens, attempt.work)
            for _ in range(LOOKAHEAD - 1):
                self.fleet.step(number)
        free = (k for k in range(self.num_workers) if k not in self._starting and k not in self._busy and k not in self._idle)
        for number in [*free][: max(0, len(self._queue) - len(self._starting))]:
            self._start(number)

    def _take(self, number: int, reply: Reply) -> Event | None:
        if reply.kind == "ready":
            self._starting.discard(number)
            self._idle.add(number)
            self.seen = self.seen or reply.value
            return None
        if reply.kind == "lost":
            self._lose(number, str(reply.value))
            return None
        token, attempt = self._busy.get(number, (-1, None))
        if attempt is None or reply.token != token:  # a piece that was requested beyond the end
            return None
        self._losses = 0
        if reply.kind == "piece":
            self._busy[number] = token, attempt._replace(work=attempt.work._replace(resume=reply.value.resume))
            self.fleet.step(number)
            return Event(attempt.key, reply.value)
        del self._busy[number]
        self._idle.add(number)
        return Event(attempt.key, None, error_of(reply.value) if reply.kind == "error" else None)

    def _lose(self, number: int, why: str) -> None:
        """Put the block of a lost worker first in the queue."""
        _, attempt = self._busy.pop(number, (-1, None))
        self._idle.discard(number)
        self._starting.discard(number)
        if attempt:
            self._queue.appendleft(attempt)
            logger.info("a worker was lost (%s): its block goes on from its last checkpoint elsewhere", why)
        self.num_lost += 1
        self._losses += 1
        if self._losses > MAX_LOSSES * self.num_workers:
            remedy = "look at the logs of the workers; --resume goes on with what was drawn"
            error = fail("engine", "workers that stay alive", f"{self._losses} lost in a row, the last one: {why}", remedy)
            error.can_resume = True
            raise error

    def _check_patience(self, is_heard: bool) -> None:
        now = time.monotonic()
        if is_heard or self._busy:
            self._alive = now
        elif now - self._alive > PATIENCE:
            self._alive = now
            logger.info("no worker is ready: the cluster has no free CPU or GPU, or is starting one")
