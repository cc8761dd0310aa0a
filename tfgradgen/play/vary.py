"""Images near one draw of a run: a few small steps of a Markov chain from it, which leave the posterior invariant.

The step is the preconditioned Crank-Nicolson Langevin proposal (Cotter, Roberts, Stuart and White 2013),

    z' = sqrt(1 - b^2) (z + drift) + b xi,   xi ~ Normal(0, I),

with the Metropolis test. It is `split_hmc` with one leapfrog step. Without a likelihood it would rotate z towards a prior draw,
and always be accepted. If the draw that it starts from has the posterior distribution, so has each image near it. They are not
independent of that draw, nor of one another.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

from tfgradgen.api import sample
from tfgradgen.core.checks import check_int, check_real
from tfgradgen.core.contracts import ChunkFn, ProgressFn
from tfgradgen.mcmc.recipe import Recipe, default_recipe
from tfgradgen.models.loading.settings import CLASSIFIER_FLAGS, GENERATOR_FLAGS
from tfgradgen.play.limits import AMOUNT, LEAST_AMOUNT, MOST_VARY_IMAGES, MOST_VARY_STEPS, VARY_IMAGES, VARY_STEPS
from tfgradgen.play.source import posterior_for
from tfgradgen.play.which import check_chain
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.record import MODELS, TEXTS, VARIED
from tfgradgen.results.result import SampleResult

KERNEL = "split_hmc"


def recipe_of(amount: float, num_steps: int) -> Recipe:
    """Return the recipe of `num_steps` transitions that, if all were accepted, would move by `amount`.

    A step of size s rotates z by the angle whose cosine is c = (1 - s^2 / 4) / (1 + s^2 / 4). After all of them, the part of z
    that is left of the start is c ** num_steps = sqrt(1 - amount^2).
    """
    cosine = math.sqrt(1.0 - amount**2) ** (1.0 / num_steps)
    step_size = 2.0 * math.sqrt((1.0 - cosine) / (1.0 + cosine))
    values = {"step_size": step_size, "num_leapfrog_steps": 1, "num_results": num_steps}
    return default_recipe(KERNEL).changed(values | {"num_burnin_steps": 0, "num_adaptation_steps": 0})


def vary(
    result: SampleResult,
    chain: int,
    *,
    amount: float = AMOUNT,
    num_images: int = VARY_IMAGES,
    num_steps: int = VARY_STEPS,
    seed: int = 0,
    posterior: ClassPosterior | None = None,
    progress: bool | ProgressFn = False,
    chunk_fn: ChunkFn | None = None,
) -> SampleResult:
    """Draw images near the last draw of a chain.

    Args:
      result: A run of `sample` or `load_run`.
      chain: The number of the chain, from 0.
      amount: How far the images may go, 0.001..1: the share of z, in standard deviations of the prior, that would be
        replaced if all steps were accepted. At 1 nothing but the class would be left of the start.
      num_images: Number of images, 1..4096. Each has a chain of its own.
      num_steps: Number of steps to each image, 1..10000. More of them are smaller, so more of them are accepted.
      seed: 0..2**62 - 1.
      posterior: That of the run; by default its models are loaded again (see `load_posterior`).
      progress: Whether to show a progress bar, or a function that is called with each `Progress`.
      chunk_fn: A function that is called with each `Chunk`, as in `sample`.

    Returns:
      A result whose chains all start at that draw: z [num_steps, num_images, latent_dim], and the images of the last steps. The
      record's `varied` says of which run, chain and amount.

    Raises:
      UserError: An argument is out of its range, or the models of the run are not there.
    """
    chain = check_chain("chain", chain, result)
    amount = check_real("amount", amount, LEAST_AMOUNT, 1.0, inclusive_low=True, inclusive_high=True)
    num_images = check_int("num_images", num_images, 1, MOST_VARY_IMAGES)
    num_steps = check_int("num_steps", num_steps, 1, MOST_VARY_STEPS)
    target, recipe = posterior_for(result, chain, posterior), recipe_of(amount, num_steps)
    found = sample(
        target, recipe, num_chains=num_images, seed=seed, init=result.z[-1, chain], progress=progress, chunk_fn=chunk_fn
    )
    num_steps = len(found.z)  # fewer if `chunk_fn` ended it
    origin = {"run": str(result.folder or ""), "chain": chain, "amount": amount, "num_steps": num_steps}
    moved = _moved(found.record["arguments"], result.record)
    origin |= {"models": moved} if moved else {}
    # A start that is a draw of the posterior is an exact one, if the run it comes from says so of its images.
    num_exact = num_images if result.grades["images"] == "ok" else None
    said = {"command": "vary", VARIED: origin, "exact_starts": num_exact}
    return found.noted({**said, "arguments": _arguments(found.record, result.record) | moved})


def _moved(own: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    """Return where the models are now that are not where the run said, by flag; `own` are the arguments of the new run.

    The classifier of a text, or of several models, has no place of its own: then the run's is kept.
    """
    given = source["arguments"]
    found = {name: (str(given.get(name) or ""), str(own.get(name) or "")) for name in MODELS if name in source}
    if given.get("text") or "," in "".join(found.get("classifier", ())):
        found.pop("classifier", None)
    return {name: new for name, (old, new) in found.items() if old and new and os.path.abspath(old) != os.path.abspath(new)}


def _arguments(own: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the new run, with what the flags of the run it comes from said of the models."""
    given = source["arguments"]
    of_text = ("label", *TEXTS) if given.get("text") else ()  # the label of the run is then that of both
    names = (*GENERATOR_FLAGS, *CLASSIFIER_FLAGS, *of_text, "gradient_precision")
    said = {name: value for name, value in given.items() if name in names}
    # As the flags gave them: the path of a condition is that of all its classifiers, and of the text model.
    places = {name: given.get(name) or own["arguments"].get(name, "") for name in MODELS if name in source}
    return {**own["arguments"], **said, **places}
