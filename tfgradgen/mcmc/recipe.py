"""The contents of `--schedule=FILE`: a kernel, its settings and its numbers of transitions, as a small YAML file.

    kernel: hmc
    step_size: 0.25
    target_accept_prob: 0.6
    num_leapfrog_steps: 3
    num_burnin_steps: 40
    num_adaptation_steps: 30

Keys are the names of the flags of `sample`. Keys that are left out have the kernel's default values.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from tfgradgen.core.checks import UserError, check_choice, did_you_mean, fail
from tfgradgen.core.config import REMOVED, KernelConfig, Schedule, changed_config
from tfgradgen.core.files import path_of
from tfgradgen.core.parsing import parsing, read_text
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.mcmc.sampler import Sampler, check_config

MAX_FILE = 1 << 16  # maximum bytes of a schedule, which usually has a few hundred
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"  # YAML's names of types


@dataclass(frozen=True)
class Recipe:
    """A kernel with its settings and its schedule.

    Attributes:
      kernel: A key of `SAMPLERS`.
      config: Settings of the kernel.
      schedule: Numbers of transitions.

    Raises:
      UserError: The kernel does not exist, or the settings are those of another kernel.
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
        """Return the recipe from the output of `to_dict`."""
        return default_recipe(values["kernel"]).changed({name: value for name, value in values.items() if name != "kernel"})

    def changed(self, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with `values`, settings and counts by name, replaced.

        If only the number of burn-in steps is given, the share of them that tunes the step size stays the same. Another
        adaptation scheme starts with its own defaults.
        """
        counts = self.schedule.to_dict()
        burnin = values.get("num_burnin_steps")
        if isinstance(burnin, int) and counts["num_burnin_steps"] and abs(burnin) < 2**53:  # other values are refused below
            share = counts["num_adaptation_steps"] / counts["num_burnin_steps"]
            counts["num_adaptation_steps"] = int(share * burnin)
        merged = counts | dict(values)
        schedule = Schedule(**{name: merged[name] for name in counts})
        return Recipe(self.kernel, changed_config(self.config, values), schedule)


def default_recipe(kernel: str) -> Recipe:
    """Return the recipe with the kernel's default settings and schedule."""
    return Recipe(kernel, SAMPLERS[kernel].defaults, SAMPLERS[kernel].schedule)


def settings_of(sampler: Sampler) -> tuple[str, ...]:
    """Return the names of all settings and counts of `sampler` that can be given."""
    own = tuple(sampler.defaults.to_dict())
    # A sampler without burn-in by default has neither adaptation steps nor draws to discard.
    counts = tuple(sampler.schedule.to_dict()) if sampler.schedule.num_burnin_steps else ("num_results",)
    if "target_accept_prob" not in own:
        counts = tuple(name for name in counts if name != "num_adaptation_steps")
    return (*own, *counts)


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read the schedule in a YAML file.

    Raises:
      UserError: The file is missing or not YAML, a key is unknown, or a value is out of its range. The message names the file.
    """
    path = path_of("path", path)
    with parsing(f"schedule {path}", "a YAML file", "write `name: value` lines"):
        values = read_yaml(read_text(path, MAX_FILE))
    if not isinstance(values, dict) or "kernel" not in values:
        got = "no kernel" if isinstance(values, dict) else type(values).__name__
        raise fail(f"schedule {path}", "`name: value` lines, one of them the kernel", got, "add for example `kernel: hmc`")
    kernel = check_choice(f"schedule {path}: kernel", values.pop("kernel"), SAMPLERS)
    known = settings_of(SAMPLERS[kernel])
    for name in values:
        if name not in known:
            listed = f"a setting of {kernel}: one of {', '.join(known)}"
            raise fail(f"schedule {path}", listed, name, REMOVED.get(name) or did_you_mean(name, known) or "leave it out")
    try:
        return default_recipe(kernel).changed(values)
    except UserError as error:
        raise UserError(f"schedule {path}: {error}") from error


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader of plain YAML values, without duplicate keys and without anchors.

    A few bytes of anchors can expand without bound. Numbers are those of YAML 1.2, as people write them: 1e-2 is a number, 010
    is ten, and 1:20 is text. In YAML 1.1 they are text, eight and eighty.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [(tag, form) for tag, form in forms if tag not in (INT, FLOAT)]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

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


_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$"), list("-+.0123456789")
)
_Loader.add_constructor(INT, lambda loader, node: int(loader.construct_scalar(node)))


def read_yaml(text: str) -> Any:
    """Parse YAML of plain values.

    Raises:
      ValueError: The text is not valid YAML; the message names the line. PyYAML may also raise other errors for a value that
        does not fit its tag.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"a syntax error{place}: {getattr(error, 'problem', None) or error}") from error


def recipe_text(recipe: Recipe, comment: str = "") -> str:
    """Return `recipe` in the format of `read_recipe`, with `comment` above it, line by line."""
    known = settings_of(SAMPLERS[recipe.kernel])
    values = {name: value for name, value in recipe.to_dict().items() if name == "kernel" or name in known}
    above = "".join(f"# {line}\n" for line in comment.splitlines())
    return above + str(yaml.safe_dump(values, sort_keys=False))
