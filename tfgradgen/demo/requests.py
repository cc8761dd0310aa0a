"""Requests of the page: JSON to checked settings. Anyone who reaches the page can send any.

Values are checked by the settings that the command line uses, so they have the same bounds and errors.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tfgradgen.core.checks import check_choice, check_int, check_num_chains, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.settings import settings_of
from tfgradgen.core.text import value_text
from tfgradgen.mcmc import auto
from tfgradgen.mcmc.registry import SAMPLERS

KERNELS = (auto.NAME, *SAMPLERS)
MAX_BODY = 1 << 13  # bytes
MAX_LABEL = 200  # characters, of a condition as well
_RUN = settings_of(RunConfig)


@dataclass(frozen=True)
class Limits:
    """Bounds on a run, so that one page cannot keep the machine to itself.

    Attributes:
      max_chains: Most chains.
      max_draws: Most draws of each chain.
      max_waiting: Most jobs that wait.
      max_kept: Ended jobs whose results are kept.
    """

    max_chains: int = 64
    max_draws: int = 500
    max_waiting: int = 8
    max_kept: int = 6


@dataclass(frozen=True)
class Sample:
    """A request to draw. The names are those of `tg.sample`."""

    label: str
    kernel: str
    temperature: float
    num_chains: int
    num_results: int
    seed: int


@dataclass(frozen=True)
class Vary:
    """A request for more images like that of a chain of `run`, the id of a job."""

    run: str
    chain: int
    num_images: int
    seed: int


@dataclass(frozen=True)
class Morph:
    """A request for a film from the image of one chain of `run` to that of another."""

    run: str
    first: int
    last: int


def parse_request(body: bytes, limits: Limits) -> Sample | Vary | Morph:
    """Return the request in `body`.

    Raises:
      UserError: It is invalid; the first problem is named.
    """
    try:
        given = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise fail("request", "a JSON object", "something else", "use the page")
    kind = check_choice("kind", given.pop("kind", None), tuple(_READERS))
    read_fn, names = _READERS[kind]
    if given.keys() != names:
        raise fail("request", ", ".join(sorted(names)), value_text(sorted(given)), "use the page")
    return read_fn(given, limits)


def _sample(given: Mapping[str, Any], limits: Limits) -> Sample:
    kernel = check_choice("kernel", given["kernel"], KERNELS)
    num_chains = check_int("num_chains", given["num_chains"], 1, limits.max_chains)
    check_num_chains(kernel, num_chains, 1 if kernel == auto.NAME else SAMPLERS[kernel].min_chains)
    return Sample(
        label=_label(given["label"]),
        kernel=kernel,
        temperature=_RUN["temperature"].parsed("temperature", given["temperature"]),
        num_chains=num_chains,
        num_results=check_int("num_results", given["num_results"], 1, limits.max_draws),
        seed=_RUN["seed"].parsed("seed", given["seed"]),
    )


def _vary(given: Mapping[str, Any], limits: Limits) -> Vary:
    num_images = check_int("num_images", given["num_images"], 1, limits.max_chains)
    chain, seed = check_int("chain", given["chain"], 0), _RUN["seed"].parsed("seed", given["seed"])
    return Vary(_id(given["run"]), chain, num_images, seed)


def _morph(given: Mapping[str, Any], limits: Limits) -> Morph:
    return Morph(_id(given["run"]), check_int("first", given["first"], 0), check_int("last", given["last"], 0))


def _label(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_LABEL:
        expected = f"a class or a condition of at most {MAX_LABEL} characters"
        raise fail("label", expected, value_text(value), "give a name from the list, for example")
    return value.strip()


def _id(value: Any) -> str:
    if not isinstance(value, str):
        raise fail("run", "the id of a run", value_text(value), "use the page")
    return value


_Reader = Callable[[Mapping[str, Any], Limits], Sample | Vary | Morph]
_READERS: dict[str, tuple[_Reader, set[str]]] = {
    "sample": (_sample, {"label", "kernel", "temperature", "num_chains", "num_results", "seed"}),
    "vary": (_vary, {"run", "chain", "num_images", "seed"}),
    "morph": (_morph, {"run", "first", "last"}),
}
