"""The kernel that `sample` runs for each label: the named one, or the choice of --kernel=auto."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tfgradgen.cli.groups import Member, member_of
from tfgradgen.cli.load import Loaded, choose_backend
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.terminal import say
from tfgradgen.core.text import as_text
from tfgradgen.mcmc.auto import CHOICES, Choice, choose
from tfgradgen.models.targets import Target
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.record import AUTO

MOST_NAMED = 3  # most labels named in the line about the choice


class Part(NamedTuple):
    """The labels that run with one kernel.

    Attributes:
      options: Options of the command, with that kernel.
      members: At least one label.
    """

    options: SampleOptions
    members: list[Member]


def parts_of(options: SampleOptions, loaded: Loaded, targets: Sequence[Target], folders: Sequence[Path]) -> list[Part]:
    """Return `targets`, grouped by the kernel that they run.

    Args:
      options: Options of the command.
      loaded: The models.
      targets: At least one target.
      folders: The folder of each target.
    """
    if options.auto is None:
        options = choose_backend(options, loaded, targets[0])
        return [Part(options, [member_of(options, loaded, *each, targets) for each in zip(targets, folders, strict=True)])]
    options = replace(options, run=choose_backend(options.chosen(CHOICES[0][0]), loaded, targets[0]).run)
    choices = [_choice(options, loaded, target) for target in targets]
    parts = []
    for kernel in dict.fromkeys(choice.kernel for choice in choices):
        places = [k for k, choice in enumerate(choices) if choice.kernel == kernel]
        own = choose_backend(options.chosen(kernel), loaded, targets[places[0]])
        members = [member_of(own, loaded, targets[k], folders[k], targets) for k in places]
        pairs = zip(places, members, strict=True)
        parts.append(Part(own, [replace(each, planned=each.planned | {AUTO: choices[k].stats}) for k, each in pairs]))
        say(choice_text([targets[k].label.name for k in places], [choices[k] for k in places]))
    return parts


def _choice(options: SampleOptions, loaded: Loaded, target: Target) -> Choice:
    return choose(ClassPosterior.of(loaded.networks(target), target.index, options.run.temperature), options.run)


def choice_text(names: Sequence[str], choices: Sequence[Choice]) -> str:
    """Return the line that says which kernel was chosen for these labels, and why.

    Args:
      names: Names of the labels.
      choices: The choice for each label; all have the same kernel.
    """
    shares = [f"{as_text(name)} ({choice.text} of the prior)" for name, choice in zip(names, choices, strict=True)]
    if len(names) > MOST_NAMED:
        least, most = (fn(choices, key=lambda choice: choice.mass) for fn in (min, max))
        shares = [f"{len(names)} labels ({least.text} to {most.text} of the prior)"]
    return f"chose    {choices[0].kernel} for {', '.join(shares)}: {choices[0].why}"
