"""What a job does: it draws, varies or interpolates, and shows the images while the chains run."""

import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfgradgen.api import sample
from tfgradgen.core.checks import fail
from tfgradgen.core.contracts import Chunk, Networks, Progress
from tfgradgen.core.files import atomic_file
from tfgradgen.core.text import as_text, value_text
from tfgradgen.demo.jobs import EndedEarly, Job, Queue
from tfgradgen.demo.requests import Limits, Morph, Sample, Vary
from tfgradgen.io.folders import safe_filename
from tfgradgen.io.images import decode
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.media.image import picture
from tfgradgen.media.medium import Medium
from tfgradgen.models.targets import Target
from tfgradgen.play.morph import morph
from tfgradgen.play.vary import vary
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.result import SampleResult
from tfgradgen.results.summary import title_of
from tfgradgen.serving.rest import Refusal
from tfgradgen.viewing.html import shrunk, source

SHOWN_PIXELS = 1_000_000  # of all images of a run on the page: they bound the size of an event
SHOW_SECONDS = 0.3  # between two sets of images of a run
FILM = ".webp"
NO_RESULT = "this run has no result, or none yet"
NO_DRAWS = "this run has no draws, or none yet"
NO_FILM = "this run has no film, or none yet"


class Models(Protocol):
    """The models, as the command line loads them."""

    @property
    def generator(self) -> Any: ...

    def targets(self, wanted: Any) -> list[Target]: ...
    def networks(self, target: Target) -> Networks: ...


class Run(NamedTuple):
    """The draws of an ended job, and the posterior that they belong to."""

    posterior: ClassPosterior
    result: SampleResult


class Film(NamedTuple):
    """The film of an ended job: its file, beside which lies its record, and its name for a download."""

    path: Path
    name: str


class Studio:
    """Makes jobs of requests.

    Args:
      models: The models.
      flags: What the command line said about them, for the record of each run.
      limits: Bounds on requests.
      folder: A private folder for films and downloads.
      report_fn: Function that is called with each exception that is not the user's.
    """

    def __init__(
        self,
        models: Models,
        flags: dict[str, Any],
        limits: Limits,
        folder: Path,
        report_fn: Callable[[BaseException], None] = lambda error: None,
    ):
        self.models, self.flags, self.limits, self.folder = models, flags, limits, folder
        self.queue = Queue(limits.max_waiting, limits.max_kept, self._forget, report_fn)

    def submit(self, request: Sample | Vary | Morph) -> Job:
        """Put a request into the queue.

        Raises:
          UserError: It names no class, or no chain of its run.
          Refusal: Its run is not kept, or the queue is full.
        """
        if isinstance(request, Sample):
            return self.queue.add(Job(self._sampling(request)))
        source = self.queue.find(request.run).result
        if not isinstance(source, Run):
            raise Refusal(404, NO_DRAWS)
        work_fn = self._varying(source, request) if isinstance(request, Vary) else self._morphing(source, request)
        return self.queue.add(Job(work_fn))

    def _sampling(self, request: Sample) -> Callable[[Job], None]:
        targets = self.models.targets(request.label)  # now, so that a wrong name is told at once
        if len(targets) != 1:
            raise fail("label", "one class or condition", f"{len(targets)} of them", "choose one")

        def work(job: Job) -> None:
            (target,) = targets
            is_late = request.kernel in SAMPLERS and SAMPLERS[request.kernel].kind == "particles"  # its draws come at the end
            job.show(title=f"{as_text(target.label.name)}, {request.kernel}, seed {request.seed}", late=is_late)
            posterior = ClassPosterior.of(self.models.networks(target), target.index, request.temperature)
            counts: dict[str, Any] = {"num_chains": request.num_chains, "num_results": request.num_results}
            shown = _shower(job, posterior)
            result = sample(posterior, request.kernel, seed=request.seed, chunk_fn=shown, **counts)
            arguments = {**result.record["arguments"], **self.flags}
            _finish(job, Run(posterior, result.noted({"arguments": arguments})))

        return work

    def _varying(self, source: Run, request: Vary) -> Callable[[Job], None]:
        _check_chains(source, request.chain)

        def work(job: Job) -> None:
            job.show(title=f"near chain {request.chain} of {title_of(source.result.record)}")
            shown, posterior = _shower(job, source.posterior), source.posterior
            settings: dict[str, Any] = {"num_images": request.num_images, "seed": request.seed}
            result = vary(source.result, request.chain, posterior=posterior, chunk_fn=shown, **settings)
            _finish(job, Run(posterior, result))

        return work

    def _morphing(self, source: Run, request: Morph) -> Callable[[Job], None]:
        _check_chains(source, request.first, request.last)

        def step(job: Job, progress: Progress) -> None:
            job.show(done=progress.num_done, total=progress.num_total)
            if job.is_stopped:
                raise EndedEarly

        def work(job: Job) -> None:
            job.show(title=f"from chain {request.first} to chain {request.last} of {title_of(source.result.record)}")
            clip = morph(
                source.result,
                request.first,
                request.last,
                posterior=source.posterior,
                progress=lambda progress: step(job, progress),
            )
            path = self.folder / f"{job.id}{FILM}"
            clip.save(path)
            job.result = Film(path, f"{as_text(source.result.record['label']['name'])}-{request.first}-{request.last}")
            least = clip.record["least_class_prob"]
            job.show(film=f"jobs/{job.id}/film{FILM}", download=f"jobs/{job.id}/run.zip", summary=f"least p(class) {least:.3f}")

        return work

    def archive(self, job: Job) -> tuple[Path, str]:
        """Return the zip of what a job made, written on first use, and a name for it.

        Raises:
          Refusal: The job made nothing.
        """
        made, path = job.result, self.folder / f"{job.id}.zip"
        if made is None:
            raise Refusal(404, NO_RESULT)
        name = made.name if isinstance(made, Film) else _name(made.result)
        name = safe_filename(name)
        with job.lock:
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=self.folder) as place:
                    if isinstance(made, Run):
                        made.result.write_into(Path(place))
                        files = sorted(Path(place).iterdir())
                    else:
                        files = [made.path, made.path.with_name(f"{made.path.name}.json")]
                    zipped = Path(place) / "all.zip"
                    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
                        for file in files:
                            own = file.name.replace(job.id, "film")
                            archive.write(file, f"{name}/{own}")
                    os.replace(zipped, path)
        return path, f"{name}.zip"

    def file(self, job: Job, chain: str) -> tuple[Path, str]:
        """Return the file of the last draw of a chain, by its number, and its media type; it is written on first use.

        Raises:
          Refusal: The job has no such draw.
        """
        made = job.result
        if not isinstance(made, Run):
            raise Refusal(404, NO_DRAWS)
        if chain not in map(str, range(len(made.result.media))):
            raise Refusal(404, f"draws: expected a number in 0..{len(made.result.media) - 1}, got {value_text(chain)}")
        medium, media, number = made.result.medium, made.result.media, int(chain)
        path = self.folder / f"{job.id}.{medium.file_name(number, len(media))}"
        with job.lock:
            if not path.exists():
                with atomic_file(path) as stream:
                    stream.write(medium.file(media[number]))
        return path, medium.mime

    def _forget(self, job: Job) -> None:
        for path in self.folder.glob(f"{job.id}.*"):
            path.unlink(missing_ok=True)


def _check_chains(source: Run, *chains: int) -> None:
    most = source.result.z.shape[1] - 1
    for chain in chains:
        if chain > most:
            raise fail("chain", f"a number in 0..{most}", chain, f"choose one of the {source.result.medium.plural} of the run")
    if len(set(chains)) < len(chains):
        raise fail("chain", f"two different {source.result.medium.plural}", chains, "choose another one")


def _shower(job: Job, posterior: ClassPosterior) -> Callable[[Chunk], bool]:
    """Return the function that shows each chunk of a run; it returns whether the run is to end."""
    last = 0.0

    def show(chunk: Chunk) -> bool:
        nonlocal last
        progress, now = chunk.progress, time.monotonic()
        job.show(done=progress.num_done, total=progress.num_total, measured=progress.shown)
        drawn = next((draws for draws in (chunk.draws, chunk.discarded) if draws is not None and len(draws.z)), None)
        if drawn is not None and now - last >= SHOW_SECONDS:
            last = now
            images = decode(posterior.generator, drawn.z[-1], posterior.networks.max_batch)
            _show_images(job, images, drawn.class_prob[-1])
        return job.is_stopped

    return show


def _show_images(job: Job, images: np.ndarray, class_prob: Sequence[float] | np.ndarray) -> None:
    job.show(
        images=[source(image) for image in shrunk([picture(pixels) for pixels in images], SHOWN_PIXELS)],
        probs=[round(float(prob), 3) if np.isfinite(prob) else None for prob in class_prob],
    )


def _finish(job: Job, run: Run) -> None:
    """Show the end of a run; its result is kept with the job."""
    _show_images(job, run.result.images, run.result.class_prob[-1])
    text = run.result.summary()
    job.result = run
    files = [f"jobs/{job.id}/draws/{chain}" for chain in range(len(run.result.media))]
    title, archive = title_of(run.result.record), f"jobs/{job.id}/run.zip"
    job.show(run=job.id, title=title, summary=text, download=archive, files=files, medium=_shown_medium(run.result.medium))


def _shown_medium(medium: Medium) -> dict[str, Any]:
    """Return what the page needs to know of a medium: its files are played, shown in place of the stills, or only linked."""
    use = "play" if medium.is_audible else "show" if medium.is_small else "link"
    return {"noun": medium.noun, "ending": medium.ending, "use": use}


def _name(result: SampleResult) -> str:
    record = result.record
    return f"{as_text(record['label']['name'])}-{record['kernel']}-{record['seed']}"
