"""The rows of a comparison: a sampler and the settings that it runs with. Imports no TensorFlow."""

from dataclasses import dataclass, fields, replace
from typing import Any

from tfgradgen.core.checks import check_choice
from tfgradgen.core.config import KernelConfig
from tfgradgen.evaluation.report.figures import REGULARIZED, is_regularized
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a sampler with the settings that it runs with."""

    name: str
    sampler: Sampler
    config: KernelConfig

    @property
    def about(self) -> str:
        """One line: the settings."""
        return ", ".join(f"{name} {value}" for name, value in self.config.to_dict().items()) or "no settings"


def parse_entry(name: Any, class_reg: float) -> Entry:
    """`mala` or `mala+reg` -> the sampler with its default settings; `class_reg` is the weight of the regularization."""
    known = [*SAMPLERS, *(f"{key}{REGULARIZED}" for key, sampler in SAMPLERS.items() if _takes_reg(sampler))]
    check_choice("kernels", name, known)
    sampler = SAMPLERS[name.removesuffix(REGULARIZED)]
    own = {"class_reg": class_reg} if is_regularized(name) else {}
    return Entry(name, sampler, replace(sampler.defaults, **own))


def _takes_reg(sampler: Sampler) -> bool:
    return any(field.name == "class_reg" for field in fields(sampler.defaults))
