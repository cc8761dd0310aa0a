"""Grouping of the labels of a command into runs: as one batch of chains, or each by itself."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfgradgen.cli.load import Loaded
from tfgradgen.cli.options import SampleOptions
from tfgradgen.cli.surroundings import plan_of
from tfgradgen.core.checks import UserError, fail
from tfgradgen.core.config import RunConfig
from tfgradgen.core.contracts import Networks
from tfgradgen.core.parsing import parsing, read_json, whole_number
from tfgradgen.core.text import as_text, counted
from tfgradgen.io.folders import RECORD, has_checkpoint, partial_path
from tfgradgen.io.store import check_same, read_checkpoint
from tfgradgen.mcmc.registry import SAMPLERS
from tfgradgen.models.targets import Target
from tfgradgen.posterior import ClassPosterior
from tfgradgen.results.files import checked_record
from tfgradgen.results.record import ALONE, AUTO, BATCH, identity

MAX_CHAINS = 512  # most chains in a batch of several labels: about 2 GB for the shipped models


@dataclass(frozen=True, eq=False)
class Member:
    """One label of a command.

    Attributes:
      target: What is sampled.
      networks_fn: Function that returns the networks that its run evaluates.
      folder: The folder of its run.
      planned: The part of its record that is known before the run.
    """

    target: Target
    networks_fn: Callable[[], Networks]
    folder: Path
    planned: dict[str, Any]

    @property
    def index(self) -> int:
        return self.target.index

    @property
    def name(self) -> str:
        return self.target.label.name


@dataclass(frozen=True, eq=False)
class Group:
    """Labels whose chains run as one batch, or one label by itself.

    Attributes:
      members: At least one label.
      place: `partial_path(place)` holds the unfinished run until all folders are written.
      count: Which of several groups it is, such as ' (3 of 20)'.
    """

    members: tuple[Member, ...]
    place: Path
    count: str = ""

    @property
    def is_batch(self) -> bool:
        return len(self.members) > 1

    @property
    def title(self) -> str:
        return f"{len(self.members)} labels" if self.is_batch else self.members[0].name

    @property
    def out(self) -> Path:
        """The folder that holds all results."""
        return self.place.parent if self.is_batch else self.place

    @property
    def label(self) -> dict[str, list[Any]]:
        """Index, name and WordNet id of each label, in the order of the chains."""
        labels = [member.planned["label"] for member in self.members]
        return {name: [label[name] for label in labels] for name in ("index", "name", "wnid")}

    @property
    def planned(self) -> dict[str, Any]:
        """The part of its record that is known before the run and determines the bits of the draws (`identity`)."""
        first = self.members[0].planned
        return first | {"label": self.label} if self.is_batch else first

    def planned_of(self, member: Member) -> dict[str, Any]:
        """Return the part of a member's record that is known before the run."""
        if not self.is_batch:
            return member.planned
        return {name: value for name, value in member.planned.items() if name != ALONE} | {BATCH: self.label}

    def run_of(self, run: RunConfig) -> RunConfig:
        """Return `run`, whose num_chains is that of one label, with the chains of all labels."""
        return replace(run, num_chains=run.num_chains * len(self.members))

    @functools.cached_property
    def networks(self) -> Networks:
        return self.members[0].networks_fn()

    def posterior(self, run: RunConfig) -> ClassPosterior:
        """Return the posterior of all chains; the num_chains of `run` is that of one label."""
        return batch_posterior(self.networks, [member.index for member in self.members], run)

    def posterior_of(self, member: Member, run: RunConfig) -> ClassPosterior:
        """Return the posterior of one member."""
        return batch_posterior(self.networks, [member.index], run)


def batch_posterior(networks: Networks, indices: Sequence[int], run: RunConfig) -> ClassPosterior:
    """Return the posterior of the labels `indices`, each of run.num_chains chains: of one label, or with a label per chain."""
    label = indices[0] if len(indices) == 1 else np.repeat(indices, run.num_chains)
    return ClassPosterior.of(networks, label, run.temperature)


def member_of(options: SampleOptions, loaded: Loaded, target: Target, folder: Path, targets: Sequence[Target]) -> Member:
    """Return `target`, one of the `targets` of the command, as a member of a group that writes `folder`."""
    return Member(target, functools.partial(loaded.networks, target), folder, plan_of(options, loaded, target, targets))


def under_way(options: SampleOptions, members: Sequence[Member], place: Path) -> Group | None:
    """Return the interrupted batch to resume; None if there is none, or if it is to be replaced.

    Args:
      options: Options of the command.
      members: All labels with this kernel.
      place: The place of the batch (see `Group`).

    Raises:
      UserError: The batch is damaged or has labels that are not among `members`, and --overwrite is not given.
    """
    chose_it = any(AUTO in member.planned for member in members)  # the batch may then belong to other labels of the command
    if not options.resume or not has_checkpoint(place) or (chose_it and not SAMPLERS[options.kernel].is_batched):
        return None
    try:
        label = read_checkpoint(partial_path(place)).identity.get("label")
        return _same_again(label, members, place, partial_path(place))
    except UserError:
        if not options.overwrite:
            raise
        return None


def _same_again(label: Any, members: Sequence[Member], place: Path, where: Path, own: int | None = None) -> Group:
    """Return the batch of the labels that `label` lists.

    Args:
      label: A `Group.label`, read from a file.
      members: Labels of the command.
      place: The place of the batch (see `Group`).
      where: Folder of the run to resume, for errors.
      own: Index of a label that must be in the batch; None for no such label.

    Raises:
      UserError: `label` is invalid, or a label is not among `members`.
    """
    with parsing("resume", f"a batch of labels in {as_text(where)}", "start over with --overwrite"):
        indices, names = [whole_number(index) for index in label["index"]], ",".join(map(str, label["name"]))
        if len({*indices}) < max(len(indices), 2) or own not in (None, *indices):
            raise ValueError("other labels")
    by_index = {member.index: member for member in members if member.target.is_class}  # a condition is in no batch
    if any(index not in by_index for index in indices):
        asked = ",".join(member.name for member in members)
        remedy = f"give --label={','.join(map(str, indices))}, or start over with --overwrite"
        raise fail("resume", f"the labels that ran as one batch, as in {where}: {names}", asked, remedy)
    return Group(tuple(by_index[index] for index in indices), place)


def record_of_shorter(planned: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """Return the record of the finished run in `folder` if the planned run is the same with more draws; otherwise None."""
    if not (folder / RECORD).exists():
        return None
    try:
        with parsing("resume", "a run", "choose another --out"):
            record = checked_record(read_json(folder / RECORD))
        check_same(identity(planned), identity(record), folder)
    except UserError:
        return None
    num_results = record["arguments"]["schedule"]["num_results"]
    return record if num_results < planned["arguments"]["schedule"]["num_results"] else None


def groups_of(options: SampleOptions, members: Sequence[Member], left: Sequence[Member], place: Path) -> list[Group]:
    """Return the groups in which the unfinished labels run.

    A label that was started by itself continues by itself. A batch is extended as the same batch. The other labels run in as
    few batches as `MAX_CHAINS` allows.

    Args:
      options: Options of the command.
      members: All labels with this kernel.
      left: Those that are neither finished nor in an interrupted batch.
      place: The place of a batch (see `Group`).

    Raises:
      UserError: A label ran in a batch with labels that are not among `members`, and --overwrite is not given.
    """
    groups: list[Group] = []
    fresh: list[Member] = []
    for member in left:
        if any(member in group.members for group in groups):
            continue
        shorter = record_of_shorter(member.planned, member.folder) if options.resume else None
        if options.resume and has_checkpoint(member.folder):
            groups.append(Group((member,), member.folder))
        elif shorter is None:
            fresh.append(member)
        elif BATCH not in shorter:
            groups.append(Group((member,), member.folder))
        else:
            try:
                groups.append(_same_again(shorter[BATCH], members, place, member.folder, member.index))
            except UserError:
                if not options.overwrite:
                    raise
                fresh.append(member)
    return groups + [Group(batch, place if len(batch) > 1 else batch[0].folder) for batch in _batches(options, fresh)]


def split_text(groups: Sequence[Group]) -> str:
    """Return the line that says into how many runs the labels are divided."""
    num_labels = sum(len(group.members) for group in groups)
    return (
        f"batches  {counted(num_labels, 'label')} in {counted(len(groups), 'run')}, a batch of at most {MAX_CHAINS} chains each"
    )


def _batches(options: SampleOptions, members: Sequence[Member]) -> list[tuple[Member, ...]]:
    """Divide `members` into batches that share their networks, in order."""
    is_batched = SAMPLERS[options.kernel].is_batched and options.block is None
    most = max(1, MAX_CHAINS // options.run.num_chains) if is_batched else 1
    found: list[list[Member]] = []
    for member in members:
        if found and len(found[-1]) < most and found[-1][0].networks_fn() == member.networks_fn():
            found[-1].append(member)
        else:
            found.append([member])
    return [tuple(batch) for batch in found]
