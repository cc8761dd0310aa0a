"""The methods of a comparison: a sampler with its settings. Does not import TensorFlow."""

from dataclasses import dataclass, fields, replace
from typing import Any

from tfgradgen.core.checks import check_choice
from tfgradgen.core.config import KernelConfig
from tfgradgen.evaluation.report.figures import REGULARIZED, is_regularized
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler


@dataclass(frozen=True)
class MethodSpec:
    """A method of a comparison: a sampler with its settings."""

    name: str
    sampler: Sampler
    config: KernelConfig

    @property
    def about(self) -> str:
        """The settings, as one line."""
        return ", ".join(f"{name} {value}" for name, value in self.config.to_dict().items()) or "no settings"


def parse_method_spec(name: Any, class_reg: float) -> MethodSpec:
    """Return the method `mala` or `mala+reg`, with default settings; `class_reg` is the weight of the regularization."""
    known = [*SAMPLERS, *(f"{key}{REGULARIZED}" for key, sampler in SAMPLERS.items() if _takes_reg(sampler))]
    check_choice("kernels", name, known)
    sampler = SAMPLERS[name.removesuffix(REGULARIZED)]
    own = {"class_reg": class_reg} if is_regularized(name) else {}
    return MethodSpec(name, sampler, replace(sampler.defaults, **own))


def _takes_reg(sampler: Sampler) -> bool:
    return any(field.name == "class_reg" for field in fields(sampler.defaults))
