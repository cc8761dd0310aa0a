"""The registry of kernels: one file each; add a file and its FAMILY here."""

from tfgradgen.mcmc import (
    chees,
    elliptical_slice,
    hmc,
    local_global,
    mala,
    map_ascent,
    nuts,
    replica_exchange,
    split_hmc,
)
from tfgradgen.mcmc.kernel import KernelFamily

_MODULES = (mala, hmc, split_hmc, nuts, chees, local_global, replica_exchange, elliptical_slice, map_ascent)
KERNELS: dict[str, KernelFamily] = {module.FAMILY.name: module.FAMILY for module in _MODULES}
