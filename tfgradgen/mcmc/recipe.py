"""What `--schedule=FILE` holds: a kernel, its settings and how many transitions it makes, as a small YAML file.

    kernel: hmc
    step_size: 0.25
    target_accept_prob: 0.6
    num_leapfrog_steps: 3
    num_burnin_steps: 40
    num_adaptation_steps: 30

Keys are named as the flags of `sample`; what a file leaves out is as the kernel has it by default.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tfgradgen.core.checks import UserError, check_choice, did_you_mean, fail
from tfgradgen.core.config import REMOVED, KernelConfig, Schedule, changed_config
from tfgradgen.core.files import write_text
from tfgradgen.core.parsing import parsing, read_text
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler, check_config

MAX_FILE = 1 << 16  # bytes of a schedule, which has some hundreds


@dataclass(frozen=True)
class Recipe:
    """kernel: a key of `SAMPLERS`. config: its settings. schedule: its counts.

    Raises:
      UserError: there is no such kernel, or the settings are another's.
    """

    kernel: str
    config: KernelConfig
    schedule: Schedule

    def __post_init__(self) -> None:
        check_config(self.kernel, self.config, SAMPLERS[check_choice("kernel", self.kernel, SAMPLERS)].defaults)
        if not isinstance(self.schedule, Schedule):
            got = type(self.schedule).__name__
            raise fail("schedule", "a Schedule", got, "pass tfgradgen.Schedule(...)")

    def to_dict(self) -> dict[str, Any]:
        return {"kernel": self.kernel, **self.config.to_dict(), **self.schedule.to_dict()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """From what `to_dict` gives."""
        return default_recipe(values["kernel"]).changed({name: value for name, value in values.items() if name != "kernel"})

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """The same but for `values`, settings and counts by name.

        Tuning takes the share of the burn-in that it has here, where only the burn-in is given; another way to adapt begins
        with its own defaults.
        """
        counts = self.schedule.to_dict()
        burnin = values.get("num_burnin_steps")
        if isinstance(burnin, int) and counts["num_burnin_steps"] and abs(burnin) < 2**53:  # else refused below
            share = counts["num_adaptation_steps"] / counts["num_burnin_steps"]
            counts["num_adaptation_steps"] = int(share * burnin)
        merged = counts | dict(values)
        schedule = Schedule(**{name: merged[name] for name in counts})
        return Recipe(self.kernel, changed_config(self.config, values), schedule)


def default_recipe(kernel: str) -> Recipe:
    return Recipe(kernel, SAMPLERS[kernel].defaults, SAMPLERS[kernel].schedule)


def settings_of(sampler: Sampler) -> tuple[str, ...]:
    """The names of all that can be set of `sampler`."""
    own = tuple(sampler.defaults.to_dict())
    # A sampler that discards nothing by default has neither steps to tune nor draws to discard.
    counts = tuple(sampler.schedule.to_dict()) if sampler.schedule.num_burnin_steps else ("num_results",)
    if "target_accept_prob" not in own:
        counts = tuple(name for name in counts if name != "num_adaptation_steps")
    return (*own, *counts)


def read_recipe(path: Path) -> Recipe:
    """The schedule in a YAML file.

    Raises:
      UserError: no such file, no YAML, an unknown key or a value out of its range; the message names the file.
    """
    with parsing(f"schedule {path}", "a YAML file", "write `name: value` lines"):
        values = read_yaml(read_text(path, MAX_FILE))
    if not isinstance(values, dict) or "kernel" not in values:
        got = "no kernel" if isinstance(values, dict) else type(values).__name__
        raise fail(f"schedule {path}", "`name: value` lines, a kernel among them", got, "add for example `kernel: hmc`")
    kernel = check_choice(f"schedule {path}: kernel", values.pop("kernel"), SAMPLERS)
    known = settings_of(SAMPLERS[kernel])
    for name in values:
        if name not in known:
            listed = f"of {kernel} any of {', '.join(known)}"
            raise fail(f"schedule {path}", listed, name, REMOVED.get(name) or did_you_mean(name, known) or "leave it out")
    try:
        return default_recipe(kernel).changed(values)
    except UserError as error:
        raise UserError(f"schedule {path}: {error}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's plain values. No anchors, whose few bytes can stand for a tree without end, and no name twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What YAML of plain values says.

    Raises:
      ValueError: it is none, with the line. Whatever PyYAML makes of a value that does not fit to its tag.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"a fault{place}: {getattr(error, 'problem', None) or error}") from error


def write_recipe(path: Path, recipe: Recipe, comment: str = "") -> None:
    """Writes `recipe` as `read_recipe` reads it, whole or not at all; `comment` goes above it, line by line."""
    known = settings_of(SAMPLERS[recipe.kernel])
    values = {name: value for name, value in recipe.to_dict().items() if name == "kernel" or name in known}
    above = "".join(f"# {line}\n" for line in comment.splitlines())
    write_text(path, above + yaml.safe_dump(values, sort_keys=False))
