"""The kernels that `tune` searches, and made-up runs of it."""

from tfgradgen.core.config import AdaptedConfig
from tfgradgen.mcmc.registry import kernel_samplers
from tfgradgen.tuning.objective import Cell

TUNABLE = [name for name, family in kernel_samplers().items() if isinstance(family.defaults, AdaptedConfig)]
LONG = 400  # gradients of a run


def cell_of(per_1000: float, *issues: str, accept_rate: float = 0.6, num_results: int = 50) -> Cell:
    trace = {"gradients": [1.0, float(LONG)], "step_size": [0.2, 0.3], "accept_rate": [0.5, 0.6]}
    return Cell(per_1000, "class_prob", float(LONG), num_results, accept_rate, 0.01, 0.3, 1.1, list(issues), 0.5, trace, {})
