"""The film of a chain: its images from the start through the burn-in to the last draw.

A run does not keep its burn-in. It is drawn again, which gives the same bits on the same machine: the first kept draws after it
must be those of the run. If they are not, as on another machine, the film says so and begins with the first kept draw.
"""

from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tfgradgen.api import bar
from tfgradgen.core.checks import check_choice, check_int, fail
from tfgradgen.core.contracts import ProgressFn
from tfgradgen.io.images import decode
from tfgradgen.mcmc.chains import chain_chunks
from tfgradgen.mcmc.registry import SAMPLERS, kernel_sampler
from tfgradgen.mcmc.runs import start_of
from tfgradgen.play.clip import Clip, origin_of
from tfgradgen.play.limits import FILM_FRAMES, MOST_FRAMES
from tfgradgen.play.source import Plan, load_posterior, plan_of, posterior_for
from tfgradgen.play.which import check_chain
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.result import SampleResult
from tfgradgen.results.summary import title_of

MOST_BURNIN = 100_000  # steps that are drawn again: a run.json that asks for more may come from outside
NOT_SAME = "this machine draws another chain from the same seed, so the film begins after the burn-in"


class Track(NamedTuple):
    """The points of a chain.

    Attributes:
      z: float32 [num_points, latent_dim].
      class_prob: float32 [num_points].
      has_moved: bool [num_points], whether the chain moved to this point.
      names: One per point, such as 'burn-in 3 of 36'.
    """

    z: np.ndarray
    class_prob: np.ndarray
    has_moved: np.ndarray
    names: list[str]


def film(
    result: SampleResult,
    chain: int,
    *,
    frames: int = FILM_FRAMES,
    burnin: bool = True,
    posterior: ClassPosterior | None = None,
    progress: bool | ProgressFn = False,
) -> Clip:
    """Return the images of a chain along the run.

    Args:
      result: A run of `sample` or `load_run`.
      chain: The number of the chain, from 0.
      frames: Most images, 2..2000, evenly spaced from the first to the last.
      burnin: Whether to begin at the start of the chain. The burn-in of the run is then drawn again, with all its chains.
      posterior: That of the run; by default its models are loaded again (see `load_posterior`).
      progress: Whether to show a progress bar, or a function that is called with each `Progress`.

    Returns:
      The frames. The record has a `warning` if the burn-in could not be drawn again as it was.

    Raises:
      UserError: An argument is out of its range, or the models of the run are not there.
    """
    chain, frames = check_chain("chain", chain, result), check_int("frames", frames, 2, MOST_FRAMES)
    check_choice("burnin", burnin, (True, False))
    whole = load_posterior(result) if posterior is None else posterior
    own, plan, draws = posterior_for(result, chain, whole), plan_of(result.record), result.draws
    kept = len(draws.z)
    names = [f"draw {k} of {kept}" for k in range(1, kept + 1)]
    track = Track(draws.z[:, chain], draws.class_prob[:, chain], draws.is_accepted[:, chain], names)
    warning = ""
    if burnin and SAMPLERS[plan.recipe.kernel].takes_starts and plan.recipe.schedule.num_burnin_steps:
        with bar("burn-in", progress) as progress_fn:
            before = drawn_again(whole, plan, result, chain, progress_fn)
        warning = "" if before else NOT_SAME
        track = _joined(before, track) if before else track
    shown = np.unique(np.rint(np.linspace(0, len(track.z) - 1, frames)).astype(int))
    images = decode(own.generator, track.z[shown], own.networks.max_batch)
    captions = tuple(
        f"{track.names[k]}, p {track.class_prob[k]:.2f}{'' if moved else ', not moved'}"
        for k, moved in zip(shown, _moved(track.has_moved, shown), strict=True)
    )
    said = {
        "command": "film",
        "run": str(result.folder or ""),
        "chain": chain,
        "frames": len(shown),
        "burnin": burnin,
        **({"warning": warning} if warning else {}),
        "points": [track.names[k] for k in shown],
        "class_prob": [float(track.class_prob[k]) for k in shown],
        **origin_of(result.record),
    }
    title = f"{title_of(result.record)}, chain {chain}"
    return Clip(images, track.z[shown], track.class_prob[shown], captions, title, said)


def drawn_again(
    posterior: ClassPosterior, plan: Plan, result: SampleResult, chain: int, progress_fn: ProgressFn | None
) -> Track | None:
    """Return the start and the burn-in of a chain, drawn again; None if the draws after it are not those of the run."""
    recipe, place = plan.recipe, plan.first + chain
    run = replace(plan.run, temperature=float(posterior.temperature))
    if plan.labels is not None:  # the noise of a batch of labels belongs to the whole batch
        posterior = posterior.copy(label=plan.labels)
        run = replace(run, num_chains=len(plan.labels))
    num_burnin = recipe.schedule.num_burnin_steps
    if num_burnin > MOST_BURNIN:
        remedy = "film the draws alone, with --burnin=false"
        raise fail("film", f"a burn-in of at most {MOST_BURNIN} steps to draw again", num_burnin, remedy)
    sampler, config = kernel_sampler(recipe.kernel), recipe.config
    starts, target, _ = start_of(posterior, sampler, config, run)
    schedule = replace(recipe.schedule, num_results=1)  # the first draw shows whether the chains are the same
    parts = []
    for chunk in chain_chunks(target, recipe.kernel, config, schedule, run, starts):
        if chunk.discarded is None:
            own = slice(plan.first, plan.first + result.z.shape[1])
            if not np.array_equal(chunk.draws.z[0, own], result.z[0]):
                return None
            break
        parts.append([getattr(chunk.discarded, name)[:, place].copy() for name in _FIELDS])
        if progress_fn:
            progress_fn(chunk.progress._replace(num_total=num_burnin))
    z, prob, moved = (np.concatenate(column) for column in zip(*parts, strict=True))
    points = np.asarray(starts)
    start = (points if points.ndim == 2 else points[0])[place][None]  # of replicas, the first has the target
    first = np.exp(np.asarray(_own(posterior, plan, chain).class_log_prob(start)))
    names = ["start", *(f"burn-in {k} of {num_burnin}" for k in range(1, num_burnin + 1))]
    return Track(np.concatenate([start, z]), np.concatenate([first, prob]), np.concatenate([[True], moved]), names)


_FIELDS = ("z", "class_prob", "is_accepted")


def _own(posterior: ClassPosterior, plan: Plan, chain: int) -> ClassPosterior:
    return posterior.copy(label=int(plan.labels[plan.first + chain])) if plan.labels is not None else posterior


def _joined(before: Track, after: Track) -> Track:
    z, prob, moved = (np.concatenate([a, b]) for a, b in zip(before[:3], after[:3], strict=True))
    return Track(z, prob, moved, [*before.names, *after.names])


def _moved(has_moved: np.ndarray, shown: np.ndarray) -> list[bool]:
    """Return for each shown point whether the chain has moved since the one before it; the first one counts as moved."""
    return [True, *(bool(has_moved[a + 1 : b + 1].any()) for a, b in pairwise(shown))]
