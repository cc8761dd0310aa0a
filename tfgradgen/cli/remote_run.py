"""The runs of `sample` on the workers of an engine: their chunks come back into the same stores as those of a run here."""

from collections import deque
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfgradgen.cli.draw import begin, complete, join, resume_of, stores_of, take
from tfgradgen.cli.groups import Group
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.progress import progress_bar
from tfgradgen.cli.remote import Block, Remote, sample_chunks, shared_pools
from tfgradgen.cli.run import DoneFn, GroupRun, drawing, finish, opened
from tfgradgen.cli.terminal import note
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Chunk, Progress
from tfgradgen.engine.blocks import blocks_of
from tfgradgen.engine.schedule import Event
from tfgradgen.engine.work import Work
from tfgradgen.evaluation.nearest import Gallery
from tfgradgen.io.store import RunStore
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.results.record import surroundings

OPEN_PER_WORKER = 2  # blocks that are open for each worker, so that it never waits for a group to be opened


@dataclass(frozen=True)
class Job:
    """A group to run, with the options that it runs with and the numbers of its targets among those of --label."""

    options: SampleOptions
    group: Group
    places: tuple[int, ...]

    @property
    def networks(self) -> tuple[Any, ...]:
        """What is equal for jobs that evaluate the same networks, as long as their groups exist."""
        generator, classifier, discriminator, *others = self.group.networks
        return (id(generator), id(classifier), id(discriminator), *others)

    @property
    def runs(self) -> list[RunConfig]:
        """The settings of its blocks; the num_chains of a batch is that of one label."""
        return blocks_of(self.options.run, self.options.block)


@dataclass
class _Active:
    """An open group: its lock and store, the stores of its blocks, and the numbers of those that are not done."""

    run: GroupRun
    stack: ExitStack
    stores: list[RunStore]
    left: set[int] = field(default_factory=set)


class RemoteRuns:
    """Runs groups on an engine.

    Args:
      remote: The workers.
      rows: Folders that are written already; grows while groups finish.
      done_fn: Called with each finished member (see `run_group`).
      gallery: The photographs that images are compared with; None for none.
    """

    def __init__(self, remote: Remote, rows: Collection[Path], done_fn: DoneFn, gallery: Gallery | None = None):
        self._gallery = gallery
        self._engine, self._models, self._rows, self._done_fn = remote.engine, remote.models, rows, done_fn
        self._pools: dict[tuple[object, int], object] = {}
        self._active: dict[int, _Active] = {}
        self._shares: dict[tuple[int, int], float] = {}  # how much of each block is done

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the groups and write their folders, each as soon as it is complete.

        Raises:
          UserError: A run failed.
          Stopped: A signal ended the command; what was drawn is kept.
        """
        total = sum(len(job.runs) for job in jobs)
        if total == 1:
            note("engine   one block, for one worker: --block=N divides the chains, and then the draws are others")
        self._share_pools(jobs)
        waiting = deque(enumerate(jobs))
        title = f"{jobs[0].options.kernel} {jobs[0].group.title if len(jobs) == 1 else f'{len(jobs)} runs'}"
        # The outer stack ends what is still open after an error, the last one first.
        with progress_bar(title, "block") as progress_fn, ExitStack() as stack:
            self._open_more(waiting, stack)
            for event in self._engine.scheduler.events():
                self._take(event)
                self._open_more(waiting, stack)
                if event.piece:
                    done = int(sum(self._shares.values()) + 1e-9)
                    progress_fn(event.piece.value.progress._replace(num_done=done, num_total=total))

    def _share_pools(self, jobs: Sequence[Job]) -> None:
        blocks = [
            (job.networks, self._block(job, run))
            for job in jobs
            if SAMPLERS[job.options.kernel].takes_starts and job.options.run.init == "resample"
            for run in job.runs
        ]
        self._pools = shared_pools(self._engine, blocks)

    def _block(self, job: Job, run: RunConfig) -> Block:
        expected = surroundings(self._engine.environment(run.jit))
        return Block(
            self._models,
            job.options.label,
            job.places,
            job.options.recipe,
            run,
            expected,
            self._pools.get((job.networks, run.seed)),
        )

    def _open_more(self, waiting: deque[tuple[int, Job]], stack: ExitStack) -> None:
        """Open groups until there are blocks enough for all workers."""
        while waiting and self._engine.scheduler.num_open < OPEN_PER_WORKER * self._engine.scheduler.num_workers:
            number, job = waiting.popleft()
            own = stack.enter_context(ExitStack())
            run = own.enter_context(opened(job.group, job.options, self._rows, self._gallery))
            with drawing(run):
                self._begin(number, job, run, own)

    def _begin(self, number: int, job: Job, run: GroupRun, stack: ExitStack) -> None:
        is_divided = job.options.block is not None
        stores = stores_of(run.store, job.runs, job.options) if is_divided else [run.store]
        active = _Active(run, stack, stores)
        for k, (settings, store) in enumerate(zip(job.runs, stores, strict=True)):
            whole = settings if is_divided else job.group.run_of(settings)
            resume = resume_of(job.group, whole, job.group.networks.generator.latent_dim, store)
            if resume is not None and len(store.draws().z) == job.options.schedule.num_results:
                continue
            active.left.add(k)
            self._engine.scheduler.add((number, k), Work(sample_chunks, self._block(job, settings), resume))
        self._active[number] = active
        if not active.left:
            self._finish(number)

    def _take(self, event: Event) -> None:
        key: tuple[int, int] = event.key  # type: ignore[assignment]
        number, k = key
        active = self._active[number]
        with drawing(active.run):
            if event.error:
                raise event.error
            if event.piece:
                self._append(active, k, event.piece.value)
                self._shares[number, k] = _share(event.piece.value.progress)
                return
            complete(active.stores[k], active.run.options)
        active.left.discard(k)
        self._shares[number, k] = 1.0
        if not active.left:
            self._finish(number)

    def _append(self, active: _Active, k: int, chunk: Chunk) -> None:
        store, run = active.stores[k], active.run
        if store is not run.store:
            begin(run.store, store, chunk)
        take(store, chunk)

    def _finish(self, number: int) -> None:
        active = self._active.pop(number)
        run = active.run
        with drawing(run):
            if active.stores[0] is not run.store:
                join(run.store, active.stores, run.options)
        with active.stack:
            finish(run, self._done_fn, run.options.schedule.num_results)


def _share(progress: Progress) -> float:
    return min(progress.num_done / max(progress.num_total, 1), 1.0)
