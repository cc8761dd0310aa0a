"""The part of a run's record that follows from the flags."""

from collections.abc import Sequence
from typing import Any

from tfgradgen.cli.load import Loaded
from tfgradgen.cli.options import SampleOptions
from tfgradgen.core.contracts import Jit
from tfgradgen.models.targets import Target
from tfgradgen.results.origin import environment, plan
from tfgradgen.results.record import ALONE, PROJECTION


def plan_of(options: SampleOptions, loaded: Loaded, target: Target, targets: Sequence[Target]) -> dict[str, Any]:
    """Return the part of run.json that is known before the run of `target`, one of the `targets` of the command."""
    label = {"index": target.index, "name": target.label.name, "wnid": target.label.wnid}
    models = {"generator": loaded.generator, "classifier": target.classifier}
    models |= {"discriminator": loaded.discriminator} if loaded.discriminator else {}
    found: dict[str, Any] = {PROJECTION: options.projection} if options.projection else {}
    found |= {ALONE: target.alone} if len(targets) > 1 else {}
    planned = plan(label, options.kernel, options.run, options.to_dict(), models)
    return planned | environment_at(loaded, options.run.jit) | found


def environment_at(loaded: Loaded, jit: Jit) -> dict[str, Any]:
    """Return versions and device (`results.origin.environment`) of where `loaded` models run: this process, or workers."""
    found: dict[str, Any] = loaded.remote.environment(jit) if loaded.remote else environment(jit)
    return found
