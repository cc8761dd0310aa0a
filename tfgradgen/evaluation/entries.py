"""The rows of a comparison: a method and the settings that it runs with. Imports no TensorFlow."""

from dataclasses import dataclass, fields, replace
from typing import Any

from tfgradgen.core.checks import check_choice
from tfgradgen.core.config import KernelConfig
from tfgradgen.evaluation.report.figures import REGULARIZED, is_regularized
from tfgradgen.mcmc.presets import PRESETS, Preset


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a method with the settings that it runs with."""

    name: str
    method: Preset
    config: KernelConfig

    @property
    def kind(self) -> str:
        return self.method.kind

    @property
    def about(self) -> str:
        """One line: the settings."""
        return ", ".join(f"{name} {value}" for name, value in self.config.to_dict().items()) or "no settings"


def parse_entry(name: Any, class_reg: float) -> Entry:
    """`mala` or `mala+reg` -> the method with its default settings; `class_reg` is the weight of the regularization."""
    known = [*PRESETS, *(f"{key}{REGULARIZED}" for key, m in PRESETS.items() if _takes_reg(m))]
    check_choice("kernels", name, known)
    method = PRESETS[name.removesuffix(REGULARIZED)]
    own = {"class_reg": class_reg} if is_regularized(name) else {}
    return Entry(name, method, replace(method.defaults, **own))


def _takes_reg(method: Preset) -> bool:
    return any(field.name == "class_reg" for field in fields(method.defaults))
