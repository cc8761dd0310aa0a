"""`tg.sample`: draws from a posterior by any method, with checks, starts, adaptation and diagnosis.

A call goes through six files:

1. This one: settings, the check of XLA, the loop over the chunks of a run.
2. `posterior.py`: `ClassPosterior`, the target density.
3. `mcmc/runs.py`: what a run of chains does before its first step: checks of the models, starts.
4. `mcmc/chains.py`: the compiled loop over transitions, one chunk at a time.
5. `mcmc/kernel.py`: the adaptation of the step size around a kernel.
6. `mcmc/mala.py`, or the file of another kernel: the transition itself.

`mcmc/registry.py` lists the methods by name. `results/result.py` defines the result. The `sample` command uses the same
functions, and stores chunks on disk between them.
"""

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tfgradgen.core.checks import check_choice, check_num_chains, did_you_mean, fail
from tfgradgen.core.config import KINDS_OF_START, KernelConfig, RunConfig
from tfgradgen.core.contracts import Chunk, ChunkFn, Draws, Jit, Progress, ProgressFn, collect
from tfgradgen.core.files import path_of
from tfgradgen.core.settings import settings_of as declared
from tfgradgen.core.text import value_text
from tfgradgen.diagnostics.model_checks import with_number, without_xla
from tfgradgen.diagnostics.stored_images import last_images
from tfgradgen.engine.blocks import blocks_of, check_block, joined_chunks, pieces_of
from tfgradgen.engine.engine import Place, checked_place, running
from tfgradgen.engine.places import check_surroundings
from tfgradgen.engine.posteriors import posterior_of, spec_of
from tfgradgen.engine.work import Piece, Work
from tfgradgen.io.images import decode
from tfgradgen.mcmc import auto, pool
from tfgradgen.mcmc.projection import at_photograph
from tfgradgen.mcmc.recipe import Recipe, default_recipe, settings_of
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.media.registry import MEDIUM, medium_of
from tfgradgen.models.outputs import labels_of
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.film import make_film
from tfgradgen.results.origin import plan
from tfgradgen.results.record import AUTO, BLOCK, PROJECTION, run_record, surroundings
from tfgradgen.results.result import SampleResult
from tfgradgen.results.summary import legend_of, title_of

ARGUMENTS = (
    "num_results",
    "num_burnin_steps",
    "num_adaptation_steps",
    "num_chains",
    "seed",
    "init",
    "jit",
    "progress",
    "chunk_fn",
    "block",
    "engine",
    "address",
    "devices",
)
COUNTS = ARGUMENTS[:3]


def sample(
    posterior: ClassPosterior,
    kernel: str | KernelConfig | Recipe = "mala",
    *,
    num_results: int | None = None,
    num_burnin_steps: int | None = None,
    num_adaptation_steps: int | None = None,
    num_chains: int | None = None,
    seed: int = 0,
    init: Any = "resample",
    jit: Jit = "auto",
    progress: bool | ProgressFn = False,
    chunk_fn: ChunkFn | None = None,
    block: int | None = None,
    engine: str = "local",
    address: str | None = None,
    devices: str | None = None,
    **settings: Any,
) -> SampleResult:
    """Sample from `posterior`.

    The models are checked first. Then the chains start, the step size is adapted during the burn-in and frozen, and the draws
    are diagnosed. The same arguments give the same draws, bit for bit, on the same machine and backend; the `sample` command
    gives them as well. TensorFloat-32 is switched off for the process (see `core.backend.full_float32`).

    Args:
      posterior: The target.
      kernel: One of:
        the name of a method in `tg.SAMPLERS`, such as 'mala', 'hmc', 'nuts', 'rejection' or 'smc';
        'auto', for the method that `mcmc.auto` chooses, which is the default of the `sample` command;
        the settings of a method, such as tg.MalaConfig(...); an HmcConfig selects hmc;
        a result of `tg.read_recipe`.
      num_results: Number of kept draws per chain, >= 1; for smc, particles per population. The default is the kernel's own.
      num_burnin_steps: Number of first transitions that are discarded, >= 0.
      num_adaptation_steps: How many of those adapt the step size. The default is the kernel's own share of them.
      num_chains: Number of independent chains, 1..4096, which run as one batch. The default is 16; for a posterior with a
        vector of labels it is the number of labels, and no other is possible.
      seed: 0..2**62 - 1.
      init: Where chains start: 'resample', at exact draws of the posterior, found among 256 prior draws per chain (at likely
        draws if the class is too rare); 'prior', at prior draws; 'annealed', at particles that move from the prior to
        the class while the temperature falls; a latent point [latent_dim] for all chains; or the file of a photograph, for all
        chains at the image nearest to it (`mcmc.projection`; how near is in the summary).
      jit: True for XLA, False for graph mode, or 'auto' for XLA if there is a GPU and XLA can compile the models.
      progress: Whether to show a progress bar, by tqdm; or a function that is called with each `Progress`.
      chunk_fn: A function that is called with each `Chunk`, while the chains run. The last images are those of
        `chunk.draws.z[-1]`, during the burn-in of `chunk.discarded.z[-1]`. If it returns True, the run ends there; the result
        is that of a run with as many draws, whose `num_results` is theirs.
      block: Number of chains that adapt and draw together, so that blocks can run on several machines or devices; None for all.
        The draws depend on it, but not on where the blocks run. A run of blocks takes no `chunk_fn`.
      engine: 'local', or 'ray' for a Ray cluster. Its workers load the models from their files again.
      address: Head of the cluster, HOST:PORT or 'auto'; None to start one on this machine.
      devices: GPUs that run the blocks, one process each: 'all', a number or '0,2'; None for this process. A script that gives
        it needs the usual `if __name__ == "__main__":`.
      **settings: Settings of the kernel, such as step_size or num_leapfrog_steps. The defaults suit the shipped models.

    Returns:
      The draws, with images and diagnosis: `grades` of the images and of the means, and the problems of the run in `issues`.

    Raises:
      UserError: An argument is out of its range or unknown to the kernel, the models would make the run wrong, or `chunk_fn`
        ended the run before its first draw.
    """
    _check_target(posterior)
    if chunk_fn is not None and not callable(chunk_fn):
        raise fail("chunk_fn", "a function that is called with each Chunk", value_text(chunk_fn), "give one, or leave it out")
    progress = _checked_progress(progress)
    counts = dict(zip(COUNTS, (num_results, num_burnin_steps, num_adaptation_steps), strict=True))
    given = settings | {name: value for name, value in counts.items() if value is not None}
    posterior, chosen, why_pool = with_number(posterior), None, ""
    init = _photograph(init) or init
    if kernel == auto.NAME:
        _check_known(auto.NAME, given, auto.known_settings())
        first = auto.CHOICES[0][0]
        run, why_pool = choose_jit(posterior, first, _run(posterior, first, num_chains, seed, init, jit))
        chosen = auto.choose(posterior, run)
        kernel = chosen.kernel
    place = checked_place(engine, address, devices)
    recipe = _recipe(kernel, {name: _as_python(value) for name, value in given.items()})
    run = _run(posterior, recipe.kernel, num_chains, seed, init, False if why_pool else jit)
    further: dict[str, Any] = {AUTO: chosen.stats} if chosen else {}
    at: dict[str, Any] = {}
    if isinstance(init, Path):
        run, further[PROJECTION] = at_photograph(posterior.networks, init, run)
        at = {"init_photograph": str(init)}
    block = None if block is None else check_block(_as_python(block), SAMPLERS[recipe.kernel], run.num_chains)
    if not (place.is_here and block is None):
        if chunk_fn:
            raise fail("chunk_fn", "a run that is not divided, in this process", "one", "leave it out, or block and engine")
        result = _divided(posterior, recipe, run, jit, place, block, progress)
        return result.noted(further | {"arguments": result.record["arguments"] | at}) if further else result
    run, why = choose_jit(posterior, recipe.kernel, run)
    why = why or why_pool
    arguments = _arguments(posterior, recipe, run, jit) | at
    planned = plan(_label(posterior), recipe.kernel, run, arguments, _models(posterior)) | further
    with bar(recipe.kernel, progress) as progress_fn:
        found = collect(_until(iter_chunks(posterior, recipe, run), chunk_fn), progress_fn)
    planned = _cut(planned, recipe, len(found.draws.z))
    warnings = [*found.stats.get("doubts", []), *([f"graph mode, without XLA: {why}"] if why else [])]
    return result_of(posterior, planned, found.draws, found.stats | {"doubts": warnings})


def _check_target(posterior: Any) -> None:
    """Raise `UserError` unless `sample` can draw from `posterior` as it is, at this place."""
    if not isinstance(posterior, ClassPosterior):
        remedy = "build one from a generator, a classifier and a label"
        raise fail("posterior", "a tfgradgen.ClassPosterior", type(posterior).__name__, remedy)
    if tf.inside_function():
        remedy = "call it outside; to compile chains yourself, use a kernel of TFP with the posterior's unnormalized_log_prob"
        raise fail("sample", "a call outside of tf.function", "one inside", remedy)
    posterior.check_without_regularization()
    for own in type(posterior).mro():
        if own is ClassPosterior:
            return
        changed = [name for name in vars(own) if callable(getattr(ClassPosterior, name, None)) and not name.startswith("__")]
        if changed:  # compiled functions build the target from the models and the label
            remedy = "sample it with a kernel of TFP, or change the models instead"
            raise fail("posterior", "the densities of ClassPosterior", f"a class with its own {', '.join(changed)}", remedy)


def _divided(
    posterior: ClassPosterior, recipe: Recipe, run: RunConfig, jit: Jit, place: Place, block: int | None, progress: Any
) -> SampleResult:
    """Return the result of a run whose blocks run in `place`."""
    runs = blocks_of(run, block)
    planned_fn = functools.partial(plan, _label(posterior), recipe.kernel)
    arguments = _arguments(posterior, recipe, run, jit) | ({BLOCK: block} if block else {})
    with running(place) as workers, bar(recipe.kernel, progress) as progress_fn:
        if workers is None:
            run, why = choose_jit(posterior, recipe.kernel, run)
            pieces = (
                (k, chunk) for k, own in enumerate(runs) for chunk in iter_chunks(posterior, recipe, replace(own, jit=run.jit))
            )
            found = joined_chunks(pieces, len(runs), progress_fn)
            planned = planned_fn(run, arguments, _models(posterior))
        else:
            spec = spec_of(posterior, workers)
            why, jit_there = workers.scheduler.call(Work(_backend_there, (spec, recipe, run)))
            run = replace(run, jit=jit_there)
            seen = workers.environment(run.jit)
            for k, own in enumerate(runs):
                there = (spec, recipe, replace(own, jit=run.jit), surroundings(seen))
                workers.scheduler.add(k, Work(_chunks_there, there))
            found = joined_chunks(pieces_of(workers.scheduler), len(runs), progress_fn)
            planned = planned_fn(run, arguments, _models(posterior)) | seen
    warnings = [*found.stats.get("doubts", []), *([f"graph mode, without XLA: {why}"] if why else [])]
    return result_of(posterior, planned, found.draws, found.stats | {"doubts": warnings})


def _backend_there(spec: Any, resume: Any) -> Iterator[Piece]:
    """Yield, in a worker, why it must use graph mode, if it must, and jit as it uses it."""
    described, recipe, run = spec
    run, why = choose_jit(posterior_of(described), recipe.kernel, run)
    yield Piece((why, run.jit))


def _chunks_there(spec: Any, resume: Resume | None) -> Iterator[Piece]:
    """Yield, in a worker, the chunks of a block."""
    described, recipe, run, expected = spec
    check_surroundings(expected, run.jit)
    for chunk in iter_chunks(posterior_of(described), recipe, run, resume):
        yield Piece(chunk._replace(discarded=None), Resume(chunk.state, chunk.stats))


def iter_chunks(posterior: ClassPosterior, recipe: Recipe, run: RunConfig, resume: Resume | None = None) -> Iterator[Chunk]:
    """Run a method chunk by chunk, from its checks to its end, or from `resume`.

    Args:
      posterior: The target.
      recipe: Kernel, settings and counts.
      run: Settings of the run. Its temperature is the posterior's, or left at its default.
      resume: The state and statistics of the last chunk of the run to continue; None for a new run.

    Returns:
      An iterator of chunks. The `stats` of each hold all that is known of the run so far, including num_gradients, num_forward
      and seconds.

    Raises:
      UserError: `run` has another temperature than the posterior, or the posterior has a regularization.
    """
    posterior.check_without_regularization()
    posterior.check_run(run)
    return _chunks(posterior, recipe, replace(run, temperature=float(posterior.temperature)), resume)


def _chunks(posterior: ClassPosterior, recipe: Recipe, run: RunConfig, resume: Resume | None) -> Iterator[Chunk]:
    stats = {} if resume is None else dict(resume.stats)
    start = time.monotonic() - stats.get("seconds", 0.0)
    for chunk in SAMPLERS[recipe.kernel].chunks_fn(posterior, recipe.config, recipe.schedule, run, resume):
        stats = stats | chunk.stats | chunk.cost._asdict() | {"seconds": time.monotonic() - start}
        yield chunk._replace(stats=stats)


def _until(chunks: Iterator[Chunk], chunk_fn: ChunkFn | None) -> Iterator[Chunk]:
    """Yield `chunks` up to the one of which `chunk_fn` returns True."""
    for chunk in chunks:
        yield chunk
        if chunk_fn and chunk_fn(chunk):
            return


def _cut(planned: dict[str, Any], recipe: Recipe, num_results: int) -> dict[str, Any]:
    """Return the plan of the run of the first `num_results` draws; `planned` if these are all.

    Raises:
      UserError: There is no draw.
    """
    if num_results == recipe.schedule.num_results:
        return planned
    if not num_results:
        raise fail("sample", "a draw of each chain", "chunk_fn, which ended the run before", "let it run longer")
    schedule = planned["arguments"]["schedule"] | {"num_results": num_results}
    return planned | {"arguments": planned["arguments"] | {"schedule": schedule}}


def choose_jit(posterior: ClassPosterior, kernel: str, run: RunConfig) -> tuple[RunConfig, str]:
    """Choose graph mode if jit='auto' would use XLA but XLA cannot compile the models.

    Returns:
      `run` in graph mode and the reason; otherwise `run` and ''.
    """
    takes_gradients = SAMPLERS[kernel].takes_gradients or run.starts_take_gradients
    why = (without_xla if takes_gradients else pool.without_xla)(posterior, run)
    return (replace(run, jit=False), why) if why else (run, "")


def result_of(posterior: ClassPosterior, planned: dict[str, Any], draws: Draws, stats: Mapping[str, Any]) -> SampleResult:
    """Return the result of a complete run.

    Args:
      posterior: The target.
      planned: The `plan` of the run.
      draws: All kept draws.
      stats: The statistics of the last chunk.
    """
    max_batch = posterior.networks.max_batch

    def finish() -> tuple[dict[str, Any], np.ndarray]:
        stored, warnings = last_images(posterior, draws, max_batch)
        medium = medium_of(posterior.generator, stored.shape[1:])
        return run_record({**planned, MEDIUM: medium.record}, draws, {**stats, "image_doubts": warnings}), stored

    def film() -> Image.Image:
        decode_fn = functools.partial(decode, posterior.generator, batch_size=max_batch)
        return make_film(decode_fn, draws, f"{title_of(planned)}\n{legend_of(planned)}")

    return SampleResult(planned, draws, finish, film)


def _recipe(kernel: Any, values: dict[str, Any]) -> Recipe:
    """Return kernel, settings and counts from a name, a config or a recipe; `values` override them."""
    if isinstance(kernel, Recipe):
        base = kernel
    elif isinstance(kernel, KernelConfig):
        named = [name for name, preset in SAMPLERS.items() if type(preset.defaults) is type(kernel)]
        if type(kernel) is KernelConfig or not named:
            raise fail(
                "kernel", "a config of one kernel", type(kernel).__name__, f"give one of {', '.join(SAMPLERS)} by its name"
            )
        base = Recipe(named[0], kernel, SAMPLERS[named[0]].schedule)
    else:
        base = default_recipe(check_choice("kernel", kernel, (*SAMPLERS, auto.NAME)))
    _check_known(base.kernel, values, settings_of(SAMPLERS[base.kernel]))
    return base.changed(values)


def _check_known(kernel: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `UserError` if one of `values` is not among the `known` settings of `kernel`."""
    for name in values:
        if name not in known:
            listed = f"a setting of {kernel}: {', '.join(known)}"
            every = {*ARGUMENTS, *known}
            is_known = name in every or any(name in declared(sampler.defaults) for sampler in SAMPLERS.values())
            remedy = "leave it out, or choose another kernel" if is_known else ""
            raise fail(name, listed, value_text(values[name]), remedy or did_you_mean(name, every) or "leave it out")


def _run(posterior: ClassPosterior, kernel: str, num_chains: Any, seed: Any, init: Any, jit: Any) -> RunConfig:
    preset = SAMPLERS[kernel]
    start: dict[str, Any] = {"init": init}
    if isinstance(init, Path):
        start = {"init": "prior"}  # until the photograph is projected
    elif not isinstance(init, str):
        try:
            with np.errstate(over="ignore"):  # infinity is refused below
                z = np.asarray(init, np.float32)
        except (TypeError, ValueError):
            z = np.empty(0, np.float32)
        if z.shape != (posterior.latent_dim,) or not np.isfinite(z).all():
            expected = f"'resample', 'prior', 'annealed' or a latent point of {posterior.latent_dim} finite numbers"
            got = value_text(init) if z.shape == (posterior.latent_dim,) else f"shape {list(z.shape)}"
            raise fail("init", expected, got, "give one point, where all chains start")
        start = {"init": "given", "init_z": tuple(float(x) for x in z)}
    elif init == "given":
        raise fail("init", "'resample', 'prior', 'annealed' or a latent point", "'given'", "give the point itself")
    if num_chains is None:
        num_chains = posterior.batch_shape[0] if posterior.is_batched else RunConfig.num_chains
    num_chains, seed, jit = map(_as_python, (num_chains, seed, jit))
    run = RunConfig(num_chains=num_chains, temperature=float(posterior.temperature), seed=seed, jit=jit, **start)
    if not preset.takes_starts and run.init != "resample":
        raise fail("init", f"an argument that kernel {kernel} uses", value_text(init), "leave it out, or choose another kernel")
    check_num_chains(kernel, run.num_chains, preset.min_chains)
    if posterior.is_batched and run.num_chains != posterior.batch_shape[0]:
        count = posterior.batch_shape[0]
        expected = f"{count}, a chain for each label of the posterior"
        raise fail("num_chains", expected, run.num_chains, f"give num_chains={count}")
    return run


def _photograph(init: Any) -> Path | None:
    """Return the path of the photograph that `init` names; None if it says something else.

    Raises:
      UserError: It is text, but neither a kind of start nor a file.
    """
    if not isinstance(init, str | os.PathLike) or init in (*KINDS_OF_START, "given"):
        return None
    path = path_of("init", init)
    if not path.is_file():
        expected = f"{', '.join(map(repr, KINDS_OF_START))}, a latent point or the file of an image"
        raise fail("init", expected, value_text(init), did_you_mean(init, KINDS_OF_START) or "check the path")
    return path


def _as_python(value: Any) -> Any:
    """Return a NumPy number as a Python number, which JSON can represent; return other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def _label(posterior: ClassPosterior) -> dict[str, Any]:
    """Return index, name and WordNet id of the label.

    If each chain has its own label, index and WordNet id are lists, and the name joins all names.
    """
    index, names, labels = np.asarray(posterior.label), posterior.label_names, labels_of(posterior.classifier)
    wnids = [labels[int(k)].wnid if labels else "" for k in index.ravel()]
    one = index.ndim == 0
    return {
        "index": index.tolist(),
        "name": names[0] if one else ", ".join(dict.fromkeys(names)),
        "wnid": wnids[0] if one else wnids,
    }


def _models(posterior: ClassPosterior) -> dict[str, Any]:
    models = {"generator": posterior.generator, "classifier": posterior.classifier}
    return models | ({"discriminator": posterior.networks.discriminator} if posterior.has_energy else {})


def _arguments(posterior: ClassPosterior, recipe: Recipe, run: RunConfig, jit: Jit) -> dict[str, Any]:
    """Return all arguments as used, by their names in the command's record."""
    return {
        "label": _label(posterior)["name"],
        "kernel": recipe.kernel,
        "kernel_config": recipe.config.to_dict(),
        "schedule": recipe.schedule.to_dict(),
        **run.to_dict(),
        "jit": jit,
        **{role: getattr(model, "path", "") for role, model in _models(posterior).items()},
        "discriminator_weight": posterior.networks.discriminator_weight,
        "max_batch": posterior.networks.max_batch,
        "netcdf": False,
    }


@contextmanager
def bar(title: str, shown: bool | ProgressFn) -> Iterator[ProgressFn | None]:
    """Yield the function to call with each `Progress`: `shown` itself, or that of a bar of tqdm, in a notebook a widget."""
    shown = _checked_progress(shown)
    if shown is not True:
        yield shown or None
        return
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit="step") as drawn:

        def show(progress: Progress) -> None:
            drawn.total = progress.num_total
            drawn.set_postfix(progress.shown, refresh=False)
            drawn.update(progress.num_done - drawn.n)

        yield show


def _checked_progress(shown: Any) -> Any:
    """Return `shown`, True, False or a function.

    Raises:
      UserError: It is something else.
    """
    shown = _as_python(shown)
    if not (isinstance(shown, bool) or callable(shown)):
        raise fail("progress", "True, False or a function", value_text(shown), "give one of these")
    return shown
