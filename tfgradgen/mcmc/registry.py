"""The registry of samplers.

To add a sampler, write its file in this folder, ending with its `SAMPLER`, and add the file's name to `FILES`.
"""

import importlib

from tfgradgen.core.checks import check_choice
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.sampler import Sampler

FILES = (
    "mala",
    "hmc",
    "split_hmc",
    "nuts",
    "chees",
    "local_global",
    "replica_exchange",
    "elliptical_slice",
    "surrogate",
    "map_ascent",
    "rejection",
    "smc",
    "hvi",
)


def load(file: str) -> dict[str, Sampler]:
    """Return the sampler in one file of this folder, by its name."""
    sampler: Sampler = importlib.import_module(f"tfgradgen.mcmc.{file}").SAMPLER
    return {sampler.name: sampler}


SAMPLERS: dict[str, Sampler] = {name: sampler for file in FILES for name, sampler in load(file).items()}


def kernel_samplers() -> dict[str, KernelSampler]:
    """Return the samplers that run chains of a transition kernel, by name."""
    return {name: sampler for name, sampler in SAMPLERS.items() if isinstance(sampler, KernelSampler)}


def kernel_sampler(name: str) -> KernelSampler:
    """Return the sampler `name`, which runs a kernel.

    Raises:
      UserError: There is no such sampler.
    """
    known = kernel_samplers()
    return known[check_choice("kernel", name, known)]
