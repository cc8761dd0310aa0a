"""What workers of an engine run for the commands: functions of picklable specs, which workers import by their names."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from tfgradgen.api import choose_jit, iter_chunks
from tfgradgen.cli.groups import batch_posterior
from tfgradgen.cli.load import Loaded, load_models
from tfgradgen.cli.model_options import ModelOptions
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import Volume, volume
from tfgradgen.core.checks import fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Jit
from tfgradgen.engine.engine import Engine
from tfgradgen.engine.models import NONE_SENT, Sent, send
from tfgradgen.engine.places import check_surroundings
from tfgradgen.engine.posteriors import names_of
from tfgradgen.engine.work import Piece, Work
from tfgradgen.mcmc.pool import pool_of
from tfgradgen.mcmc.recipe import Recipe
from tfgradgen.mcmc.sampler import Resume
from tfgradgen.models.targets import Target
from tfgradgen.posterior import ClassPosterior


@dataclass(frozen=True)
class Models:
    """The models of a command, for its workers.

    Attributes:
      options: The options that name them.
      gradient_precision: See `load_models`.
      sent: Their files, for workers that lack them.
    """

    options: ModelOptions
    gradient_precision: str = "float32"
    sent: Sent = NONE_SENT

    @property
    def key(self) -> str:
        """What distinguishes models, for the cache of a worker."""
        return repr((self.options, self.gradient_precision, self.sent.sha256))


_LOADED: dict[str, Loaded] = {}  # the models of the last command


def models_for(engine: Engine, options: ModelOptions, loaded: Loaded, gradient_precision: str = "float32") -> Models:
    """Return the models as workers of `engine` get them: with their files, if these are on other machines."""
    if not engine.is_elsewhere:
        return Models(options, gradient_precision)
    if len(options.classifiers) == 1:  # names may come from a file that only this machine has
        options = replace(options, classifier_settings=options.classifier_settings | names_of(loaded.classifiers[0]))
    if options.captions:
        remedy = "leave it out, or --address"
        raise fail("reference_captions", "captions that all workers can read", "a file of this machine", remedy)
    further = [options.text_model if options.text is not None else None, options.discriminator]
    handles = [options.generator, *options.classifiers, *(handle for handle in further if handle)]
    return Models(options, gradient_precision, send(handles, engine.fleet.share))


def load_here(models: Models) -> Loaded:
    """Return the models in a worker, loaded once for all blocks."""
    if models.key not in _LOADED:
        _LOADED.clear()
        with ExitStack() as stack:
            stack.enter_context(volume(Volume.QUIET))
            folders = stack.enter_context(models.sent.folders())
            options = models.options
            options = replace(
                options,
                generator=folders.get(options.generator, options.generator),
                classifiers=tuple(folders.get(handle, handle) for handle in options.classifiers),
                text_model=folders.get(options.text_model, options.text_model),
                discriminator=folders.get(options.discriminator or "", options.discriminator),
            )
            _LOADED[models.key] = load_models(options, models.gradient_precision)
    return _LOADED[models.key]


@dataclass(frozen=True)
class Block:
    """Chains that run together: a block of one label, or a batch of several labels.

    Attributes:
      models: The models.
      label: The value of --label.
      places: Which of the targets that it names are sampled.
      recipe: Kernel, settings and counts.
      run: Settings of the block; its num_chains is that of one label.
      surroundings: What the record of the run says of the machine; {} for no check.
      pool: Shared rows of the pool of the seed, as `pool_rows` returns them; None for none.
    """

    models: Models
    label: Any
    places: tuple[int, ...]
    recipe: Recipe
    run: RunConfig
    surroundings: dict[str, Any] = field(default_factory=dict)
    pool: Any = None

    def targets(self) -> tuple[Loaded, list[Target]]:
        """Return the models and the targets, in a worker."""
        loaded = load_here(self.models)
        every = loaded.targets(self.label)
        return loaded, [every[k] for k in self.places]

    def posterior(self) -> ClassPosterior:
        """Return the posterior of all chains, in a worker."""
        loaded, targets = self.targets()
        return batch_posterior(loaded.networks(targets[0]), [target.index for target in targets], self.run)


def sample_chunks(block: Block, resume: Resume | None) -> Iterator[Piece]:
    """Yield the chunks of a run, as `iter_chunks` does, without the draws of the burn-in."""
    check_surroundings(block.surroundings, block.run.jit)
    posterior, run = block.posterior(), replace(block.run, num_chains=block.run.num_chains * len(block.places))
    if block.pool is not None and resume is None:
        owner, rows = block.pool.get()
        pool_of(posterior, run).adopt(owner, rows)
    for chunk in iter_chunks(posterior, block.recipe, run, resume):
        yield Piece(chunk._replace(discarded=None), Resume(chunk.state, chunk.stats))


def pool_rows(block: Block, resume: Any) -> Iterator[Piece]:
    """Yield the rows of the pool of prior draws from which the chains of `block` find their starts, once, with their owner."""
    check_surroundings(block.surroundings, block.run.jit)
    pool = pool_of(block.posterior(), block.run)
    yield Piece((pool.owner, pool.rows(block.run.num_chains * block.run.num_init_draws)))


def backend_of(block: Block, resume: Any) -> Iterator[Piece]:
    """Yield, once, jit as the worker must use it for these models, and why it is not 'auto'; '' if it is."""
    run, why = choose_jit(block.posterior(), block.recipe.kernel, block.run)
    yield Piece((run.jit, why))


def shared_pools(engine: Engine, blocks: Sequence[tuple[Any, Block]]) -> dict[tuple[Any, int], Any]:
    """Return shared rows of pools that several blocks need, each evaluated by one worker, by (networks, seed).

    Args:
      engine: The engine.
      blocks: All blocks whose chains start at draws of a pool, each with a hashable name of its networks.
    """
    users: dict[tuple[Any, int], list[Block]] = {}
    for networks, block in blocks:
        users.setdefault((networks, block.run.seed), []).append(block)
    works = {key: Work(pool_rows, mine[0]) for key, mine in users.items() if len(mine) > 1}
    return {key: engine.fleet.share(rows) for key, rows in engine.scheduler.all_of(works).items()}


@dataclass(frozen=True)
class Remote:
    """Workers, and the models that they load.

    Attributes:
      engine: The workers.
      models: The models.
      loaded: The models in this process.
    """

    engine: Engine
    models: Models
    loaded: Loaded

    def environment(self, jit: Jit) -> dict[str, Any]:
        """Return what a record says of the machine that computes, as of `results.origin.environment`."""
        return self.engine.environment(jit)

    def backend(self, options: SampleOptions, target: Target) -> tuple[Jit, str]:
        """Return what `backend_of` finds at a worker for `target`, one of those that --label names."""
        every = [(each.index, each.label) for each in self.loaded.targets(options.label)]
        place = every.index((target.index, target.label))
        run = replace(options.run, num_chains=1)
        block = Block(self.models, options.label, (place,), options.recipe, run)
        found: tuple[Jit, str] = self.engine.scheduler.call(Work(backend_of, block))
        return found


def remote_of(engine: Engine, options: ModelOptions, loaded: Loaded, gradient_precision: str = "float32") -> Remote:
    """Return the workers of `engine` with the models that `options` name and this process has `loaded`."""
    return Remote(engine, models_for(engine, options, loaded, gradient_precision), loaded)
