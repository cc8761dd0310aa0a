"""Blocks of work, and how a worker process computes one piece by piece. Neither knows what a block computes."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from tfgradgen.core.arrays import StateError
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.text import as_text


class Piece(NamedTuple):
    """A part of the result of a block.

    Attributes:
      value: The part, picklable.
      resume: From what the block can go on after this piece, in another process; None if only from its start.
    """

    value: Any
    resume: Any = None


class Work(NamedTuple):
    """A block: what one worker computes by itself, and what has the same bits wherever and however often it runs.

    Attributes:
      fn: Function (spec, resume) -> pieces. It is at the top of a module, from which workers import it.
      spec: Its argument, picklable.
      resume: The `resume` of the last piece of an earlier attempt; None for none.
    """

    fn: Callable[[Any, Any], Iterator[Piece]]
    spec: Any
    resume: Any = None


class Failed(NamedTuple):
    """A `UserError` as a worker describes it. The text of a `StateError` is 'state', and its `what` is the other text."""

    text: str
    command_text: str
    can_resume: bool


class Reply(NamedTuple):
    """The answer of a worker.

    Attributes:
      kind: 'ready' (the worker is started), 'piece', 'end' (there is no further piece), 'error' (the block failed, and would
        fail again) or 'lost' (the worker is gone).
      token: Number of the attempt at a block that this answers; -1 for none.
      value: The description of a worker that is ready, a `Piece`, what `Failed`, or why the worker is lost.
    """

    kind: Literal["ready", "piece", "end", "error", "lost"]
    token: int = -1
    value: Any = None


class Runner:
    """The state of a worker process: the block that it computes."""

    def __init__(self) -> None:
        self._token, self._pieces = -1, iter(())  # type: tuple[int, Iterator[Piece]]

    def begin(self, token: int, work: Work) -> Reply:
        """Begin a block in place of the one before, and return its first piece."""
        self._token = token
        return self._answer(lambda: self._next(work.fn(work.spec, work.resume)))

    def step(self) -> Reply:
        """Return the next piece of the block."""
        return self._answer(lambda: self._next(self._pieces))

    def _next(self, pieces: Iterator[Piece]) -> Reply:
        self._pieces = iter(pieces)
        piece = next(self._pieces, None)
        return Reply("end", self._token) if piece is None else Reply("piece", self._token, piece)

    def _answer(self, fn: Callable[[], Reply]) -> Reply:
        try:
            return fn()
        except StateError as error:
            failed = Failed("state", error.what, False)
        except UserError as error:
            failed = Failed(str(error), error.command_text, error.can_resume)
        except Exception as error:  # of TensorFlow, or of memory: it ends the block, not the worker
            text = as_text(" ".join(str(getattr(error, "message", error)).split()) or type(error).__name__, 200)
            fault = fail("engine", "a block that runs to its end", text, "check the models and the machine of the worker")
            failed = Failed(str(fault), fault.command_text, True)
        self._pieces = iter(())
        return Reply("error", self._token, failed)


def error_of(failed: Failed) -> UserError:
    """Return the error that a worker described in a `Reply`."""
    if failed.text == "state":
        return StateError(failed.command_text)
    error = UserError(failed.text, failed.command_text)
    error.can_resume = failed.can_resume
    return error
