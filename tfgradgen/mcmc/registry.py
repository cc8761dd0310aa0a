"""The registry of samplers: a file each, whose `SAMPLER` stands here."""

from tfgradgen.core.checks import check_choice
from tfgradgen.mcmc import (
    chees,
    elliptical_slice,
    hmc,
    local_global,
    mala,
    map_ascent,
    nuts,
    rejection,
    replica_exchange,
    smc,
    split_hmc,
)
from tfgradgen.mcmc.kernel import KernelSampler
from tfgradgen.mcmc.sampler import Sampler

_ALL: tuple[Sampler, ...] = (
    mala.SAMPLER,
    hmc.SAMPLER,
    split_hmc.SAMPLER,
    nuts.SAMPLER,
    chees.SAMPLER,
    local_global.SAMPLER,
    replica_exchange.SAMPLER,
    elliptical_slice.SAMPLER,
    map_ascent.SAMPLER,
    rejection.SAMPLER,
    smc.SAMPLER,
)
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _ALL}


def kernel_samplers() -> dict[str, KernelSampler]:
    """The samplers that run chains of a transition kernel, by name."""
    return {name: sampler for name, sampler in SAMPLERS.items() if isinstance(sampler, KernelSampler)}


def kernel_sampler(name: str) -> KernelSampler:
    """The sampler `name`, which runs a kernel.

    Raises:
      UserError: there is none of that name.
    """
    known = kernel_samplers()
    return known[check_choice("kernel", name, known)]
