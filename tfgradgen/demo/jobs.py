"""A queue that runs one job at a time, and what a page may see of each job. Does not import TensorFlow."""

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from tfgradgen.core.checks import UserError
from tfgradgen.serving.rest import Refusal

ENDED = ("done", "stopped", "failed")
FAILED = "the demo failed; its own output says why"
MAX_OTHERS = 32  # ended jobs without results that are kept, so that a page still learns how its job ended
NO_JOB = "this run is not kept any longer; draw again"


class EndedEarly(Exception):
    """Raised within the work of a job to end it, because it was stopped."""


class Job:
    """One request: to draw, to vary, or to interpolate.

    Args:
      work_fn: Function that does the work. It calls `show`, and ends soon after `is_stopped` is True.

    Attributes:
      id: Random; whoever does not know it cannot see the job.
      result: What `work_fn` left, if anything.
    """

    def __init__(self, work_fn: Callable[["Job"], None]):
        self.id, self.result = secrets.token_hex(16), None
        self.lock = threading.Lock()  # held while files of the job are made
        self._work_fn, self._stop, self._changing = work_fn, threading.Event(), threading.Lock()
        self._version, self._view = 0, dict[str, Any](state="waiting", place=0)

    result: Any

    @property
    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def show(self, **entries: Any) -> None:
        """Change what the page sees."""
        with self._changing:
            self._view = {**self._view, **entries}
            self._version += 1

    def view(self) -> tuple[int, dict[str, Any]]:
        """Return what the page sees, JSON-serializable, and a number that grows with each change."""
        with self._changing:
            return self._version, self._view

    @property
    def has_ended(self) -> bool:
        return self.view()[1]["state"] in ENDED

    def stop(self) -> None:
        """Ask the job to end; it does so after the chunk that is being computed."""
        self._stop.set()

    def run(self) -> BaseException | None:
        """Do the work. Return the exception behind a failure that is not the user's."""
        self.show(state="running")
        try:
            self._work_fn(self)
        except EndedEarly:
            self.show(state="stopped")
        except UserError as error:
            if self.is_stopped:
                self.show(state="stopped", error="stopped before the first draw, so nothing is kept")
            else:
                self.show(state="failed", error=str(error))
        except Exception as error:  # such as an error of TensorFlow, or too little memory
            self.show(state="failed", error=FAILED)
            return error
        else:
            self.show(state="stopped" if self.is_stopped else "done")
        return None


class Queue:
    """Jobs in order, of which a thread runs one at a time.

    Args:
      max_waiting: Jobs that may wait while one runs.
      max_kept: Ended jobs with results that are kept. Jobs without results do not count; `MAX_OTHERS` of them are kept.
      forget_fn: Function that is called with each job that is dropped.
      report_fn: Function that is called with each exception that is not the user's.
    """

    def __init__(
        self,
        max_waiting: int,
        max_kept: int,
        forget_fn: Callable[[Job], None] = lambda job: None,
        report_fn: Callable[[BaseException], None] = lambda error: None,
    ):
        self._max_waiting, self._max_kept = max_waiting, max_kept
        self._forget_fn, self._report_fn = forget_fn, report_fn
        self._changed, self._is_closed = threading.Condition(), False
        self._waiting: deque[Job] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._running: Job | None = None
        self._thread = threading.Thread(target=self._run, name="demo", daemon=True)

    def start(self) -> None:
        """Begin to run jobs."""
        self._thread.start()

    def add(self, job: Job) -> Job:
        """Put a job at the end of the queue.

        Raises:
          Refusal: The queue is full.
        """
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                raise Refusal(503, "others are waiting and the queue is full; try again later")
            self._drop_old()
            self._waiting.append(job)
            self._jobs[job.id] = job
            self._show_places()
            self._changed.notify_all()
        return job

    def find(self, key: str) -> Job:
        """Return the job with this id.

        Raises:
          Refusal: There is none.
        """
        with self._changed:
            if key not in self._jobs:
                raise Refusal(404, NO_JOB)
            return self._jobs[key]

    def stop(self, job: Job) -> None:
        """Stop a job, at once if it waits."""
        with self._changed:
            job.stop()
            if job in self._waiting:
                self._waiting.remove(job)
                job.show(state="stopped")
                self._show_places()
                self._drop_old()

    def close(self, seconds: float) -> bool:
        """Stop all jobs. Return whether the one that runs ended within `seconds`."""
        with self._changed:
            self._is_closed = True
            for job in self._jobs.values():
                job.stop()
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._drop_old()
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_closed)
                if self._is_closed:
                    return
                self._running = job = self._waiting.popleft()
                self._show_places()
            error = job.run()
            if error is not None:
                self._report_fn(error)
            del job

    def _show_places(self) -> None:
        for place, job in enumerate(self._waiting, start=1):
            job.show(place=place)

    def _drop_old(self) -> None:
        ended = [job for job in self._jobs.values() if job.has_ended and job is not self._running]
        for has_result, most in ((True, self._max_kept), (False, MAX_OTHERS)):
            jobs = [job for job in ended if (job.result is not None) == has_result]
            for job in jobs[: max(0, len(jobs) - most)]:
                del self._jobs[job.id]
                self._forget_fn(job)
